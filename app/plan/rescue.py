"""Tensors of the largest layers moved apart, where whole layers do not fit.

If all fits then, on devices; otherwise so that as few bytes as possible stay in main memory. llama.cpp
takes this as `--override-tensor`; micro-batches then no longer overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from app.gguf.model import TensorInfo
from app.plan import memory, placement
from app.plan.model import LoadPlan, TensorOverride
from app.plan.moved import HOST, Moved
from app.plan.problem import Problem
from app.plan.rules import CPU, rules
from app.plan.search import Split
from app.plan.shapes import F32

LARGEST_LAYERS = 4
MOST_MOVED = 3
"""Tensors moved to other devices."""
MOST_PLACEMENTS = 2_000
"""Placements that are looked at before the search gives up."""
MOST_CHECKED = 12
"""Candidates whose exact figures are worked out."""
_MOVABLE = tuple(
    f"ffn_{part}{ending}.weight"
    for part in ("down", "up", "gate")
    for ending in ("", "_exps", "_shexp")
)

Target = tuple[int, TensorInfo, int]
"""A layer, its tensor, and the device (index) that it goes to, or HOST."""


def rescued(made: Problem, context: int) -> LoadPlan | None:
    """A plan with all layers on devices and as few bytes as possible moved to others, or None."""
    if len(made.devices) < 2 or not made.layout.block_count:
        return None
    total = sum(made.held(0, context)(layer, layer + 1) for layer in range(made.total_layers))
    if total > sum(made.budgets):
        return None
    checked = 0
    for targets in itertools.islice(_to_devices(made), MOST_PLACEMENTS):
        search = _Search(made, context, targets)
        split = search.split(made.total_layers)
        if split is None:
            continue
        plan = made.build(context, split, exact=True, overrides=search.moved())
        if plan.runs:
            return plan
        checked += 1
        if checked == MOST_CHECKED:
            break
    return None


def best_partial(made: Problem, context: int, plain: LoadPlan) -> LoadPlan:
    """The plan that leaves least in main memory: `plain`, or one with tensors of large layers there."""
    least = plain.host.weights_bytes + plain.host.kv_cache_bytes
    base = memory.tensors_bytes(made.layout.token_embedding, CPU)
    found: list[tuple[int, _Search, Split]] = []
    for targets in _to_host(made):
        moved = base + sum(memory.tensor_bytes(tensor, CPU) for _, tensor, _ in targets)
        if moved >= least:
            continue
        search = _Search(made, context, targets)
        split = search.most()
        if split is None:
            continue
        layers = made.total_layers - sum(split[1])
        left = moved + made.on_host(context, layers) - search.twice(layers)
        if left < least:
            found.append((left, search, split))
            least = left
    for _, search, split in sorted(found, key=lambda each: each[0])[:MOST_CHECKED]:
        plan = made.build(context, split, exact=True, overrides=search.moved(split))
        if all(share.left_bytes >= 0 for share in plan.devices if share.used):
            return plan
    return plain


def _movable(made: Problem) -> list[list[tuple[int, TensorInfo]]]:
    """Feed-forward matrices of each of the largest layers."""
    layers = sorted(made.layout.layers, key=lambda layer: layer.size_bytes, reverse=True)
    return [
        [
            (layer.index, tensor)
            for tensor in layer.tensors
            if tensor.name.split(".", 2)[2] in _MOVABLE and tensor.name not in made.barred
        ]
        for layer in layers[:LARGEST_LAYERS]
    ]


def _to_devices(made: Problem) -> Iterator[tuple[Target, ...]]:
    """Sets of tensors of one or two layers with where each goes, the fewest bytes first."""
    tensors = [pair for layer in _movable(made) for pair in layer]
    sets = itertools.chain.from_iterable(
        itertools.combinations(tensors, count) for count in range(1, MOST_MOVED + 1)
    )
    usable = (chosen for chosen in sets if len({layer for layer, _ in chosen}) <= 2)
    devices = range(len(made.devices))
    for chosen in sorted(usable, key=lambda chosen: sum(t.size_bytes for _, t in chosen)):
        ways: Iterable[tuple[int, ...]] = ((device,) * len(chosen) for device in devices)
        if len(chosen) == 2:
            ways = itertools.chain(ways, itertools.permutations(devices, 2))
        for way in ways:
            yield tuple((*pair, device) for pair, device in zip(chosen, way, strict=True))


def _to_host(made: Problem) -> list[tuple[Target, ...]]:
    """Sets of tensors that main memory could take, the fewest bytes first."""
    choices: list[list[tuple[tuple[int, TensorInfo], ...]]] = []
    for tensors in _movable(made):
        down = tuple(pair for pair in tensors if "ffn_down" in pair[1].name)
        rest = tuple(pair for pair in tensors if pair not in down)
        choices.append([(), down, rest, (*down, *rest)])
    sets = (tuple(itertools.chain.from_iterable(parts)) for parts in itertools.product(*choices))
    found = {
        tuple((layer, tensor, HOST) for layer, tensor in chosen): None for chosen in sets if chosen
    }
    return sorted(found, key=lambda targets: sum(tensor.size_bytes for _, tensor, _ in targets))


class _Search:
    """Splits for certain tensors apart, with quick figures that are hardly ever too small."""

    def __init__(self, made: Problem, context: int, targets: Sequence[Target]) -> None:
        self._made, self._context, self._targets = made, context, targets
        self._table = made.table(context, pipelined=False)
        self._held = [made.held(index, context) for index in range(len(made.devices))]
        self._tokens = made.work(context).tokens
        used = max(1, made.shapes.number("expert_used_count"))
        self._narrow = made.layout.embedding_length * self._tokens * F32 * used
        self._wide = [
            tensor.shape[0 if "ffn_down" in tensor.name else 1]
            * (used if "exps" in tensor.name else 1)
            for _, tensor, _ in targets
        ]
        kinds = [rules(device.backend) for device in made.devices]
        self._sizes = [[memory.tensor_bytes(t, kind) for _, t, _ in targets] for kind in kinds]
        self._working = [self._working_bytes(index) for index in range(len(kinds))]

    def _working_bytes(self, device: int) -> int:
        """What a device needs to compute with the tensors that lie there, at most.

        Of a gate or its twin it has both results and their product, of what comes down one side.
        """
        most = 0
        for (_, tensor, target), width in zip(self._targets, self._wide, strict=True):
            if target == device:
                sides = 1 if "ffn_down" in tensor.name else 3
                most = max(most, sides * width * self._tokens * F32 + 3 * self._narrow)
        return most

    def _cost(self, device: int, first: int, end: int) -> int:
        if end <= first and not self._working[device]:
            return 0
        total = self._held[device](first, end)
        for (layer, _, target), size in zip(self._targets, self._sizes[device], strict=True):
            if first <= layer < end:
                total += 3 * self._narrow - size
            if target == device:
                total += size
        compute = self._table(first, end)
        if self._working[device]:
            beside = self._table.all_inputs if end > first else 0
            compute = max(compute, beside + self._working[device])
        return total + compute

    def split(self, layers: int) -> Split | None:
        """The best split of the last `layers`; in the devices' order, or in another where that may be."""
        made, total = self._made, self._made.total_layers
        for order in made.orders():
            budgets = [made.budgets[index] for index in order]

            def cost(place: int, first: int, end: int, order: Sequence[int] = order) -> int:
                return self._cost(order[place], first, end)

            if placement.fits(total, total - layers, budgets, cost):
                counts = placement.balanced(total, total - layers, budgets, cost)
                if counts is not None:
                    return order, counts
        return None

    def most(self) -> Split | None:
        """The split with most layers on devices."""
        return placement.last_found(0, self._made.total_layers + 1, self.split)

    def twice(self, layers: int) -> int:
        """Bytes of tensors that lie in main memory with the first `layers` anyway."""
        return sum(memory.tensor_bytes(t, CPU) for layer, t, _ in self._targets if layer < layers)

    def moved(self, split: Split | None = None) -> tuple[Moved, ...]:
        """The tensors apart, but for those of layers that stay in main memory."""
        made = self._made
        start = 0 if split is None else made.total_layers - sum(split[1])
        return tuple(
            Moved(
                layer=layer,
                tensor=tensor,
                target=target,
                override=TensorOverride(
                    tensor=tensor.name,
                    device="CPU" if target == HOST else made.devices[target].engine_name,
                    size_bytes=tensor.size_bytes,
                ),
            )
            for layer, tensor, target in self._targets
            if layer >= start
        )
