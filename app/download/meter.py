"""Speed and remaining time from what has been received."""

from __future__ import annotations

import collections

SPEED_S = 5.0
AVERAGE_S = 60.0
HIDDEN_S = 10.0
"""For so long the remaining time is not told: it would jump."""

GAP_S = 5.0
"""Samples come a few times a second; after such a gap the machine, or the process, was asleep."""

LEAST_S = 1.0
"""What the kernel held ready, at the beginning and after sleep, comes at once: no speed is from less."""


class Meter:
    """Takes samples (time, bytes received in this run) and answers for the last one."""

    def __init__(self) -> None:
        """No samples."""
        self._samples: collections.deque[tuple[float, int]] = collections.deque()
        self._begun: float | None = None

    def add(self, now_s: float, received_bytes: int) -> None:
        """A sample; `received_bytes` never becomes smaller. After sleep all begins anew."""
        if self._samples and now_s - self._samples[-1][0] > GAP_S:
            self._samples.clear()
            self._begun = None
        if self._begun is None:
            self._begun = now_s
        self._samples.append((now_s, received_bytes))
        while now_s - self._samples[0][0] > AVERAGE_S:
            self._samples.popleft()

    def bytes_per_s(self, window_s: float = SPEED_S) -> float:
        """Average over the last `window_s` seconds."""
        if len(self._samples) < 2:
            return 0.0
        now, last = self._samples[-1]
        first = next(s for s in self._samples if now - s[0] <= window_s or s is self._samples[-2])
        return (last - first[1]) / max(now - first[0], LEAST_S)

    def remaining_s(self, missing_bytes: int) -> float | None:
        """Until `missing_bytes` have come, at the average of the last minute."""
        if self._begun is None or self._samples[-1][0] - self._begun < HIDDEN_S:
            return None
        rate = self.bytes_per_s(AVERAGE_S)
        return missing_bytes / rate if rate > 0 else None
