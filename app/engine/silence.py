"""How long nothing was heard of a process that has something to do: worth a question, never an end."""

from __future__ import annotations

import time

STALL_S = 120.0
"""Silence that is worth a question; a micro-batch of a very large model may take as long."""
BUSY_SHARE = 0.1
"""A process that uses this much of one processor computes."""


class Silence:
    """Measures one process's silence.

    Attributes:
        limit_s: What is worth a question.
        asked: A question was asked, and nothing heard since.
    """

    def __init__(self, limit_s: float) -> None:
        """Nothing is silent yet."""
        self.limit_s = limit_s
        self.asked = False
        self._heard_at = self._looked_at = time.monotonic()
        self._computed_s = 0.0

    @property
    def look_s(self) -> float:
        """How often to look."""
        return self.limit_s / 2

    def heard(self) -> bool:
        """Something was heard, or asked for; True if that ends a silence that was told."""
        self._heard_at = time.monotonic()
        was, self.asked = self.asked, False
        return was

    def look(self, computed_s: float) -> tuple[float, bool] | None:
        """Seconds of silence and whether the process computes, if that is worth a question.

        `computed_s` is the processor time that it used up to now.
        """
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        used, self._computed_s = computed_s - self._computed_s, computed_s
        if now - self._heard_at < self.limit_s:
            return None
        self.asked = True
        return now - self._heard_at, used > BUSY_SHARE * passed
