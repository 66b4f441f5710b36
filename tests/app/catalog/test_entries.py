from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

from app.catalog import entries
from app.catalog.model import ModelEntry, Structure
from app.errors import AppError
from app.gguf import bundled

SCRIPT = Path(__file__).parents[3] / "packaging" / "make_layouts.py"
ALL = entries.entries()
METADATA_GB = 0.008
"""Of a header with the vocabulary, which a bundled layout lacks."""


def entry(name: str) -> ModelEntry:
    found = entries.find(name)
    assert found is not None, name
    return found


def test_the_flagship_is_first_and_the_starter_last() -> None:
    assert ALL[0].id == "nemotron-ultra-253b"
    assert ALL[-1].id == "smollm2-135m"
    assert {e.id for e in ALL} >= {
        "nemotron-super-49b", "nemotron-super-49b-v1.5", "nemotron-nano-8b", "llama-3.1-405b",
        "llama-3.1-70b", "llama-3.1-8b", "nemotron-4-340b",
    }  # fmt: skip


@pytest.mark.parametrize("one", ALL, ids=lambda e: e.id)
def test_every_entry_is_whole(one: ModelEntry) -> None:
    assert one.structure.value is Structure.DENSE
    assert one.licence.commercial.endswith(".")
    assert one.licence.url.startswith("https://")
    assert one.strengths
    assert one.limits
    assert one.questions
    assert one.parameters.source.reviewed >= datetime.date(2026, 11, 1)
    assert one.parameters.source.title
    for name in (one.id, one.name, *one.aliases, *(r.repo for r in one.repositories)):
        assert entries.find(name) is one
        assert entries.find(f"{name.upper()}:Q8_0") is one


@pytest.mark.parametrize("one", ALL, ids=lambda e: e.id)
def test_relations_lead_to_entries_and_verbs_are_known(one: ModelEntry) -> None:
    assert {r.model for r in one.relations} <= {e.id for e in ALL} - {one.id}
    seen: list[str] = []

    def compute(verb: str, _arguments: tuple[str, ...]) -> str:
        seen.append(verb)
        return ""

    for question in one.questions:
        text = entries.fill(question.answer, compute)
        assert "{" not in text
        assert "}" not in text
    assert set(seen) <= entries.VERBS


@pytest.mark.parametrize("one", [e for e in ALL if e.shapes or e.starter], ids=lambda e: e.id)
def test_parameters_and_context_are_those_of_the_layout(one: ModelEntry) -> None:
    layout = entries.layout(one)
    factors = sum(t.shape[0] for t in layout.other)
    assert layout.parameter_count - factors == one.parameters.value
    assert layout.context_length == one.context_length.value
    assert layout.name == one.name


def test_sizes_are_those_of_published_files() -> None:
    published_gb = {
        "Q8_0": 74.98, "Q6_K": 57.89, "Q5_K_M": 49.95, "Q5_K_S": 48.66, "Q4_K_M": 42.52,
        "Q4_K_S": 40.35, "Q4_0": 40.12, "IQ4_XS": 37.90, "Q3_K_L": 37.14, "Q3_K_M": 34.27,
        "IQ3_M": 31.94, "Q3_K_S": 30.91,
    }  # fmt: skip
    large = entry("llama-3.1-70b")
    for kind, size in published_gb.items():
        found = entries.layout(large, kind).file_size_bytes / 1e9 + METADATA_GB
        assert found == pytest.approx(size, abs=0.01), kind


def test_a_bundled_layout_is_the_entrys_own_under_its_name() -> None:
    newer = entries.layout(entry("nemotron-super-49b-v1.5"), "q8_0")
    assert newer.layers == bundled.layout("nemotron-super-49b:Q8_0").layers
    assert newer.name == "Llama-3.3-Nemotron-Super-49B-v1.5"
    assert entries.layout(entry("starter")).quantization == "Q4_1"


def test_what_is_not_known_says_where_to_look() -> None:
    with pytest.raises(AppError, match="not known here") as caught:
        entries.layout(entry("nemotron-ultra-253b"), "Q4_K_XL")
    assert "Q4_K_M" in caught.value.hint
    assert entries.find("no-such-model") is None


def test_every_entry_is_computed_from_its_layers() -> None:
    assert [one.id for one in ALL if not entries.quantizations(one)] == []
    assert all(one.sampling for one in ALL)


def test_parameters_of_the_340b_are_those_of_its_report() -> None:
    layout = entries.layout(entry("nemotron-4-340b"))
    embeddings = 2 * sum(t.shape[0] * t.shape[1] for t in layout.token_embedding)
    assert round(embeddings / 1e9, 1) == 9.4
    assert round((layout.parameter_count - embeddings) / 1e9, 1) == 331.6


@pytest.mark.parametrize(
    "file", sorted((entries.folder() / "layouts").glob("*.json")), ids=lambda file: file.stem
)
def test_types_are_what_the_quantizer_says(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    copy.write_text(file.read_text().replace("Q6_K*", "Q5_K*"))
    subprocess.run([sys.executable, str(SCRIPT), str(copy)], check=True, timeout=60)
    assert copy.read_text() == file.read_text()
