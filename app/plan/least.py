"""The least hardware that holds a model: of each GPU of the table, how many it takes."""

from __future__ import annotations

import dataclasses

from app.gguf.model import ModelLayout
from app.hardware import gpu_table
from app.hardware.gpu_table import Gpu
from app.plan import speed
from app.plan.devices import imagined_device
from app.plan.model import LoadPlan, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.units import GIB

MOST_CARDS = 8
NOTE = (
    "Machines of one sort of GPU, up to 8, with 64 GiB of main memory, sorted by memory. Only a split "
    "by layers is planned; check a mixed machine with `plan --gpus`. AMD and Intel GPUs are used through Vulkan, "
    "which holds no tensor over 4 GiB."
)
_HOST = PlanHost(total_bytes=64 * GIB, available_bytes=64 * GIB)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Some equal GPUs that hold a model.

    Attributes:
        memory_bytes: Of all of them together.
        left_bytes: On the fullest.
        likely_low: Tokens/s with the context full, None if unknown.
        likely_high: The same, at the upper end.
    """

    gpu: str
    count: int
    memory_bytes: int
    left_bytes: int
    tensor_split: tuple[int, ...]
    likely_low: float | None
    likely_high: float | None


def machines(layout: ModelLayout, request: PlanRequest) -> tuple[Machine, ...]:
    """For each GPU the fewest that hold the model with `request`, the least memory first."""
    found = (_fewest(layout, request, gpu) for gpu in gpu_table.known())
    rows = [row for row in found if row is not None]
    return tuple(sorted(rows, key=lambda row: (row.memory_bytes, row.count)))


def most_of(gpu: Gpu) -> int:
    """How many of it one machine can have; unified memory is that of the whole machine."""
    return 1 if "unified" in gpu.link else MOST_CARDS


def _fewest(layout: ModelLayout, request: PlanRequest, gpu: Gpu) -> Machine | None:
    # Fewer than their plain sum cannot hold it.
    least = max(1, -(-layout.size_bytes * 9 // 10 // gpu.memory_bytes))
    for count in range(least, most_of(gpu) + 1):
        devices = tuple(imagined_device(gpu, number) for number in range(count))
        plan = make_plan(layout, request, devices, _HOST, limits=False)
        if plan.verdict is Verdict.FITS:
            return _machine(layout, plan, gpu, count)
    return None


def _machine(layout: ModelLayout, plan: LoadPlan, gpu: Gpu, count: int) -> Machine:
    rate = speed.estimate(plan, layout).generation
    return Machine(
        gpu=gpu.name,
        count=count,
        memory_bytes=count * gpu.memory_bytes,
        left_bytes=min(share.left_bytes for share in plan.devices if share.layer_count),
        tensor_split=plan.tensor_split,
        likely_low=rate.likely_low if rate else None,
        likely_high=rate.likely_high if rate else None,
    )
