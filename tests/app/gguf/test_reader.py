from __future__ import annotations

import os
import time
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from app.errors import AppError, ErrorKind
from app.gguf.reader import read_layout
from tests.helpers import headers


def test_the_starter_model_is_read_layer_by_layer(starter_model: Path) -> None:
    layout = read_layout(starter_model)
    assert (layout.architecture, layout.block_count, layout.context_length) == ("llama", 30, 8192)
    assert layout.quantization == "Q4_1"
    assert layout.vocabulary_size == 49152
    assert layout.tied
    assert {layer.head_count_kv for layer in layout.layers} == {3}
    assert 0 < layout.file_size_bytes - layout.size_bytes < 2_500_000
    assert "im_start" in layout.chat_template


HOSTILE = {
    "size of 2^60": [headers.tensor("a", [2**60, 2**3])],
    "negative dimension": [headers.tensor("a", [2**64 - 5])],
    "no dimension": [headers.tensor("a", [])],
    "five dimensions": [headers.tensor("a", [1] * 5)],
    "zero dimension": [headers.tensor("a", [0, 4])],
    "unknown type": [headers.tensor("a", [32], kind=999)],
    "two of a name": [headers.tensor("a", [32]), headers.tensor("a", [32])],
    "layer beyond the last": [headers.tensor("blk.7.attn_q.weight", [32])],
    "data beyond the end": [headers.tensor("a", [32], offset=2**40)],
    "no tensors": [],
}


@pytest.mark.parametrize("tensors", HOSTILE.values(), ids=HOSTILE)
def test_an_absurd_header_gets_one_sentence_that_names_the_file(
    tmp_path: Path, tensors: list[bytes]
) -> None:
    path = headers.write(tmp_path / "bad.gguf", headers.tiny_keys(), tensors)
    with pytest.raises(AppError) as caught:
        read_layout(path)
    assert caught.value.kind is ErrorKind.MODEL_FILE
    assert "bad.gguf" in caught.value.title
    assert caught.value.hint


def test_a_million_tensors_are_refused_at_once(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.gguf", headers.tiny_keys(), [], tensor_count=10**6)
    started = time.monotonic()
    with pytest.raises(AppError, match="1,000,000 tensors"):
        read_layout(path)
    assert time.monotonic() - started < 1


def test_a_truncated_file_says_how_much_is_there(tmp_path: Path, starter_model: Path) -> None:
    path = tmp_path / "cut.gguf"
    with starter_model.open("rb") as source:
        path.write_bytes(source.read(5_000_000))
    with pytest.raises(AppError, match=r"cut.gguf is not complete. It has 5.0 MB of 98.4 MB"):
        read_layout(path)


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"<html>no model</html>", b"GGUF\x63\0\0\0" + b"\0" * 16]
)
def test_what_is_no_gguf_file_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(content)
    with pytest.raises(AppError, match=r"page\.gguf"):
        read_layout(path)


def test_absent_files_and_folders_are_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(AppError) as caught:
            read_layout(path)
        assert path.name in caught.value.title


def _shard(path: Path, number: int, count: int, name: str) -> Path:
    keys = [
        *(headers.tiny_keys(layers=2) if number == 0 else []),
        headers.integer_key("split.no", number),
        headers.integer_key("split.count", count),
    ]
    return headers.write(path, keys, [headers.tensor(name, [32, 8])])


def test_shards_are_joined_whichever_is_named_and_a_missing_one_is_named(tmp_path: Path) -> None:
    first = _shard(tmp_path / "m-00001-of-00002.gguf", 0, 2, "blk.0.attn_q.weight")
    second = _shard(tmp_path / "m-00002-of-00002.gguf", 1, 2, "blk.1.attn_q.weight")
    layout = read_layout(second)
    assert layout.files == (first, second)
    assert [layer.size_bytes for layer in layout.layers] == [1024, 1024]
    second.unlink()
    with pytest.raises(AppError, match=r"m-00002-of-00002\.gguf is missing"):
        read_layout(first)


@hypothesis.settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    position=strategies.integers(0, 600),
    replacement=strategies.binary(min_size=1, max_size=12),
    cut=strategies.integers(0, 2000),
)
def test_whatever_is_in_the_header_ends_in_a_layout_or_an_app_error(
    tmp_path: Path, position: int, replacement: bytes, cut: int
) -> None:
    tensors = [
        headers.tensor("token_embd.weight", [32, 8]),
        headers.tensor("blk.0.ffn_up.weight", [32, 4]),
    ]
    path = headers.write(tmp_path / "fuzz.gguf", headers.tiny_keys(), tensors)
    content = bytearray(path.read_bytes())
    content[position : position + len(replacement)] = replacement
    path.write_bytes(content[: max(1, len(content) - cut)])
    try:
        layout = read_layout(path)
    except AppError as error:
        assert "fuzz.gguf" in error.title  # noqa: PT017 - both outcomes are right
    else:
        assert layout.block_count >= 0


def test_too_much_text_is_given_up_early(tmp_path: Path) -> None:
    kept = headers.strings_key("a", ["x" * 2**20] * 70)
    many = headers.strings_key("tokens", [], count=2_500_000)
    for name, keys in (("kept", [kept]), ("many", [many])):
        path = headers.write(tmp_path / f"{name}.gguf", [*headers.tiny_keys(), *keys], [])
        with path.open("r+b") as stream:
            stream.truncate(2**33)
        with pytest.raises(AppError, match="holds too m"):
            read_layout(path)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(AppError, match="no regular file"):
        read_layout(pipe)
    for path in (Path(), Path("/")):
        with pytest.raises(AppError, match="it is a folder"):
            read_layout(path)


def test_impossible_numbers_are_said_so(tmp_path: Path) -> None:
    name = f"blk.{'9' * 5000}.attn_q.weight"
    path = headers.write(tmp_path / "m.gguf", headers.tiny_keys(), [headers.tensor(name, [32, 8])])
    layout = read_layout(path)
    assert [tensor.name for tensor in layout.other] == [name]
    with pytest.raises(AppError, match="shard 4 of 3"):
        read_layout(tmp_path / "m-00004-of-00003.gguf")


def test_layers_that_guess_further_tokens_are_left_out(tmp_path: Path) -> None:
    keys = [*headers.tiny_keys(layers=3), headers.integer_key("llama.nextn_predict_layers", 1)]
    tensors = [headers.tensor(f"blk.{n}.attn_q.weight", [32, 8]) for n in range(3)]
    layout = read_layout(headers.write(tmp_path / "m.gguf", keys, tensors))
    assert layout.block_count == 2
    assert [layer.index for layer in layout.layers] == [0, 1]
    assert sum(layer.size_bytes for layer in layout.layers) == 2 * 1024


def test_a_shard_under_another_name_is_no_whole_model(tmp_path: Path) -> None:
    keys = [
        *headers.tiny_keys(),
        headers.integer_key("split.no", 0),
        headers.integer_key("split.count", 3),
    ]
    path = headers.write(tmp_path / "renamed.gguf", keys, [headers.tensor("a.weight", [32, 8])])
    with pytest.raises(AppError, match=r"shard 1 of 3, .* not end in -00001-of-00003\.gguf"):
        read_layout(path)
