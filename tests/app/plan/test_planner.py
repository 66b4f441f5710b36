from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from app.errors import AppError
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan import placement, text
from app.plan.model import KvCacheType, PlanDevice, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.units import GIB, MIB

HOST = PlanHost(total_bytes=24 * GIB, available_bytes=20 * GIB)


def device(index: int, free: int) -> PlanDevice:
    return PlanDevice(
        id=f"d{index}",
        label=f"GPU {index}",
        name="card",
        engine_name=f"CUDA{index}",
        backend="cuda",
        total_bytes=free,
        free_bytes=free,
    )


@pytest.fixture(scope="module")
def layout(starter_model: Path) -> ModelLayout:
    return read_layout(starter_model)


def test_without_devices_all_runs_on_the_cpu(layout: ModelLayout) -> None:
    plan = make_plan(layout, PlanRequest(), (), HOST)
    assert plan.verdict is Verdict.CPU_ONLY
    assert (plan.gpu_layers, plan.tensor_split, plan.context) == (0, (), 8192)
    assert plan.sentence == "Q4_1, 8,192 tokens, all 30 layers on the CPU, in main memory."


def test_the_counts_are_what_llama_cpp_takes(layout: ModelLayout) -> None:
    plan = make_plan(
        layout, PlanRequest(context=2048), (device(0, 4 * GIB), device(1, 4 * GIB)), HOST
    )
    assert plan.verdict is Verdict.FITS
    assert sum(plan.tensor_split) == plan.gpu_layers == 31
    assert plan.devices[0].first_layer == 0
    assert plan.devices[1].last_layer == 30
    assert plan.devices[1].holds_output


def test_what_is_fixed_by_hand_is_respected_or_refused(layout: ModelLayout) -> None:
    devices = (device(0, 4 * GIB), device(1, 4 * GIB))
    plan = make_plan(layout, PlanRequest(context=2048, layer_counts=(5, 7)), devices, HOST)
    assert plan.tensor_split == (5, 7)
    assert plan.devices[0].first_layer == 19
    assert plan.verdict is Verdict.PARTLY
    for counts in ((5,), (-1, 3), (30, 30)):
        with pytest.raises(AppError, match="does not suit"):
            make_plan(layout, PlanRequest(layer_counts=counts), devices, HOST)


def test_a_way_out_is_named_and_true(layout: ModelLayout) -> None:
    tight = PlanHost(total_bytes=GIB, available_bytes=800 * MIB)
    plan = make_plan(layout, PlanRequest(context=8192), (), tight)
    assert plan.verdict is Verdict.TOO_LARGE
    assert plan.sentence.startswith("Main memory lacks")
    kind = KvCacheType.Q8_0 if "q8_0" in plan.hint else KvCacheType.Q4_0
    assert str(kind) in plan.hint
    better = PlanRequest(context=8192, kv_type_k=kind, kv_type_v=kind)
    assert make_plan(layout, better, (), tight).fits


def test_json_and_text_say_the_same(layout: ModelLayout) -> None:
    plan = make_plan(layout, PlanRequest(context=2048), (device(0, 4 * GIB),), HOST)
    values = text.to_json(plan)
    assert values["gpu_layers"] == 31
    assert values["fits"] is True
    assert "-ngl 31" in text.describe(plan, "m.gguf")
    assert "-ts 31" in text.command_line(plan, "m.gguf")


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    sizes=strategies.lists(strategies.integers(0, 60), min_size=1, max_size=8),
    budgets=strategies.lists(strategies.integers(0, 150), min_size=1, max_size=4),
)
def test_placement_equals_brute_force(sizes: list[int], budgets: list[int]) -> None:
    def cost(_device: int, first: int, end: int) -> int:
        return sum(sizes[first:end])

    def left_over(spans: list[tuple[int, int]]) -> list[int]:
        pairs = enumerate(zip(budgets, spans, strict=True))
        return [b - cost(i, *span) for i, (b, span) in pairs if span[0] < span[1]]

    count = len(sizes)
    best = None
    for cuts in itertools.combinations_with_replacement(range(count + 1), len(budgets) - 1):
        edges = (0, *cuts, count)
        left = left_over(list(itertools.pairwise(edges)))
        if min(left) >= 0 and (best is None or min(left) > best):
            best = min(left)
    found = placement.balanced(count, 0, budgets, cost)
    if best is None:
        assert found is None
        return
    assert found is not None
    edges = (0, *itertools.accumulate(found))
    left = left_over(list(itertools.pairwise(edges)))
    assert sum(found) == count
    assert min(left) == best


@hypothesis.settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    free=strategies.lists(strategies.integers(0, 1500), min_size=1, max_size=4),
    context=strategies.integers(256, 8192),
)
def test_nothing_called_fitting_exceeds_a_budget(
    layout: ModelLayout, free: list[int], context: int
) -> None:
    devices = tuple(device(index, size * MIB) for index, size in enumerate(free))
    plan = make_plan(layout, PlanRequest(context=context), devices, HOST)
    if plan.fits:
        assert all(share.left_bytes >= 0 for share in plan.devices if share.layer_count)
        assert plan.host.left_bytes >= 0
    more = tuple(device(index, size * MIB + GIB) for index, size in enumerate(free))
    assert make_plan(layout, PlanRequest(context=context), more, HOST).gpu_layers >= plan.gpu_layers


def test_rpc_servers_on_this_machine_cannot_lend_its_memory_twice(layout: ModelLayout) -> None:
    devices = tuple(
        dataclasses.replace(device(index, 20 * GIB), backend="rpc", shares_host_memory=True)
        for index in range(2)
    )
    request = PlanRequest(context=8192)
    roomy = make_plan(layout, request, devices, HOST)
    assert roomy.fits
    needed = sum(share.model_bytes for share in roomy.devices) + roomy.host.model_bytes
    short = dataclasses.replace(HOST, available_bytes=needed)
    plan = make_plan(layout, request, devices, short)
    assert not plan.fits
    assert plan.bottleneck == "host"
    assert plan.shortfall_bytes == plan.host.reserve_bytes
