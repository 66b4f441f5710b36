"""Machines and plans of the flagship that tests think of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from app.gguf import bundled
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.units import GIB

ULTRA = "nemotron-ultra-253b"
HOST = PlanHost(total_bytes=64 * GIB, available_bytes=64 * GIB)


def cards(sizes: Sequence[float], *, backend: str = "cuda") -> tuple[PlanDevice, ...]:
    """GPUs of so many GiB."""
    return devices([round(size * GIB) for size in sizes], backend=backend)


def devices(sizes: Sequence[int], *, backend: str = "cuda") -> tuple[PlanDevice, ...]:
    """Devices of so many bytes that nobody else uses."""
    return tuple(
        PlanDevice(
            id=f"d{index}",
            label=f"GPU {index}",
            name="card",
            engine_name=f"{backend.upper()}{index}",
            backend=backend,
            total_bytes=size,
            free_bytes=size,
        )
        for index, size in enumerate(sizes)
    )


def ultra(
    kind: str,
    sizes: Sequence[float],
    context: int = 16_384,
    *,
    backend: str = "cuda",
    **changes: object,
) -> LoadPlan:
    """The plan of Nemotron Ultra with a KV cache of q8_0."""
    q8 = KvCacheType.Q8_0
    request = PlanRequest(context=context, kv_type_k=q8, kv_type_v=q8, any_order=True)
    request = dataclasses.replace(request, **changes)  # type: ignore[arg-type]
    layout = bundled.layout(f"{ULTRA}:{kind}")
    return make_plan(layout, request, cards(sizes, backend=backend), HOST)
