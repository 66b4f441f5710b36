"""Which plans are worth measuring, on machines that are described."""

from __future__ import annotations

import dataclasses

import pytest

from app.gguf import bundled
from app.plan.candidates import MOST, Candidate, candidates
from app.plan.model import FlashAttention, PlanDevice, PlanHost, PlanRequest, Verdict
from app.units import GIB
from tests.helpers.machines import HOST, cards

SUPER = bundled.layout("nemotron-super-49b:Q4_K_M")
REQUEST = PlanRequest(context=8192, any_order=True)


def with_rates(devices: tuple[PlanDevice, ...], *rates: float) -> tuple[PlanDevice, ...]:
    return tuple(
        dataclasses.replace(device, bandwidth_bytes_per_s=rate, name=f"card of {rate:.0e}")
        for device, rate in zip(devices, rates, strict=True)
    )


def placed(candidate: Candidate) -> tuple[tuple[str, int], ...]:
    plan = candidate.plan
    return tuple((s.device.id, s.layer_count) for s in plan.devices if s.used)


def test_the_plan_in_force_comes_first_and_all_fit_and_differ() -> None:
    devices = with_rates(cards([48, 24, 24]), 0.7e12, 1e12, 1e12)
    found = candidates(SUPER, REQUEST, devices, HOST)
    assert 2 <= len(found) <= MOST
    assert found[0].words == "as planned now"
    assert all(each.plan.verdict is Verdict.FITS for each in found)
    assert {each.plan.context for each in found} == {8192}
    kinds = {(placed(c), c.plan.request.micro_batch, c.plan.request.flash_attention) for c in found}
    assert len(kinds) == len(found)
    by_words = {each.words: placed(each) for each in found}
    on_fast = dict(by_words["fastest by bandwidth"])
    assert on_fast.get("d1", 0) + on_fast.get("d2", 0) > on_fast.get("d0", 0)
    assert len(by_words["fewest devices"]) < len(placed(found[0]))


def test_what_a_person_chose_stays() -> None:
    devices = cards([48, 48])
    request = dataclasses.replace(
        REQUEST, micro_batch=256, flash_attention=FlashAttention.OFF, layer_counts=(60, 21)
    )
    found = candidates(SUPER, request, devices, HOST)
    assert placed(found[0]) == (("d0", 60), ("d1", 21))
    assert len(found) > 1
    assert {c.plan.request.micro_batch for c in found} == {256}
    assert {c.plan.request.flash_attention for c in found} == {FlashAttention.OFF}


def test_only_as_many_as_asked_for_and_none_beside_a_plan_that_does_not_fit() -> None:
    assert len(candidates(SUPER, REQUEST, cards([48, 24, 24]), HOST, most=2)) == 2
    poor = PlanHost(total_bytes=GIB, available_bytes=GIB)
    alone = candidates(SUPER, REQUEST, cards([8]), poor)
    assert len(alone) == 1
    assert not alone[0].plan.runs


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_choice_of_devices_batches_and_attention_are_left(count: int) -> None:
    found = candidates(SUPER, REQUEST, cards([48] * count), HOST)
    assert len(found) > 1
    assert len({placed(each) for each in found}) == 1
    assert {c.words.split()[0] for c in found[1:]} <= {"micro-batch", "flash"}
