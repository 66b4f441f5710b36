"""The checksum of a part while it grows, and which of its segments are damaged on disk."""

from __future__ import annotations

import errno
import hashlib
import io
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from app import units
from app.download.disk import no_follow
from app.download.model import DownloadFile
from app.download.segments import Segments
from app.errors import Cancelled

READ_BYTES = 4 * units.MIB
"""Hashed at once: after each the thread stands in line behind all those that receive."""


class Hasher:
    """Reads a part, and compares segments of it with their digests; for one thread.

    Attributes:
        hashed_bytes: In the checksum so far.
    """

    def __init__(
        self, file: DownloadFile, part: Path, segments: Segments, stop: threading.Event
    ) -> None:
        """What is there now is of an earlier run: each segment of it is compared."""
        self._file = file
        self._part = part
        self._segments = segments
        self._stop = stop
        self._unchecked = {i for i in range(segments.count) if segments.digest(i) is not None}
        self._most = max(1, READ_BYTES // segments.segment_bytes)
        self._view = memoryview(bytearray(READ_BYTES))
        self.hashed_bytes = 0

    def digest(self) -> str:
        """Of the file from its beginning, as far as it is there, to its end.

        A segment of an earlier run that is damaged is lost, and waited for again.

        Raises:
            Cancelled: The rest will not come.
            OSError: The part cannot be read.
        """
        self.hashed_bytes = index = 0
        total = self._file.hasher()
        with self._open() as stream:
            while index < self._segments.count:
                ready = self._segments.wait_written(index, self._most)
                if not ready:
                    raise Cancelled
                if index in self._unchecked:
                    ahead = self._compared(stream, index, total)
                    if ahead is None:
                        continue
                    total, ready = ahead, 1
                else:
                    ready = next((n for n in range(ready) if index + n in self._unchecked), ready)
                    for piece in self._pieces(stream, index, ready):
                        total.update(piece)
                self.hashed_bytes += self._segments.length(index, ready)
                index += ready
        return total.hexdigest()

    def damaged(self) -> list[int]:
        """Segments on disk that are not what was received.

        Raises:
            Cancelled: It was stopped.
            OSError: The part cannot be read.
        """
        lost = []
        with self._open() as stream:
            for index in range(self._segments.count):
                if self._stop.is_set():
                    raise Cancelled
                crc = 0
                for piece in self._pieces(stream, index, 1):
                    crc = zlib.crc32(piece, crc)
                if crc != self._segments.digest(index):
                    lost.append(index)
        return lost

    def _open(self) -> io.FileIO:
        return io.FileIO(self._part, "rb", opener=no_follow)

    def _compared(
        self, stream: io.FileIO, index: int, total: hashlib._Hash
    ) -> hashlib._Hash | None:
        """`total` with a segment of an earlier run; None if that is damaged, and now lost."""
        ahead, crc = total.copy(), 0
        for piece in self._pieces(stream, index, 1):
            ahead.update(piece)
            crc = zlib.crc32(piece, crc)
        if crc == self._segments.digest(index):
            return ahead
        self._unchecked.discard(index)
        self._segments.lose([index])
        return None

    def _pieces(self, stream: io.FileIO, index: int, count: int) -> Iterator[memoryview]:
        """The content of `count` segments; each piece is overwritten by the next."""
        left = self._segments.length(index, count)
        stream.seek(index * self._segments.segment_bytes)
        while left:
            size = stream.readinto(self._view[: min(left, READ_BYTES)])
            if not size:
                raise OSError(errno.EIO, "the file has become shorter")
            yield self._view[:size]
            left -= size
