from __future__ import annotations

import functools

import hypothesis
from hypothesis import strategies

from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.plan import recommend
from app.plan.model import PlanHost, PlanRequest, Verdict
from app.units import GIB
from tests.helpers.machines import HOST, devices

CONTEXTS = (4_096, 32_768)


@functools.cache
def layouts() -> tuple[ModelLayout, ...]:
    return tuple(
        bundled.layout(f"nemotron-super-49b:{kind}") for kind in ("IQ2_M", "Q4_1", "Q4_K_M", "Q8_0")
    )


def best(sizes: list[int]) -> recommend.Choice:
    request = PlanRequest(any_order=True)
    return recommend.matrix(layouts(), request, devices(sizes), HOST, contexts=CONTEXTS)[0]


def test_the_best_that_lies_wholly_on_the_cards_with_a_reason() -> None:
    choice = best([24 * GIB, 24 * GIB])
    assert (choice.layout.quantization, choice.plan.verdict) == ("Q4_K_M", Verdict.FITS)
    assert recommend.reason(choice).startswith("Q4_K_M with 32,768 tokens and f16 as KV cache: ")
    assert best([80 * GIB]).layout.quantization == "Q8_0"
    assert "Nothing fits" in recommend.reason(
        recommend.matrix(
            layouts(), PlanRequest(), (), PlanHost(total_bytes=GIB, available_bytes=GIB)
        )[0]
    )


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    sizes=strategies.lists(strategies.integers(4, 60), min_size=1, max_size=3),
    more=strategies.integers(1, 20),
    which=strategies.integers(0, 2),
)
def test_more_memory_never_ranks_worse(sizes: list[int], more: int, which: int) -> None:
    larger = [*sizes]
    larger[which % len(sizes)] += more
    before, after = best([s * GIB for s in sizes]), best([s * GIB for s in larger])
    assert after.rank >= before.rank
