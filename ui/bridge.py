"""The one place where events of the core's threads reach the GUI thread."""

from __future__ import annotations

import collections
import threading

from PySide6.QtCore import QObject, Qt, Signal

from app.events import AppEvent


class Bridge(QObject):
    """Collects events under a lock; one queued signal per batch drains them on the GUI thread.

    Signals:
        received: One `AppEvent`, on the GUI thread, in order.
    """

    received = Signal(object)
    _pending = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._lock = threading.Lock()
        self._events: collections.deque[AppEvent] = collections.deque()
        self._scheduled = False
        self._pending.connect(self._drain, Qt.ConnectionType.QueuedConnection)

    def post(self, event: AppEvent) -> None:
        """Take an event; callable from any thread."""
        with self._lock:
            self._events.append(event)
            if self._scheduled:
                return
            self._scheduled = True
        self._pending.emit()

    def _drain(self) -> None:
        with self._lock:
            batch, self._events = self._events, collections.deque()
            self._scheduled = False
        for event in batch:
            self.received.emit(event)
