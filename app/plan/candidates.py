"""Plans that are worth measuring against each other, the one in force first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from app.errors import AppError
from app.gguf.model import ModelLayout
from app.plan.model import (
    FlashAttention,
    LoadPlan,
    Objective,
    PlanDevice,
    PlanHost,
    PlanRequest,
)
from app.plan.planner import make_plan
from app.plan.shapes import Shapes

MOST = 4
"""Each costs a load, which takes minutes where a model is large."""
MICRO_BATCH = 1024
"""Larger than usual: GPUs read long prompts faster so, where there is room for the compute buffers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan that fits, and in a few words what is different about it."""

    plan: LoadPlan
    words: str


def candidates(
    layout: ModelLayout,
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    *,
    most: int = MOST,
) -> tuple[Candidate, ...]:
    """The plan for `request`, then up to `most - 1` others with the same context and KV cache.

    All of them fit as well as it does, and no two are the same. A micro-batch or a choice of flash
    attention that a person made stays.

    Raises:
        AppError: What was fixed by hand contradicts the model.
    """
    shapes = Shapes(layout)
    first = make_plan(layout, request, devices, host, limits=False, shapes=shapes)
    found = [Candidate(plan=first, words="as planned now")]
    if not first.runs:
        return tuple(found)
    seen = {_identity(first)}
    free = dataclasses.replace(request, context=first.context, force=False)
    for words, changed, order in _variants(free, devices, first):
        if len(found) == most:
            break
        try:
            plan = make_plan(layout, changed, order, host, limits=False, shapes=shapes)
        except AppError:
            continue  # such a request contradicts the model
        if plan.runs and plan.verdict is first.verdict and _identity(plan) not in seen:
            seen.add(_identity(plan))
            found.append(Candidate(plan=plan, words=words))
    return tuple(found)


def _variants(
    request: PlanRequest, devices: Sequence[PlanDevice], first: LoadPlan
) -> Iterator[tuple[str, PlanRequest, Sequence[PlanDevice]]]:
    """Other requests and orders of devices, those first that are the most likely to be faster."""
    default = PlanRequest()
    automatic = _with(
        request,
        layer_counts=None,
        gpu_layers=None,
        any_order=True,
        tensor_parallel=False,
        objective=Objective.BALANCED,
    )
    several = len(devices) > 1
    if several:
        yield "fastest by bandwidth", _with(automatic, objective=Objective.FASTEST), devices
        yield "fewest devices", _with(automatic, objective=Objective.FEWEST), devices
        yield "balanced", automatic, devices
    # What a split fixes must hold while the rest is varied.
    order = [share.device for share in first.devices]
    apart = bool(first.tensor_overrides) or request.tensor_parallel
    counts = first.tensor_split if several and first.gpu_layers and not apart else None
    fixed = _with(request, any_order=False, layer_counts=counts)
    usual = request.micro_batch == default.micro_batch and first.gpu_layers > first.block_count
    if usual and first.context >= 2 * MICRO_BATCH:
        changed = _with(fixed, micro_batch=MICRO_BATCH, batch=max(request.batch, MICRO_BATCH))
        yield f"micro-batch {MICRO_BATCH:,}", changed, order
    if several and _unlike(devices):
        backwards = _with(automatic, any_order=False)
        yield "devices in reverse", backwards, order[::-1]
    chosen = request.flash_attention is not FlashAttention.AUTO or request.tensor_parallel
    if not chosen and not request.kv_type_v.quantized:
        other = FlashAttention.OFF
        if first.request.flash_attention is FlashAttention.OFF:
            other = FlashAttention.ON
        yield f"flash attention {other}", _with(fixed, flash_attention=other), order


def _with(request: PlanRequest, **changes: object) -> PlanRequest:
    return dataclasses.replace(request, **changes)  # type: ignore[arg-type]


def _unlike(devices: Sequence[PlanDevice]) -> bool:
    """True if another order can make a difference; what stands behind RPC nobody knows."""
    kinds = {(device.name, device.backend, device.total_bytes) for device in devices}
    return len(kinds) > 1 or any(device.backend == "rpc" for device in devices)


def _identity(plan: LoadPlan) -> tuple[object, ...]:
    """What would make two loads differ."""
    placed = tuple((s.device.id, s.layer_count) for s in plan.devices if s.used)
    request = plan.request
    flash_attention = request.flash_attention is not FlashAttention.OFF
    kind = (request.micro_batch, flash_attention, request.tensor_parallel)
    return placed, kind, plan.tensor_overrides
