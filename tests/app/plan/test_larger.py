"""Which longer context is offered beside a model that runs."""

from __future__ import annotations

import dataclasses

import pytest

from app.gguf import bundled
from app.plan.larger import larger_context
from app.plan.model import KvCacheType, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.units import GIB

HOST = PlanHost(total_bytes=64 * GIB, available_bytes=48 * GIB)


def cards(free_bytes: int) -> tuple[PlanDevice, ...]:
    return tuple(
        PlanDevice(
            id=f"gpu-{index}", label=f"GPU {index}", name="", engine_name=f"CUDA{index}",
            backend="cuda", total_bytes=24 * GIB, free_bytes=free_bytes,
        )
        for index in range(8)
    )  # fmt: skip


@pytest.mark.parametrize("context", [4096, 8192, 16_384, 131_072])
def test_what_is_offered_fits_as_well(context: int) -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    request = PlanRequest(context=context)
    devices = cards(24 * GIB)
    found = larger_context(layout, request, devices, HOST)
    assert found.context == context
    if not found.larger:
        assert found.trained < 1.25 * context
        return
    assert 1.25 * context <= found.larger <= 2 * context
    changed = dataclasses.replace(request, context=found.larger)
    if found.kv_type is not None:
        longest = make_plan(layout, request, devices, HOST).max_context
        assert longest < 1.25 * context, "only where it does not fit without"
        changed = dataclasses.replace(changed, kv_type_k=found.kv_type, kv_type_v=found.kv_type)
        assert found.changes["kv_type_k"] is found.kv_type
    now = make_plan(layout, request, devices, HOST)
    plan = make_plan(layout, changed, devices, HOST)
    assert plan.runs
    assert plan.verdict is now.verdict or plan.fits


def test_less_than_is_needed_is_not_offered() -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    request, devices = PlanRequest(context=4096), cards(24 * GIB)
    longest = make_plan(layout, request, devices, HOST).max_context
    assert larger_context(layout, request, devices, HOST, needed=5000).larger == 8192
    assert larger_context(layout, request, devices, HOST, needed=16_384).larger == 16_384
    beyond = larger_context(layout, request, devices, HOST, needed=longest + 256)
    assert (beyond.kv_type, beyond.larger) == (KvCacheType.Q8_0, longest + 256)
    never = larger_context(layout, request, devices, HOST, needed=layout.context_length + 256)
    assert (never.larger, never.needed) == (0, layout.context_length + 256)


def test_where_only_a_smaller_cache_helps_that_is_offered() -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    devices = cards(24 * GIB)
    longest = make_plan(layout, PlanRequest(context=8192), devices, HOST).max_context
    found = larger_context(layout, PlanRequest(context=longest), devices, HOST)
    assert found.kv_type is KvCacheType.Q8_0
    assert found.larger > longest
    smallest = PlanRequest(context=longest, kv_type_k=KvCacheType.Q4_0, kv_type_v=KvCacheType.Q4_0)
    most = make_plan(layout, smallest, devices, HOST).max_context
    full = dataclasses.replace(smallest, context=most)
    assert larger_context(layout, full, devices, HOST).larger == 0
