"""Which segments of one file are missing, on their way, or on disk; thread-safe."""

from __future__ import annotations

import array
import threading
from collections.abc import Iterable, Mapping

from app import units

MAX_RUN_BYTES = 64 * units.MIB
"""Most bytes asked for in one request: few requests, yet no connection idles at the end for long."""
AHEAD_BYTES = 256 * units.MIB
"""Most bytes on their way in all requests: while the hash waits for the first, the others leave it behind."""

_MISSING, _TAKEN, _WRITTEN = 0, 1, 2


class Segments:
    """The segments of a file, handed out in ascending order.

    Attributes:
        written_bytes: On disk and in the crash record.
        lost_bytes: Were that, but not what was received.
    """

    def __init__(self, size_bytes: int, segment_bytes: int, digests: Mapping[int, int]) -> None:
        """`digests` are those already on disk; they are checked when they are hashed."""
        self.size_bytes = size_bytes
        self.segment_bytes = segment_bytes
        self.count = -(-size_bytes // segment_bytes)
        self._states = bytearray(self.count)
        self._digests = array.array("L", bytes(self.count * array.array("L").itemsize))
        for index, crc in digests.items():
            self._states[index] = _WRITTEN
            self._digests[index] = crc
        self.written_bytes = sum(self.length(index) for index in digests)
        self.lost_bytes = 0
        self._changed = threading.Condition()
        self._awaited = -1
        self._stopped = False

    def length(self, index: int, count: int = 1) -> int:
        """Size of `count` segments in bytes; the last one of a file may be shorter."""
        return min(count * self.segment_bytes, self.size_bytes - index * self.segment_bytes)

    def digest(self, index: int) -> int | None:
        """CRC-32 at receipt."""
        return self._digests[index] if self._states[index] == _WRITTEN else None

    def take(self, connections: int, *, to_the_end: bool = False) -> tuple[int, int] | None:
        """The next missing bytes (start, end) for one request; None if none are missing now.

        Shares become smaller towards the end, so that all connections end together.
        """
        with self._changed:
            first = self._states.find(_MISSING)
            if first < 0 or self._stopped:
                return None
            left = self.size_bytes - self.written_bytes
            share = min(MAX_RUN_BYTES, AHEAD_BYTES // connections, left // (2 * connections))
            most = self.count if to_the_end else max(1, share // self.segment_bytes)
            last = first
            while last < self.count and last - first < most and self._states[last] == _MISSING:
                self._states[last] = _TAKEN
                last += 1
            return first * self.segment_bytes, min(last * self.segment_bytes, self.size_bytes)

    def give_back(self, start: int, end: int) -> None:
        """What was taken and not written is missing again."""
        with self._changed:
            for index in range(start // self.segment_bytes, -(-end // self.segment_bytes)):
                if self._states[index] == _TAKEN:
                    self._states[index] = _MISSING
            self._changed.notify_all()

    def written(self, index: int, crc: int) -> None:
        """A segment is on disk and in the crash record."""
        with self._changed:
            self._states[index] = _WRITTEN
            self._digests[index] = crc
            self.written_bytes += self.length(index)
            if index == self._awaited or self.written_bytes == self.size_bytes:
                self._changed.notify_all()

    def lose(self, indices: Iterable[int]) -> None:
        """Segments on disk that are not what was received are missing again."""
        with self._changed:
            for index in indices:
                if self._states[index] == _WRITTEN:
                    self._states[index] = _MISSING
                    self.written_bytes -= self.length(index)
                    self.lost_bytes += self.length(index)
            self._changed.notify_all()

    def wait_written(self, index: int, most: int) -> int:
        """Wait for a segment; how many are there from it on, up to `most`, or 0 if it will not come."""
        with self._changed:
            self._awaited = index
            while self._states[index] != _WRITTEN and not self._stopped:
                self._changed.wait()
            there = self._states[index : index + most]
            return 0 if self._stopped else len(there) - len(there.lstrip(bytes([_WRITTEN])))

    def wait_missing(self) -> None:
        """Wait until something is missing that nobody fetches, or the end."""
        with self._changed:
            while not self._stopped and self._states.find(_MISSING) < 0:
                self._changed.wait()

    def begin(self) -> None:
        """Hand out again after a `stop`."""
        with self._changed:
            self._stopped = False

    @property
    def stopped(self) -> bool:
        """True from `stop` to `begin`."""
        return self._stopped

    def stop(self) -> None:
        """Nobody waits any more, and nothing is handed out."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
