from __future__ import annotations

import dataclasses

import pytest

from app.gguf import bundled
from app.plan import speed
from app.plan.model import LoadPlan, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.units import GIB
from tests.helpers.machines import HOST, ULTRA, cards, ultra


def within_budget(plan: LoadPlan) -> bool:
    return all(share.left_bytes >= 0 for share in plan.devices if share.used)


def test_a_tensor_moves_to_another_card_where_whole_layers_do_not_fit() -> None:
    gib = {f"d{index}": GIB for index in range(4)}
    plan = ultra("IQ3_XXS", [24, 24, 24, 32], any_order=False, reserves=gib)
    assert plan.verdict is Verdict.FITS
    assert plan.gpu_layers == 163
    assert plan.tensor_overrides
    assert all(override.device.startswith("CUDA") for override in plan.tensor_overrides)
    assert within_budget(plan)
    layout = bundled.layout(f"{ULTRA}:IQ3_XXS")
    on_devices = sum(share.weights_bytes for share in plan.devices)
    # Rope factors lie on each device, and tensors are padded.
    assert on_devices == pytest.approx(
        layout.size_bytes - sum(t.size_bytes for t in layout.token_embedding), rel=1e-5
    )
    assert plan.max_context >= plan.context


def test_what_does_not_fit_leaves_as_little_as_possible_in_main_memory() -> None:
    plan = ultra("Q4_K_M", [24] * 6)
    assert plan.verdict is Verdict.PARTLY
    assert plan.runs
    assert not plan.fits
    assert within_budget(plan)
    left = plan.host.weights_bytes + plan.host.kv_cache_bytes
    by_layers = [
        ultra("Q4_K_M", [24] * 6, gpu_layers=layers) for layers in (plan.gpu_layers, 125, 118, 110)
    ]
    for other in by_layers:
        if other.runs:
            assert left < other.host.weights_bytes + other.host.kv_cache_bytes
    assert plan.missing_bytes > 0
    assert plan.missing_on in {share.device.id for share in plan.devices}
    # With as much more on each card it fits in whole layers, with a little less it does not.
    more = plan.missing_bytes / GIB
    assert ultra("Q4_K_M", [24 + more + 0.05] * 6).verdict is Verdict.FITS
    assert ultra("Q4_K_M", [24 + more - 1] * 6).tensor_overrides


def test_a_tensor_that_vulkan_cannot_hold_lies_in_main_memory() -> None:
    plan = ultra("Q4_K_M", [24] * 8, backend="vulkan")
    assert [override.tensor for override in plan.tensor_overrides] == ["blk.134.ffn_down.weight"]
    assert plan.tensor_overrides[0].device == "CPU"
    assert "4 GiB" in plan.tensor_overrides[0].reason
    assert plan.verdict is Verdict.PARTLY
    assert ultra("Q4_K_M", [24] * 8).verdict is Verdict.FITS
    assert not ultra("Q4_K_S", [24] * 8, backend="vulkan").tensor_overrides


def test_what_would_help_comes_in_the_order_of_what_it_costs_and_is_true() -> None:
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    devices = cards([24] * 7)
    request = PlanRequest(context=131_072, any_order=True)
    plan = make_plan(layout, request, devices, HOST)
    others = [bundled.layout(f"{ULTRA}:{kind}") for kind in ("Q3_K_M", "Q2_K", "Q8_0")]
    relative = bundled.layout("nemotron-super-49b:Q4_K_M")
    plan = with_remedies(plan, layout, devices, HOST, [*others, relative])
    told = [str(remedy) for remedy in plan.remedies]
    assert plan.hint == told[0]
    assert any("Q2_K" in words or "Q3_K_M" in words for words in told)
    assert "For a split with all layers on devices" in told[-1]
    few = cards([24, 24])
    small = make_plan(layout, PlanRequest(context=16_384, any_order=True), few, HOST)
    small = with_remedies(small, layout, few, HOST, [*others, relative])
    assert any("the nearest relative" in str(remedy) for remedy in small.remedies)


def test_main_memory_costs_speed_and_the_plan_says_how_much() -> None:
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    plan = ultra("Q4_K_M", [24] * 6)
    fast = tuple(
        dataclasses.replace(share.device, bandwidth_bytes_per_s=936e9) for share in plan.devices
    )
    rate = speed.estimate(make_plan(layout, plan.request, fast, HOST), layout)
    assert rate.generation is not None
    assert rate.whole is not None
    assert rate.whole.bound == pytest.approx(936e9 / 151e9, rel=0.05)
    assert rate.generation.bound < 0.5 * rate.whole.bound
    assert rate.assumed_host
    assert rate.sources


def test_devices_are_filled_also_where_main_memory_is_too_small() -> None:
    little = PlanHost(total_bytes=48 * GIB, available_bytes=48 * GIB)
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    plan = make_plan(layout, PlanRequest(context=8192), cards([24] * 3), little)
    assert plan.verdict is Verdict.TOO_LARGE
    assert plan.bottleneck == "host"
    assert all(share.weights_bytes > 15 * GIB for share in plan.devices)
    assert within_budget(plan)
    assert plan.shortfall_bytes < 60 * GIB
