from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from app.gguf import bundled
from app.gguf.reader import read_layout
from app.plan import least, placement
from app.plan.model import KvCacheType, Objective, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.units import GIB, MIB
from tests.helpers.machines import HOST, ULTRA, cards, ultra


def used(plan_sizes: tuple[int, ...]) -> int:
    return sum(1 for layers in plan_sizes if layers)


def test_fewest_cards_are_as_few_as_will_do() -> None:
    sizes = [24.0, 24, 32, 80, 48]
    plan = ultra("Q4_K_M", sizes, objective=Objective.FEWEST)
    assert plan.verdict is Verdict.FITS
    count = used(plan.tensor_split)
    for some in itertools.combinations(sizes, count - 1):
        assert (
            ultra("Q4_K_M", some).verdict is not Verdict.FITS
            or ultra("Q4_K_M", some).tensor_overrides
        )


def test_fewest_cards_in_a_given_order_keep_it() -> None:
    plan = ultra("Q4_K_M", [24, 80, 80, 24], objective=Objective.FEWEST, any_order=False)
    assert [share.device.id for share in plan.devices] == ["d0", "d1", "d2", "d3"]
    assert used(plan.tensor_split) == 2
    assert plan.fits


@hypothesis.settings(deadline=None, max_examples=80)
@hypothesis.given(
    sizes=strategies.lists(strategies.integers(0, 40), min_size=1, max_size=7),
    budgets=strategies.lists(strategies.integers(0, 120), min_size=1, max_size=3),
    rates=strategies.lists(strategies.integers(1, 9), min_size=3, max_size=3),
)
def test_the_fastest_split_equals_brute_force(
    sizes: list[int], budgets: list[int], rates: list[int]
) -> None:
    def cost(_device: int, first: int, end: int) -> int:
        return sum(sizes[first:end])

    def seconds(device: int, first: int, end: int) -> float:
        return sum(sizes[first:end]) / rates[device]

    count, times = len(sizes), []
    for cuts in itertools.combinations_with_replacement(range(count + 1), len(budgets) - 1):
        spans = list(itertools.pairwise((0, *cuts, count)))
        if all(cost(i, *s) <= budgets[i] for i, s in enumerate(spans) if s[1] > s[0]):
            times.append(sum(seconds(i, *s) for i, s in enumerate(spans)))
    found = placement.fastest(count, 0, budgets, cost, seconds)
    if not times:
        assert found is None
        return
    assert found is not None
    assert found[0] == pytest.approx(min(times))
    assert sum(found[1]) == count


def test_the_fastest_fills_the_fast_cards() -> None:
    layout = bundled.layout(f"{ULTRA}:Q2_K")
    rates = (300e9, 1800e9, 300e9)
    devices = tuple(
        dataclasses.replace(card, bandwidth_bytes_per_s=rate)
        for card, rate in zip(cards([48, 96, 48]), rates, strict=True)
    )
    request = PlanRequest(context=16_384, any_order=True)
    balanced = make_plan(layout, request, devices, HOST)
    fastest = make_plan(
        layout, dataclasses.replace(request, objective=Objective.FASTEST), devices, HOST
    )
    assert fastest.fits

    def on_fast(plan_devices: object) -> int:
        return sum(
            s.weights_bytes
            for s in plan_devices  # type: ignore[attr-defined]
            if s.device.id == "d1"
        )

    assert on_fast(fastest.devices) > on_fast(balanced.devices)


def test_equal_bandwidths_leave_the_balanced_split() -> None:
    assert (
        ultra("Q4_K_M", [24] * 8, 32_768, objective=Objective.FASTEST).tensor_split
        == ultra("Q4_K_M", [24] * 8, 32_768).tensor_split
    )


def test_the_longest_context_is_the_longest(starter_model: Path) -> None:
    layout = read_layout(starter_model)
    devices = cards([0.8, 0.8])
    plan = make_plan(layout, PlanRequest(objective=Objective.LONGEST), devices, HOST)
    assert plan.context == plan.max_context
    assert plan.fits
    if plan.context < layout.context_length:
        beyond = make_plan(layout, PlanRequest(context=plan.context + 256), devices, HOST)
        assert not beyond.fits or beyond.tensor_overrides


def test_the_least_hardware_is_enough_and_less_is_not() -> None:
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    q8 = KvCacheType.Q8_0
    request = PlanRequest(context=32_768, kv_type_k=q8, kv_type_v=q8)
    rows = least.machines(layout, request)
    assert [row.memory_bytes for row in rows] == sorted(row.memory_bytes for row in rows)
    by_gpu = {row.gpu: row for row in rows}
    assert by_gpu["RTX 3090"].count == 8
    assert by_gpu["RTX PRO 6000 Blackwell"].count == 2
    assert "RTX 4070" not in by_gpu, "eight of 12 GiB are too few"
    for name in ("RTX 3090", "RTX A6000"):
        row = by_gpu[name]
        size = row.memory_bytes / row.count / GIB
        fewer = make_plan(layout, request, cards([size] * (row.count - 1)), HOST, limits=False)
        assert fewer.verdict is not Verdict.FITS


def test_a_reserve_on_one_card_and_a_forced_split_are_kept() -> None:
    plan = ultra("Q4_K_M", [24] * 8, 32_768, reserves={"d5": 9 * GIB})
    reserves = {share.device.id: share.reserve_bytes for share in plan.devices}
    assert reserves["d5"] == 9 * GIB
    assert all(share.left_bytes >= 0 for share in plan.devices)
    assert plan.fits
    counts = placement.even(163, 8)
    forced = ultra("Q4_K_M", [24] * 8, 32_768, layer_counts=counts, force=True)
    assert forced.tensor_split == counts
    assert not forced.fits
    assert forced.shortfall_bytes > 10 * GIB
    assert forced.devices[7].left_bytes == -forced.shortfall_bytes
    assert min(share.left_bytes for share in forced.devices) == -forced.shortfall_bytes
    assert forced.shortfall_bytes % MIB != 0, "to the byte"
