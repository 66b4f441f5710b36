"""What is done once a person, or what streams in, rests."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, QTimer


def after_rest(parent: QObject, rest_ms: int, slot: Callable[[], object]) -> QTimer:
    """A timer that calls `slot` once, `rest_ms` after its last start."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(rest_ms)
    timer.timeout.connect(slot)
    return timer
