"""Split models without weights: true headers in sparse shards, with a vocabulary where one is wanted."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.gguf.model import MetadataValue, ModelLayout, TensorInfo
from app.gguf.types import TENSOR_TYPES
from tests.helpers import headers

_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
ALIGNMENT = 32


def llama3_vocabulary() -> list[bytes]:
    """Metadata as large as that of a Llama 3 tokenizer: 128,256 tokens, 280,147 merges, about 8 MB."""
    tokens = [f"Ġtok{n:x}" for n in range(128_256)]
    merges = [f"Ġ{n % 9973:x} q{n:x}" for n in range(280_147)]
    return [
        headers.string_key("tokenizer.ggml.model", "gpt2"),
        headers.strings_key("tokenizer.ggml.tokens", tokens),
        headers.integers_key("tokenizer.ggml.token_type", [1] * len(tokens)),
        headers.strings_key("tokenizer.ggml.merges", merges),
    ]


def write(
    layout: ModelLayout, folder: Path, stem: str, count: int, *, vocabulary: Sequence[bytes] = ()
) -> list[Path]:
    """Write `layout` as `count` shards as llama.cpp's split tool names them, or as one file.

    Args:
        layout: Its tensors keep their order.
        folder: Made if it is absent.
        stem: The beginning of the names.
        count: 1 for a file that is not split.
        vocabulary: Metadata pairs for the first shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(layout)
    parts = _cut(tensors, count)
    common = [_pair(key, value) for key, value in _kept(layout.metadata).items()]
    files = []
    for number, part in enumerate(parts):
        name = f"{stem}-{number + 1:05}-of-{count:05}.gguf" if count > 1 else f"{stem}.gguf"
        split = [
            headers.integer_key("split.no", number),
            headers.integer_key("split.count", count),
            headers.integer_key("split.tensors.count", len(tensors)),
        ]
        keys = [*(common if number == 0 else []), *(vocabulary if number == 0 else [])]
        keys += split if count > 1 else []
        files.append(_write(folder / name, keys, part))
    return files


def _tensors(layout: ModelLayout) -> list[TensorInfo]:
    inside = [tensor for layer in layout.layers for tensor in layer.tensors]
    found = [*layout.token_embedding, *layout.output, *layout.other, *inside]
    return sorted(found, key=lambda tensor: (tensor.shard, tensor.offset))


def _cut(tensors: list[TensorInfo], count: int) -> list[list[TensorInfo]]:
    total, done = sum(t.size_bytes for t in tensors), 0
    parts: list[list[TensorInfo]] = [[] for _ in range(count)]
    for tensor in tensors:
        parts[min(count - 1, done * count // max(total, 1))].append(tensor)
        done += tensor.size_bytes
    return parts


def _write(path: Path, keys: list[bytes], tensors: list[TensorInfo]) -> Path:
    entries, end = [], 0
    for tensor in tensors:
        entries.append(headers.tensor(tensor.name, tensor.shape, _NUMBERS[tensor.type], end))
        end += tensor.size_bytes + -tensor.size_bytes % ALIGNMENT
    head = headers.content(keys, entries, data=b"")
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + end)
    return path


def _kept(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    gone = ("tokenizer.", "split.", "general.alignment")
    return {key: value for key, value in metadata.items() if not key.startswith(gone)}


def _pair(key: str, value: MetadataValue) -> bytes:
    if isinstance(value, str):
        return headers.string_key(key, value)
    if isinstance(value, bool):
        return headers.text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return headers.integer_key(key, value)
    if isinstance(value, float):
        return headers.text(key) + struct.pack("<If", 6, value)
    return headers.integers_key(key, [int(entry) for entry in value])
