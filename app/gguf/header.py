"""One GGUF file's header, from a local file or any other stream: bounded, whatever it holds.

Format: docs/gguf.md of ggml. Weights are never touched.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Protocol

from app import units
from app.errors import Action, AppError, ErrorKind
from app.gguf.model import MetadataValue, TensorInfo
from app.gguf.types import TENSOR_TYPES

MAX_KEYS = 65_536
MAX_TENSORS = 100_000
MAX_STRING_BYTES = 16 * units.MIB
MAX_ARRAY = 16_777_216
MAX_TEXTS = 2_000_000
"""Texts in all arrays together; the largest vocabularies have 800,000 tokens and merges."""
MAX_KEPT_BYTES = 64 * units.MIB
"""Bytes of all texts that are kept."""
KEPT_ARRAY = 4_096
MAX_DIMENSIONS = 4
MAX_SHARDS = 1_000
LIMIT_BYTES = 2**60
DEFAULT_ALIGNMENT = 32

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9


class Stream(Protocol):
    """What a header is read from: the part of a binary file that `Header` needs."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the end."""

    def seek(self, offset: int, whence: int, /) -> int:
        """Move on by `offset` bytes; `whence` is 1."""

    def tell(self) -> int:
        """The position in bytes."""


class BadHeaderError(Exception):
    """The header contradicts itself or the file; the message says how."""


class Header:
    """One file's header: metadata, tensors, where the data begins."""

    def __init__(self, path: Path, stream: Stream, size: int, shard: int) -> None:
        self.path = path
        self.size = size
        self._stream = stream
        self.array_lengths: dict[str, int] = {}
        self._texts_left = MAX_TEXTS
        self._kept_left = MAX_KEPT_BYTES
        if self._take(4) != b"GGUF":
            raise BadHeaderError("it does not begin with the letters GGUF")
        version = self._number("I")
        if version not in (2, 3):
            if int.from_bytes(int(version).to_bytes(4, "little"), "big") in (2, 3):
                raise BadHeaderError("it is written for a big-endian machine")
            raise BadHeaderError(f"it has GGUF version {version}; versions 2 and 3 are known")
        tensors, keys = int(self._number("Q")), int(self._number("Q"))
        if tensors > MAX_TENSORS:
            raise BadHeaderError(f"it claims to hold {tensors:,} tensors")
        if keys > MAX_KEYS:
            raise BadHeaderError(f"it claims to hold {keys:,} metadata keys")
        self.metadata = self._read_metadata(keys)
        self.tensors = tuple(self._read_tensor(shard) for _ in range(tensors))
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise BadHeaderError(f"its alignment of {alignment} is not a power of two")
        here = self._stream.tell()
        self.data_offset = here + -here % alignment

    def _take(self, count: int) -> bytes:
        if count > self.size - self._stream.tell():
            raise TruncatedError
        data = self._stream.read(count)
        if len(data) != count:
            raise TruncatedError
        return data

    def _number(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack("<" + code, self._take(struct.calcsize(code)))[0]
        return value

    def _text(self) -> str:
        length = int(self._number("Q"))
        if length > MAX_STRING_BYTES:
            raise BadHeaderError(f"it holds a text of {length:,} bytes in its header")
        self._kept_left -= length
        if self._kept_left < 0:
            raise BadHeaderError("its header holds too much text")
        return self._take(length).decode("utf-8", errors="replace")

    def _read_metadata(self, keys: int) -> dict[str, MetadataValue]:
        metadata: dict[str, MetadataValue] = {}
        for _ in range(keys):
            key, kind = self._text(), int(self._number("I"))
            value = self._array(key) if kind == _ARRAY else self._value(kind)
            if value is not None:
                metadata[key] = value
        return metadata

    def _value(self, kind: int) -> str | int | float | bool:
        if kind == _STRING:
            return self._text()
        if kind not in _SCALARS:
            raise BadHeaderError(f"its metadata has a value of unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self, key: str) -> tuple[str | int | float | bool, ...] | None:
        """The array, or None after skipping one that is too long to keep (a vocabulary)."""
        kind, length = int(self._number("I")), int(self._number("Q"))
        if length > MAX_ARRAY:
            raise BadHeaderError(f"its metadata key {key[:80]} claims {length:,} entries")
        self.array_lengths[key] = length
        if kind == _STRING:
            self._texts_left -= length
            if self._texts_left < 0:
                raise BadHeaderError("its header holds too many texts")
        if length <= KEPT_ARRAY:
            return tuple(self._value(kind) for _ in range(length))
        if kind == _STRING:
            self._skip_texts(length)
        elif kind in _SCALARS:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
        else:
            raise BadHeaderError(f"its metadata key {key[:80]} has entries of unknown type {kind}")
        return None

    def _skip_texts(self, count: int) -> None:
        read, seek = self._stream.read, self._stream.seek
        for _ in range(count):
            length = read(8)
            if len(length) != 8:
                raise TruncatedError
            size = int.from_bytes(length, "little")
            if size > MAX_STRING_BYTES:
                raise BadHeaderError(f"it holds a text of {size:,} bytes in its header")
            seek(size, 1)
        if self._stream.tell() > self.size:
            raise TruncatedError

    def _skip(self, count: int) -> None:
        if count > self.size - self._stream.tell():
            raise TruncatedError
        self._stream.seek(count, 1)

    def _read_tensor(self, shard: int) -> TensorInfo:
        name, dimensions = self._text(), int(self._number("I"))
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise BadHeaderError(f"its tensor {name[:80]} has {dimensions:,} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dimensions))
        kind, offset = int(self._number("I")), int(self._number("Q"))
        if kind not in TENSOR_TYPES:
            raise BadHeaderError(f"its tensor {name[:80]} has the unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        elements = math.prod(shape)
        if not 0 < elements < LIMIT_BYTES or max(shape) >= 2**63 or shape[0] % block:
            raise BadHeaderError(f"its tensor {name[:80]} has the impossible shape {list(shape)}")
        size = elements // block * block_bytes
        return TensorInfo(
            name=name, shape=shape, type=type_name, size_bytes=size, offset=offset, shard=shard
        )


class TruncatedError(Exception):
    """The file ends within its header."""


def parse(path: Path, stream: Stream, size: int, shard: int) -> Header:
    """The header at the beginning of `stream`, of a file of `size` bytes called `path`.

    Raises:
        AppError: It is no whole GGUF model.
    """
    try:
        header = Header(path, stream, size, shard)
    except TruncatedError:
        raise _truncated(path, "It ends within its header.") from None
    except BadHeaderError as error:
        raise unusable(path, str(error)) from None
    ends = (header.data_offset + t.offset + t.size_bytes for t in header.tensors)
    needed = max(ends, default=0)
    if needed > size:
        raise _truncated(
            path, f"It has {units.format_file_size(size)} of {units.format_file_size(needed)}."
        )
    return header


def shard_names(name: str) -> tuple[str, ...]:
    """The names of all shards of a split model, whichever is named; only `name` if it is not split.

    Raises:
        AppError: The name claims an impossible number of shards.
    """
    match = _SHARD.match(name)
    if match is None:
        return (name,)
    count, number = int(match["count"]), int(match["number"])
    if not 1 <= count <= MAX_SHARDS:
        raise unusable(Path(name), f"its name claims {count:,} shards")
    if not 1 <= number <= count:
        raise unusable(Path(name), f"its name claims to be shard {number:,} of {count:,}")
    return tuple(f"{match['stem']}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1))


def _truncated(path: Path, detail: str) -> AppError:
    return AppError(
        f"The file {path.name} is not complete.",
        detail=detail,
        hint="Download it again, or choose another file.",
        action=Action.CHOOSE_MODEL,
        kind=ErrorKind.MODEL_FILE,
    )


def unusable(
    path: Path,
    reason: str,
    hint: str = "Choose another GGUF file, or download this one again.",
) -> AppError:
    """The error for a file that is complete, but no model."""
    return AppError(
        f"{path.name or path} is not a usable GGUF model: {reason}.",
        hint=hint,
        action=Action.CHOOSE_MODEL,
        kind=ErrorKind.MODEL_FILE,
    )
