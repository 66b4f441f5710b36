from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from app.errors import AppError
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan import placement, speed, text
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
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
    plan = with_remedies(plan, layout, (), tight)
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
    max_examples=25,
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
    if plan.runs:
        assert all(share.left_bytes >= 0 for share in plan.devices if share.layer_count)
        assert plan.host.left_bytes >= 0
    more = tuple(device(index, size * MIB + GIB) for index, size in enumerate(free))
    larger = make_plan(layout, PlanRequest(context=context), more, HOST)
    assert in_main_memory(larger) <= in_main_memory(plan)


def in_main_memory(plan: LoadPlan) -> int:
    return plan.host.weights_bytes + plan.host.kv_cache_bytes


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


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
    sizes=strategies.lists(strategies.integers(0, 40), min_size=1, max_size=7),
    budgets=strategies.lists(strategies.integers(0, 90), min_size=1, max_size=4),
)
def test_the_best_order_equals_brute_force_over_all_orders(
    sizes: list[int], budgets: list[int]
) -> None:
    def cost(_device: int, first: int, end: int) -> int:
        # A buffer as wide as the widest layer, as the compute buffer is.
        return sum(sizes[first:end]) + max(sizes[first:end], default=0)

    def least(order: tuple[int, ...], counts: tuple[int, ...]) -> int:
        edges = itertools.pairwise((0, *itertools.accumulate(counts)))
        pairs = zip(order, edges, strict=True)
        return min(budgets[i] - cost(i, *span) for i, span in pairs if span[0] < span[1])

    count = len(sizes)
    values = []
    for order in itertools.permutations(range(len(budgets))):
        for cuts in itertools.combinations_with_replacement(range(count + 1), len(budgets) - 1):
            edges = (0, *cuts, count)
            values.append(least(order, tuple(b - a for a, b in itertools.pairwise(edges))))
    best = max(values)
    found = placement.balanced_any_order(count, 0, budgets, cost)
    if best < 0:
        assert found is None
        return
    assert found is not None
    order, counts = found
    assert sorted(order) == list(range(len(budgets)))
    assert sum(counts) == count
    assert least(order, counts) == best


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_many_unlike_devices_are_searched_in_part_and_nearly_as_well(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    edges = [0, *itertools.accumulate(chance.randint(80, 300) for _ in range(163))]
    budgets = [round(edges[-1] / 10 * chance.uniform(1 - spread, 1 + spread)) for _ in range(12)]

    def cost(_device: int, first: int, end: int) -> int:
        return edges[end] - edges[first]

    def least() -> int:
        found = placement.balanced_any_order(163, 0, budgets, cost)
        assert found is not None
        order, counts = found
        assert sorted(order) == list(range(12))
        assert sum(counts) == 163
        spans = itertools.pairwise((0, *itertools.accumulate(counts)))
        return min(budgets[i] - cost(i, *span) for i, span in zip(order, spans, strict=True))

    some = least()
    monkeypatch.setattr(placement, "MOST_STATES", 2**12)
    best = least()
    assert 0 <= some <= best
    assert best - some < 0.05 * max(budgets)


def ultra(kind: str, sizes: list[int], context: int, **changes: object) -> LoadPlan:
    devices = tuple(device(index, size * GIB) for index, size in enumerate(sizes))
    q8 = KvCacheType.Q8_0
    request = PlanRequest(context=context, kv_type_k=q8, kv_type_v=q8, any_order=True)
    layout = bundled.layout(f"nemotron-ultra-253b:{kind}")
    return make_plan(layout, dataclasses.replace(request, **changes), devices, HOST)  # type: ignore[arg-type]


def test_the_flagship_on_eight_cards_of_24_gib() -> None:
    plan = ultra("Q4_K_M", [24] * 8, 32_768)
    assert plan.fits
    assert plan.tensor_split == (32, 27, 21, 27, 27, 9, 9, 11)
    assert max(s.model_bytes for s in plan.devices) / GIB == pytest.approx(21.5, rel=0.01)
    even = ultra("Q4_K_M", [24] * 8, 32_768, layer_counts=placement.even(163, 8))
    assert max(s.model_bytes for s in even.devices) / GIB == pytest.approx(35.2, rel=0.02)
    assert "lacks" in even.sentence
    even = with_remedies(
        even, bundled.layout("nemotron-ultra-253b:Q4_K_M"), [s.device for s in even.devices], HOST
    )
    assert even.hint == "Reset the split to automatic: then it fits."


def test_another_order_of_cards_makes_it_fit() -> None:
    assert ultra("Q3_K_M", [24, 24, 32, 48], 16_384).fits
    as_given = ultra("Q3_K_M", [24, 24, 32, 48], 16_384, any_order=False)
    assert as_given.tensor_overrides, "whole layers do not fit in this order"


def test_sizes_of_the_bundled_layouts_are_those_of_the_published_files() -> None:
    q4 = bundled.layout("nemotron-ultra-253b:q4_k_m")
    # llama.cpp's own log of this file, in PR 12843: 143,937.13 MiB of tensors.
    assert q4.size_bytes / MIB == pytest.approx(143_937.13, abs=0.01)
    assert sum(1 for layer in q4.layers if not layer.size_bytes) == 81
    assert bundled.layout("nemotron-ultra-253b:Q2_K").size_bytes / 1e9 == pytest.approx(
        93.4, abs=0.05
    )
    sizes = [
        bundled.layout(f"nemotron-super-49b:{k}").size_bytes
        for k in bundled.quantizations("nemotron-super-49b")
    ]
    assert sizes == sorted(sizes)
    with pytest.raises(AppError, match="no Q9_X"):
        bundled.layout("nemotron-ultra-253b:Q9_X")


def test_speed_is_a_range_below_what_bandwidth_allows() -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    plan = ultra("Q4_K_M", [24] * 8, 512)
    assert speed.estimate(plan, layout).generation is None, "the bandwidth is not known"
    fast = tuple(
        dataclasses.replace(share.device, bandwidth_bytes_per_s=936e9, prompt_flops_per_s=65e12)
        for share in plan.devices
    )
    rate = speed.estimate(make_plan(layout, plan.request, fast, HOST), layout)
    assert rate.generation is not None
    assert rate.empty_context is not None
    assert rate.prompt is not None
    # 149.7 GB of weights on the cards, read once for each token.
    assert rate.generation.bound == pytest.approx(6.25, rel=0.01)
    assert rate.generation.likely_low < rate.generation.likely_high < rate.generation.bound
    assert rate.empty_context.bound > rate.generation.bound
    # 249.2 G weights in layers, two operations each, on one card after the other.
    assert rate.prompt.likely_low == pytest.approx(0.6 * 65e12 / 498.4e9, rel=0.01)
