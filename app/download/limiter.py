"""The limit in bytes per second over all connections of all downloads: one token bucket."""

from __future__ import annotations

import threading
import time

BURST_S = 0.1
"""What may be taken at once after a pause, in seconds of the limit."""


class Limiter:
    """Shares out bandwidth; thread-safe, changeable while it is in use."""

    def __init__(self, bytes_per_s: int | None = None) -> None:
        """None or 0 is no limit."""
        self._condition = threading.Condition()
        self._rate = bytes_per_s or 0
        self._credit = 0.0
        self._then = time.monotonic()

    @property
    def bytes_per_s(self) -> int | None:
        """The limit now, None for none."""
        return self._rate or None

    def change(self, bytes_per_s: int | None) -> None:
        """Another limit from now on, also for those who wait."""
        with self._condition:
            self._rate = bytes_per_s or 0
            self._credit = 0.0  # what was taken under the old limit is not paid for under this one
            self._then = time.monotonic()
            self._condition.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether they should stop."""
        with self._condition:
            self._condition.notify_all()

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` more bytes are within the limit, or `stop` is set.

        They are taken at once and paid for by waiting, so that any piece passes any limit.
        """
        if not self._rate:
            return
        with self._condition:
            self._refill()
            self._credit -= count
            while self._rate and self._credit < 0 and not stop.is_set():
                self._condition.wait(-self._credit / self._rate)
                self._refill()

    def _refill(self) -> None:
        now = time.monotonic()
        self._credit += (now - self._then) * self._rate
        self._credit = min(self._credit, BURST_S * self._rate)
        self._then = now

    def piece(self, most: int) -> int:
        """How many bytes to read at once, `most` at most, so that a low limit still flows."""
        return min(most, max(1024, self._rate // 16)) if self._rate else most
