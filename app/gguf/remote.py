"""GGUF headers from anything that can give a range of bytes, in a few growing requests.

No network here: a `Source` does the transport.
"""

from __future__ import annotations

from typing import Protocol

from app import units
from app.gguf.header import BadHeaderError

MAX_HEADER_BYTES = 64 * units.MIB
"""Most bytes fetched for one model's headers: eight times what a vocabulary of 128,000 takes."""

_FIRST_BYTES = (units.MIB, 4 * units.MIB, 8 * units.MIB)
_LATER_SHARD_BYTES = (128 * 1024, units.MIB, 8 * units.MIB)
_MORE_BYTES = 16 * units.MIB


class Source(Protocol):
    """A file of known size, somewhere, of which any part can be had."""

    @property
    def name(self) -> str:
        """The path by which errors and layouts call it."""

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`.

        Raises:
            AppError: They cannot be had.
        """


class SourceStream:
    """A source as the stream that a header is read from; what is skipped is not fetched.

    The first chunk holds the header of a model with a small vocabulary, the first three (13 MiB)
    that of one with a large one. Shards after the first have no vocabulary.
    """

    def __init__(
        self, source: Source, *, limit_bytes: int = MAX_HEADER_BYTES, shard: int = 0
    ) -> None:
        """Read `source` from its beginning, fetching at most `limit_bytes`."""
        self._source = source
        self._limit = limit_bytes
        self._sizes = list(_LATER_SHARD_BYTES if shard else _FIRST_BYTES)
        self._buffer = b""
        self._start = 0
        self._position = 0
        self.fetched_bytes = 0

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the end of the file."""
        here = self._position - self._start
        if here + size > len(self._buffer):
            self._fetch(size)
            here = 0
        data = self._buffer[here : here + size]
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 1, /) -> int:  # noqa: ARG002 - as in a binary file
        """Move on by `offset` bytes, without fetching any."""
        self._position += offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def _fetch(self, size: int) -> None:
        """Let the buffer begin here and hold the next `size` bytes."""
        kept = self._buffer[self._position - self._start :]
        start = self._position + len(kept)
        chunk = self._sizes.pop(0) if self._sizes else _MORE_BYTES
        left = self._limit - self.fetched_bytes
        wanted = min(size - len(kept), self._source.size_bytes - start)
        if wanted > left:
            raise BadHeaderError(f"its header takes more than {MAX_HEADER_BYTES // units.MIB} MiB")
        end = min(start + min(max(chunk, wanted), left), self._source.size_bytes)
        more = self._source.read(start, end) if end > start else b""
        self.fetched_bytes += len(more)
        self._buffer = kept + more
        self._start = self._position
