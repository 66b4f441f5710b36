from __future__ import annotations

import itertools
import re

import pytest

from app.catalog import entries
from app.catalog.model import ModelEntry
from app.hardware import gpu_table
from app.plan import catalog_answers, least
from app.plan.model import PlanRequest


def entry(name: str) -> ModelEntry:
    found = entries.find(name)
    assert found is not None
    return found


ULTRA = entry("nemotron-ultra-253b")


@pytest.mark.parametrize("one", entries.entries(), ids=lambda e: e.id)
def test_every_question_is_answered(one: ModelEntry) -> None:
    for question, answer in catalog_answers.answers(one):
        assert question.endswith("?")
        assert answer.endswith(".")
        assert "{" not in answer


def test_sizes_are_right_where_published_ones_are_wrong() -> None:
    answer = dict(catalog_answers.answers(ULTRA))["How large is the download?"]
    assert "Q4_K_M is 150.9 GB, Q2_K 93.4 GB" in answer


def test_the_405b_is_no_smaller_alternative() -> None:
    words = {r.model: text for r, _, text in catalog_answers.relations(ULTRA)}
    assert "is larger: 405.9 billion parameters against 253.4 billion" in words["llama-3.1-405b"]
    assert "243.1 GB against 150.9 GB in Q4_K_M" in words["llama-3.1-405b"]
    assert "is smaller" in words["nemotron-super-49b-v1.5"]
    assert "is larger" in words["nemotron-4-340b"]


def test_whether_cards_hold_it_is_what_the_planner_says() -> None:
    answer = dict(catalog_answers.answers(ULTRA))["Do two cards of 80 GB hold Q4_K_M?"]
    short, long = re.split(r"(?<=fullest\.) ", answer)
    assert short.startswith("2x H100 SXM hold Q4_K_M with 32,768 tokens wholly")
    assert long.startswith("2x H100 SXM do not hold Q4_K_M with 131,072 tokens")
    assert "of 163 layers fit" in long


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nemotron-ultra-253b", "Q4_K_M"),
        ("nemotron-ultra-253b", "Q8_0"),
        ("nemotron-super-49b", "IQ3_XXS"),
        ("llama-3.1-70b", "Q6_K"),
        ("llama-3.1-8b", "BF16"),
        ("smollm2-135m", "Q4_1"),
    ],
)
def test_hardware_is_found_as_by_trying_each_card(name: str, kind: str) -> None:
    layout = entries.layout(entry(name), kind)
    found = catalog_answers.needs(layout)
    request = PlanRequest(context=found.context)
    tried = {row.gpu: row.count for row in least.machines(layout, request)}
    assert {cards.gpu: cards.count for cards in found.cards} == tried
    counts = [cards.count for cards in found.shortest]
    assert counts == sorted(set(counts))


def test_every_quantization_has_its_hardware_and_less_takes_no_more() -> None:
    rows = list(catalog_answers.which(ULTRA))
    assert [row.quantization for row in rows] == list(entries.quantizations(ULTRA))
    # Vulkan holds no tensor over 4 GiB, and which ones are larger does not go by the file's size.
    through = {gpu.name: gpu_table.backend(gpu) for gpu in gpu_table.known()}
    counts = [{c.gpu: c.count for c in row.cards if through[c.gpu] != "vulkan"} for row in rows]
    for smaller, larger in itertools.pairwise(counts):
        assert all(smaller[gpu] <= count for gpu, count in larger.items())
    known = {gpu.name for gpu in gpu_table.known()}
    assert set(counts[0]) <= known
    assert 1.6 < rows[0].bits_per_weight < 1.8
