"""Tensors of the largest layers moved apart, where whole layers do not fit though their sum does.

llama.cpp takes this as `--override-tensor`; micro-batches then no longer overlap.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from app.gguf.model import TensorInfo
from app.plan import memory, placement, planner
from app.plan.model import DevicePlan, HostPlan, LoadPlan, TensorOverride, Verdict
from app.plan.rules import CPU, rules
from app.plan.shapes import F32

LARGEST_LAYERS = 4
MOST_MOVED = 4
HOST = -1
_MOVABLE = ("ffn_down", "ffn_up", "ffn_gate")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    layer: int
    info: TensorInfo

    @property
    def sort(self) -> str:
        return self.info.name.split(".")[2]


def rescued(made: planner.Planner, context: int) -> LoadPlan | None:
    """A plan with all layers on devices and as few bytes as possible moved apart, or None.

    Tensors go to other devices first; to main memory only if they have no room.
    """
    if len(made.devices) < 1 or made.layout.block_count == 0:
        return None
    for to_host in (False, True):
        for chosen in _choices(made):
            plan = _attempt(made, context, chosen, to_host=to_host)
            if plan is not None:
                return plan
    return None


def _choices(made: planner.Planner) -> Iterator[tuple[_Tensor, ...]]:
    """Sets of tensors of the largest layers, the smallest sets first."""
    layers = sorted(made.layout.layers, key=lambda layer: layer.size_bytes, reverse=True)
    tensors = [
        _Tensor(layer=layer.index, info=tensor)
        for layer in layers[:LARGEST_LAYERS]
        for tensor in layer.tensors
        if tensor.name.split(".")[2].startswith(_MOVABLE) and len(tensor.shape) > 1
    ]
    sets = itertools.chain.from_iterable(
        itertools.combinations(tensors, count) for count in range(1, MOST_MOVED + 1)
    )
    usable = (chosen for chosen in sets if len({tensor.layer for tensor in chosen}) <= 2)
    yield from sorted(usable, key=lambda chosen: sum(t.info.size_bytes for t in chosen))


def _attempt(
    made: planner.Planner, context: int, chosen: tuple[_Tensor, ...], *, to_host: bool
) -> LoadPlan | None:
    """The plan with these tensors apart, or None if it does not fit."""
    total = made.total_layers
    table = made.table(context, pipelined=False)
    held = [made.held(index, context) for index in range(len(made.devices))]
    kinds = [rules(device.backend) for device in made.devices]

    def cost(device: int, first: int, end: int) -> int:
        moved = sum(
            memory.tensor_bytes(t.info, kinds[device]) for t in chosen if first <= t.layer < end
        )
        return held[device](first, end) - moved + table(first, end)

    budgets = [d.free_bytes - r for d, r in zip(made.devices, made.reserves, strict=True)]
    counts = placement.balanced(total, 0, budgets, cost)
    order: Sequence[int] = range(len(budgets))
    alike = len(set(kinds)) == 1
    if counts is None and made.request.any_order and alike and len(set(budgets)) > 1:
        found = placement.balanced_any_order(total, 0, budgets, cost)
        if found is not None:
            order, counts = found
    if counts is None:
        return None
    targets = _targets(made, context, (order, counts), chosen, to_host=to_host)
    if targets is None:
        return None
    plan = made.build(context, (order, counts), exact=True, overrides=targets)
    return plan if plan.verdict in (Verdict.FITS, Verdict.PARTLY) and plan.fits else None


def _targets(
    made: planner.Planner,
    context: int,
    split: planner.Split,
    chosen: tuple[_Tensor, ...],
    *,
    to_host: bool,
) -> list[tuple[TensorOverride, int, int]] | None:
    """Where each tensor goes: to the device with most room, other than its layer's own."""
    plain = made.build(context, split, exact=False)
    owner: dict[int, int] = {}
    room: dict[int, int] = {}
    for index, share in zip(split[0], plain.devices, strict=True):
        room[index] = share.left_bytes
        if share.first_layer is not None and share.last_layer is not None:
            owner |= dict.fromkeys(range(share.first_layer, share.last_layer + 1), index)
    for tensor in chosen:
        room[owner[tensor.layer]] += tensor.info.size_bytes
    result = []
    for tensor in sorted(chosen, key=lambda t: t.info.size_bytes, reverse=True):
        needed = tensor.info.size_bytes + _working_bytes(made, context, (tensor,))
        others = [index for index in room if index != owner[tensor.layer] and room[index] >= needed]
        if others:
            index = max(others, key=lambda i: room[i])
            room[index] -= tensor.info.size_bytes
            name = made.devices[index].engine_name
        elif to_host:
            index, name = HOST, "CPU"
        else:
            return None
        override = TensorOverride(
            tensor=tensor.info.name, device=name, size_bytes=tensor.info.size_bytes
        )
        result.append((override, tensor.layer, index))
    return result


def _working_bytes(made: planner.Planner, context: int, tensors: Sequence[_Tensor]) -> int:
    """What a place needs to compute with tensors of one layer that lie there, at most.

    Of the feed-forward network it holds input and result, and as many wide activations as it
    computes, is handed and hands on.
    """
    work = made.work(context)
    used = max(1, made.shapes.number("expert_used_count"))
    widths = [
        t.info.shape[0 if t.sort.startswith("ffn_down") else 1] * (used if "exps" in t.sort else 1)
        for t in tensors
    ]
    halves = sum(1 for t in tensors if not t.sort.startswith("ffn_down"))
    wide = 2 if not halves else 2 + halves
    narrow = 2 * made.layout.embedding_length * used
    return (wide * max(widths, default=0) + narrow) * work.tokens * F32


def _handed_bytes(
    made: planner.Planner,
    context: int,
    share: DevicePlan,
    overrides: Sequence[tuple[TensorOverride, int, int]],
) -> int:
    """Copies of activations that go out to moved tensors and come back."""
    first, last = share.first_layer, share.last_layer
    tokens = made.work(context).tokens
    used = max(1, made.shapes.number("expert_used_count"))
    by_name = {t.name: t for layer in made.layout.layers for t in layer.tensors}
    widest = 0
    for override, layer, _ in overrides:
        if first is not None and last is not None and first <= layer <= last:
            info = by_name[override.tensor]
            widest = max(widest, info.shape[1] * (used if "exps" in info.name else 1))
    return (3 * made.layout.embedding_length * used + widest) * tokens * F32


def moved(
    made: planner.Planner,
    context: int,
    order: Sequence[int],
    shares: list[DevicePlan],
    host: HostPlan,
    overrides: Sequence[tuple[TensorOverride, int, int]],
) -> tuple[list[DevicePlan], HostPlan]:
    """Shares with the tensors taken from their layers' devices and put where they go."""
    by_name = {t.name: t for layer in made.layout.layers for t in layer.tensors}
    result = []
    for index, share in zip(order, shares, strict=True):
        kind = rules(share.device.backend)
        weights, compute = share.weights_bytes, share.compute_bytes
        here: dict[int, list[_Tensor]] = {}
        for override, layer, target in overrides:
            info = by_name[override.tensor]
            first, last = share.first_layer, share.last_layer
            if first is not None and last is not None and first <= layer <= last:
                weights -= memory.tensor_bytes(info, kind)
            if target == index:
                weights += memory.tensor_bytes(info, kind)
                here.setdefault(layer, []).append(_Tensor(layer=layer, info=info))
        # What is handed from device to device and back lies there beside the rest.
        if compute:
            compute += _handed_bytes(made, context, share, overrides)
        inputs = sum(made.table(context, pipelined=False).exact.shared().values())
        for tensors in here.values():
            compute = max(compute, inputs + _working_bytes(made, context, tensors))
        result.append(dataclasses.replace(share, weights_bytes=weights, compute_bytes=compute))
    on_host = [
        _Tensor(layer=layer, info=by_name[o.tensor])
        for o, layer, target in overrides
        if target == HOST
    ]
    if on_host:
        host = dataclasses.replace(
            host,
            weights_bytes=host.weights_bytes
            + sum(memory.tensor_bytes(t.info, CPU) for t in on_host),
            compute_bytes=host.compute_bytes + _working_bytes(made, context, on_host),
        )
    return result, host
