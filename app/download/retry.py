"""When a connection that failed is tried again."""

from __future__ import annotations

import threading
import time

from app.download.model import DownloadError, Reason
from app.download.source import Timing, TransientError

MAX_STRANGE = 8
"""Answers in a row, over all connections, that no working server gives."""


class Retry:
    """Lets the connections of one transfer wait; thread-safe."""

    def __init__(self, timing: Timing, stop: threading.Event) -> None:
        """Nobody waits once `stop` is set and `wake` was called."""
        self._timing = timing
        self._stop = stop
        self._condition = threading.Condition()
        self._until: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._strange = 0
        self._successes = 0
        self.reason = Reason.NONE
        self.count = 0

    def worked(self, number: int) -> None:
        """Connection `number` brings bytes: the others need not wait for the network any longer."""
        with self._condition:
            self._strange = 0
            self._failures.pop(number, None)
            if self._until:
                self._successes += 1
                self._condition.notify_all()

    def wait(self, number: int, error: TransientError) -> None:
        """Wait as long as `error` needs.

        Raises:
            DownloadError: It has gone on for too long with a server that answers nonsense.
        """
        with self._condition:
            self.count += 1
            self.reason = error.reason
            self._strange += error.strange
            if self._strange > MAX_STRANGE:
                raise DownloadError(
                    Reason.BAD_SERVER,
                    "The server does not send what it is asked for.",
                    detail=f"Last: {error}.",
                    hint="Check HF_ENDPOINT, the proxy, and whether the network wants a login first.",
                ) from error
            failures = self._failures[number] = self._failures.get(number, 0) + 1
            asked = error.wait_s
            if asked is None:
                asked = min(
                    self._timing.first_retry_s * 2 ** min(failures - 1, 16),
                    self._timing.longest_retry_s,
                )
            until = self._until[number] = time.monotonic() + asked
            before = self._successes
            try:
                while not self._stop.is_set():
                    left = until - time.monotonic()
                    # What the server itself asks for is kept; a dead network may be back.
                    if left <= 0 or (error.wait_s is None and self._successes != before):
                        return
                    self._condition.wait(left)
            finally:
                del self._until[number]

    def wake(self) -> None:
        """Let those who wait look whether they should stop."""
        with self._condition:
            self._condition.notify_all()

    @property
    def retry_in_s(self) -> float | None:
        """Until the next attempt, None if nobody waits."""
        with self._condition:
            if not self._until:
                return None
            return max(0.0, min(self._until.values()) - time.monotonic())
