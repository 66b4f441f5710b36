"""Writes small GGUF headers, valid or hostile."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

Key = tuple[str, int, bytes]


def text(value: str) -> bytes:
    """A GGUF string."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def string_key(key: str, value: str) -> bytes:
    """A metadata pair with a string."""
    return text(key) + struct.pack("<I", 8) + text(value)


def integer_key(key: str, value: int) -> bytes:
    """A metadata pair with a u32."""
    return text(key) + struct.pack("<II", 4, value)


def strings_key(key: str, values: Sequence[str], *, count: int | None = None) -> bytes:
    """A metadata pair with an array of strings; `count` may lie."""
    length = len(values) if count is None else count
    return text(key) + struct.pack("<IIQ", 9, 8, length) + b"".join(map(text, values))


def integers_key(key: str, values: Sequence[int]) -> bytes:
    """A metadata pair with an array of i32."""
    return text(key) + struct.pack(f"<IIQ{len(values)}i", 9, 5, len(values), *values)


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's entry; kind 0 is F32."""
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return (
        text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)
    )


def tiny_keys(architecture: str = "llama", layers: int = 1) -> list[bytes]:
    """Metadata of a tiny model."""
    return [
        string_key("general.architecture", architecture),
        integer_key(f"{architecture}.block_count", layers),
        integer_key(f"{architecture}.context_length", 128),
        integer_key(f"{architecture}.embedding_length", 32),
        integer_key(f"{architecture}.feed_forward_length", 64),
        integer_key(f"{architecture}.attention.head_count", 4),
    ]


def content(
    keys: Sequence[bytes],
    tensors: Sequence[bytes],
    *,
    data: bytes = b"\0" * 8192,
    tensor_count: int | None = None,
) -> bytes:
    """The whole file; `tensor_count` may lie."""
    count = len(tensors) if tensor_count is None else tensor_count
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(keys))
    body = head + b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + data


def write(
    path: Path,
    keys: Sequence[bytes],
    tensors: Sequence[bytes],
    *,
    data: bytes = b"\0" * 8192,
    tensor_count: int | None = None,
) -> Path:
    """Write the file; `tensor_count` may lie."""
    path.write_bytes(content(keys, tensors, data=data, tensor_count=tensor_count))
    return path
