from __future__ import annotations

import string
from pathlib import PurePosixPath, PureWindowsPath

import hypothesis
import pytest
from hypothesis import strategies

from app.catalog import hub, names
from app.catalog.repository import HubFile, Role, Snapshot, choose, file_sets
from app.errors import AppError
from app.gguf.header import shard_names
from app.gguf.types import FILE_TYPES
from tests.helpers.hub import COMMIT

ROOT = PurePosixPath("/models/org/repo")
STEMS = strategies.text(
    string.ascii_letters + string.digits + "._-", min_size=1, max_size=12
).filter(lambda s: s[0] not in ".-" and s[-1] not in ".-" and "mmproj" not in s.lower())
KINDS = ("Q4_K_M", "IQ3_XXS", "UD-Q4_K_XL", "BF16", "Q8_0", "Q6_K_L")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("nvidia_Llama-3_1-Nemotron-Ultra-253B-v1-Q6_K/x-Q6_K-00001-of-00005.gguf", "Q6_K"),
        ("UD-Q3_K_XL/Llama-3_1-UD-Q3_K_XL-00001-of-00003.gguf", "UD-Q3_K_XL"),
        ("nvidia.Llama-3_1-Nemotron-Ultra-253B-v1.Q4_K_M-00001-of-00004.gguf", "Q4_K_M"),
        ("Model.i1-IQ3_XXS.gguf", "IQ3_XXS"),
        ("smollm2_135m_q4_k_m.gguf", "Q4_K_M"),
        ("BF16/model-00001-of-00009.gguf", "BF16"),
        ("model-fp16.gguf", "F16"),
        ("model.f32.gguf", "F32"),
        ("model-Q6_K_L.gguf", "Q6_K_L"),
        ("model-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("model-IQ4_NL.gguf", "IQ4_NL"),
        ("model-TQ1_0.gguf", "TQ1_0"),
        ("model-UD-IQ1_S.gguf", "UD-IQ1_S"),
        ("Q8_0/model-Q4_K_S.gguf", "Q4_K_S"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-0.6B.gguf", ""),
        ("IQ-test-model.gguf", ""),
        ("model-BF16x.gguf", ""),
    ],
)
def test_quantizations_are_read_from_names(path: str, kind: str) -> None:
    assert names.quantization(path) == kind


@pytest.mark.parametrize("kind", sorted(set(FILE_TYPES.values())))
def test_every_file_type_of_llama_cpp_is_known(kind: str) -> None:
    assert names.quantization(f"Some-Model-7B-{kind}.gguf") == kind
    assert names.quantization(f"some-model.{kind.lower()}.gguf") == kind


@hypothesis.given(strategies.text(max_size=60))
def test_a_safe_path_stays_below_its_folder(text: str) -> None:
    if not names.safe_path(text):
        return
    assert (ROOT / text).is_relative_to(ROOT)
    assert ".." not in (ROOT / text).parts
    windows = PureWindowsPath("C:/models") / text
    assert windows.drive == "C:"
    assert windows.is_relative_to("C:/models")
    assert not windows.is_reserved()
    assert text.isprintable()
    assert PurePosixPath(text).as_posix() == text, "one way to write it"


@pytest.mark.parametrize(
    "path", ["a/b/c.gguf", "Modell größer/ü.gguf", "Q4_K_M/m-00001-of-00002.gguf", ".gitattributes"]
)
def test_ordinary_paths_are_safe(path: str) -> None:
    assert names.safe_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "C:/a", "a:b", "a\0b", "a\nb", "a\x7f",
     "a\u202eb", "NUL", "com1.gguf", "a /b", "a./b", " a", "a" * 241, "é" * 130, "a/" * 501 + "b", "a*b",
     "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_paths_that_could_harm_are_not(path: str) -> None:
    assert not names.safe_path(path)


@strategies.composite
def sharded(draw: strategies.DrawFn) -> tuple[str, int, set[int]]:
    """A stem with a quantization, a number of shards, and which of them are there."""
    count = draw(strategies.integers(1, 12))
    there = draw(strategies.sets(strategies.integers(1, count), min_size=1))
    return f"{draw(STEMS)}-{draw(strategies.sampled_from(KINDS))}", count, there


@hypothesis.given(strategies.lists(sharded(), max_size=6, unique_by=lambda s: s[0].lower()))
def test_grouping_loses_nothing_and_mixes_nothing(groups: list[tuple[str, int, set[int]]]) -> None:
    paths = []
    for stem, count, there in groups:
        shards = shard_names(f"{stem}-00001-of-{count:05d}.gguf")
        paths += [f"{stem}/{shards[n - 1]}" for n in there]
    files = tuple(HubFile(path=path, size_bytes=1) for path in sorted(paths))
    sets = file_sets(Snapshot(repo="o/r", revision="main", commit=COMMIT, files=files))
    grouped = [file for one in sets for file in one.files]
    assert sorted(grouped, key=lambda f: f.path) == list(files)
    found = {one.name: one for one in sets}
    assert len(found) == len(groups)
    for stem, count, there in groups:
        one = found[f"{stem}/{stem}"]
        assert one.role is Role.MODEL
        assert one.complete == (there == set(range(1, count + 1)))
        assert bool(one.reason) != one.complete
        # A stem that ends in UD makes a dynamic quantization of any kind.
        assert stem.upper().endswith(one.quantization)
        assert one.quantization.removeprefix("UD-") in {kind.removeprefix("UD-") for kind in KINDS}
        if one.complete:
            address = hub.Address(repo="o/r", path=one.files[-1].path)
            assert choose(sets, address) is one


@hypothesis.given(strategies.text(max_size=80))
def test_addresses_are_parsed_or_refused_with_a_hint(text: str) -> None:
    try:
        address = hub.parse(f"hf:{text}")
    except AppError as error:
        assert error.hint  # noqa: PT017 - both outcomes are right
        return
    written = f"hf:{address.repo}"
    written += f"/{address.path}" if address.path else ""
    written += f":{address.quantization}" if address.quantization else ""
    written += f"@{address.revision}" if address.revision else ""
    assert written == f"hf:{text}"
