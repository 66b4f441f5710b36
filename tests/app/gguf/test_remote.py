from __future__ import annotations

import dataclasses
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies

from app import units
from app.errors import AppError, ErrorKind
from app.gguf.reader import read_layout, read_layout_from
from app.gguf.remote import MAX_HEADER_BYTES
from tests.helpers import headers


@dataclasses.dataclass
class Memory:
    """A file in memory that counts what is asked of it."""

    content: bytes
    name: str = "owner/repo/memory.gguf"
    size_bytes: int = -1
    reads: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            self.size_bytes = len(self.content)

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= self.size_bytes
        self.reads.append((start, end))
        return self.content[start:end].ljust(end - start, b"\0")

    @property
    def fetched(self) -> int:
        return sum(end - start for start, end in self.reads)


def large_vocabulary(path: Path) -> Path:
    """A model with as large a vocabulary as Llama 3 has: 128,256 tokens, 280,147 merges."""
    keys = [
        *headers.tiny_keys(),
        headers.strings_key("tokenizer.ggml.tokens", [f"token{n:06}" for n in range(128_256)]),
        headers.integers_key("tokenizer.ggml.token_type", [1] * 128_256),
        headers.strings_key("tokenizer.ggml.merges", [f"{n:06} tok" for n in range(280_147)]),
        headers.string_key("tokenizer.chat_template", "{{ messages }}"),
    ]
    tensors = [
        headers.tensor("token_embd.weight", [32, 128_256]),
        headers.tensor("blk.0.ffn_up.weight", [32, 4], offset=32 * 128_256 * 4),
    ]
    headers.write(path, keys, tensors, data=b"")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + 2**30)
    return path


def content_of(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(size)


def test_it_is_the_layout_of_the_local_file(starter_model: Path) -> None:
    source = Memory(starter_model.read_bytes(), name=f"owner/repo/{starter_model.name}")
    layout = read_layout_from([source])
    local = read_layout(starter_model)
    assert layout == dataclasses.replace(local, files=(Path(source.name),))
    assert len(source.reads) <= 2
    assert source.fetched <= 5 * units.MIB


def test_a_large_vocabulary_takes_three_reads(tmp_path: Path) -> None:
    path = large_vocabulary(tmp_path / "large.gguf")
    source = Memory(content_of(path, 20 * units.MIB), size_bytes=path.stat().st_size)
    layout = read_layout_from([source])
    assert layout.vocabulary_size == 128_256
    assert layout.chat_template == "{{ messages }}"
    assert len(source.reads) <= 3
    assert source.fetched <= 13 * units.MIB


def test_a_long_array_of_numbers_is_skipped_and_not_fetched(tmp_path: Path) -> None:
    keys = [*headers.tiny_keys(), headers.integers_key("ids", [0] * 8_000_000)]
    path = headers.write(tmp_path / "m.gguf", keys, [headers.tensor("token_embd.weight", [32, 8])])
    source = Memory(path.read_bytes())
    assert read_layout_from([source]).vocabulary_size == 0
    assert source.fetched < 6 * units.MIB


def test_shards_after_the_first_are_read_in_small_parts() -> None:
    shards = []
    for number in range(3):
        keys = [
            *(headers.tiny_keys(layers=3) if number == 0 else []),
            headers.integer_key("split.no", number),
            headers.integer_key("split.count", 3),
        ]
        content = headers.content(keys, [headers.tensor(f"blk.{number}.attn_q.weight", [32, 8])])
        name = f"o/r/m-{number + 1:05}-of-00003.gguf"
        shards.append(Memory(content, name=name, size_bytes=2**33))
    layout = read_layout_from(shards)
    assert [str(file) for file in layout.files] == [shard.name for shard in shards]
    assert [layer.size_bytes for layer in layout.layers] == [1024] * 3
    assert [len(shard.reads) for shard in shards] == [1, 1, 1]
    assert max(shard.fetched for shard in shards[1:]) <= 128 * 1024
    with pytest.raises(AppError, match=r"calls itself shard 2 of 3"):
        read_layout_from([shards[0], shards[2], shards[1]])


def test_an_endless_vocabulary_is_given_up_after_64_mib() -> None:
    tokens = headers.strings_key("tokens", ["t" * 1016] * (65 * 1024), count=1_900_000)
    source = Memory(headers.content([tokens], []), size_bytes=2**40)
    with pytest.raises(AppError, match="more than 64 MiB") as caught:
        read_layout_from([source])
    assert caught.value.kind is ErrorKind.MODEL_FILE
    assert source.fetched <= MAX_HEADER_BYTES
    assert len(source.reads) <= 8


def test_a_source_that_ends_early_is_not_complete(starter_model: Path) -> None:
    source = Memory(content_of(starter_model, 5_000_000))
    with pytest.raises(AppError, match=r"memory.gguf is not complete. It has 5.0 MB of 98.4 MB"):
        read_layout_from([source])


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    position=strategies.integers(0, 600),
    replacement=strategies.binary(max_size=12),
    cut=strategies.integers(0, 9000),
    size=strategies.sampled_from([0, 1, 100, 2**20, 2**40]),
)
def test_whatever_a_source_holds_ends_in_a_layout_or_an_app_error(
    position: int, replacement: bytes, cut: int, size: int
) -> None:
    tensors = [
        headers.tensor("token_embd.weight", [32, 8]),
        headers.tensor("blk.0.ffn_up.weight", [32, 4]),
    ]
    content = bytearray(headers.content(headers.tiny_keys(), tensors))
    content[position : position + len(replacement)] = replacement
    source = Memory(bytes(content[: max(1, len(content) - cut)]))
    source.size_bytes = max(source.size_bytes, size)
    try:
        layout = read_layout_from([source])
    except AppError as error:
        assert "memory.gguf" in error.title  # noqa: PT017 - both outcomes are right
    else:
        assert layout.block_count >= 0
    assert source.fetched <= MAX_HEADER_BYTES
    assert len(source.reads) <= 8
