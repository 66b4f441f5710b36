"""A model's page in the terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator

from app.catalog import entries
from app.catalog.model import ModelEntry
from app.plan import catalog_answers
from app.plan.catalog_answers import Needs
from app.plan.least import MOST_CARDS

WIDTH = 100


def lines(entry: ModelEntry, context: int) -> Iterator[str]:
    """A model's page, line by line as it is computed."""
    yield f"{entry.name}, {entry.vendor}"
    yield from _wrapped(entry.positioning.value)
    yield ""
    rows = [
        ("Parameters", f"{entry.parameters.value:,}"),
        ("Structure", f"{entry.structure.value}; {entry.architecture.value}"),
        ("Context", f"{entry.context_length.value:,} tokens"),
        ("Licence", f"{entry.licence.name}: {entry.licence.url}"),
        ("Commercial use", entry.licence.commercial),
        ("Gated", "yes, accept its terms on its page first" if entry.licence.gated else "no"),
        *(("Thinking", text) for text in _reasoning(entry)),
        *(("Sampling", sampling.words) for sampling in entry.sampling),
        ("Tool calls", entry.tool_calls.value),
        *(("Strength", fact.value) for fact in entry.strengths),
        *(("Limit", fact.value) for fact in entry.limits),
    ]
    yield from _pairs(rows)
    if entries.quantizations(entry):
        tokens = min(context, entry.context_length.value)
        yield ""
        yield f"Quantizations, and the fewest equal cards that hold all with {tokens:,} tokens"
        yield f"  {'':10}{'GB':>7}{'bits':>7}  cards"
        for needs in catalog_answers.which(entry, context):
            yield _needs_line(needs)
    if entry.repositories:
        yield ""
        yield "Repositories"
        yield from _pairs([(f"hf:{known.repo}", known.naming) for known in entry.repositories])
    if entry.relations:
        yield ""
        yield "Related"
        for relation, other, words in catalog_answers.relations(entry):
            yield from _wrapped(f"{other.id} ({relation.kind}): {words} {relation.note}".strip())
    yield ""
    yield "Questions"
    for question, answer in catalog_answers.answers(entry):
        yield from _wrapped(question)
        yield from _wrapped(answer, indent="    ")
    yield ""
    yield "Sources"
    for source in entry.sources:
        where = f" {source.url}" if source.url else ""
        yield from _wrapped(f"{source.title}.{where} (reviewed {source.reviewed})")


def _reasoning(entry: ModelEntry) -> Iterator[str]:
    if entry.reasoning is not None:
        yield entry.reasoning.words
        if entry.reasoning.note:
            yield entry.reasoning.note


def _needs_line(needs: Needs) -> str:
    cards = ", ".join(map(str, needs.shortest)) or f"more than {MOST_CARDS} of any"
    size, bits = needs.size_bytes / 1e9, needs.bits_per_weight
    return f"  {needs.quantization:10}{size:7.1f}{bits:7.2f}  {cards}"


def to_json(entry: ModelEntry, context: int) -> dict[str, object]:
    """All of it, with the sources of every fact."""
    return dataclasses.asdict(entry) | {
        "quantizations": [
            dataclasses.asdict(needs) | {"bits_per_weight": round(needs.bits_per_weight, 3)}
            for needs in catalog_answers.which(entry, context)
        ],
        "relations": [
            {"model": other.id, "kind": relation.kind, "compared": words, "note": relation.note}
            for relation, other, words in catalog_answers.relations(entry)
        ],
        "questions": [
            {"question": question, "answer": answer}
            for question, answer in catalog_answers.answers(entry)
        ],
    }


def _pairs(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Labels and texts, a label that repeats only once."""
    last = ""
    for label, text in rows:
        head = "" if label == last else label
        last = label
        if len(label) > 15:
            yield from _wrapped(f"{label}  {text}")
            continue
        first, *rest = textwrap.wrap(text, WIDTH - 18) or [""]
        yield f"  {head:16}{first}"
        yield from (f"{'':18}{line}" for line in rest)


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
