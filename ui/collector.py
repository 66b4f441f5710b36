"""Python's cyclic garbage is collected on the GUI thread alone.

By itself it is collected on whichever thread happens to allocate, and what Qt shows must not be freed on
one of the core's.
"""

from __future__ import annotations

import gc
import time

from PySide6.QtCore import QObject, QTimer

LOOK_MS = 200
FULL_S = 20.0
"""A full collection takes some ten milliseconds, so there is none more often."""


class Collector(QObject):
    """Looks now and then whether there is enough to collect, as Python itself does at each allocation."""

    def __init__(self, parent: QObject | None = None) -> None:
        """Python no longer does it by itself."""
        super().__init__(parent)
        gc.disable()
        self._full_at = time.monotonic()
        timer = QTimer(self)
        timer.timeout.connect(self.look)
        timer.start(LOOK_MS)

    def look(self) -> None:
        """Collect what is due, the oldest generation at most every `FULL_S` seconds."""
        due = [
            count > most > 0 for count, most in zip(gc.get_count(), gc.get_threshold(), strict=True)
        ]
        now = time.monotonic()
        if due[2] and now - self._full_at >= FULL_S:
            self._full_at = now
            gc.collect()
        elif due[1] or due[2]:
            gc.collect(1)
        elif due[0]:
            gc.collect(0)
