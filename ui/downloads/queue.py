"""The rest of the queue: what comes next, and what is done."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.download.model import Download, DownloadState
from ui.downloads import words
from ui.widgets.labels import button, frame, label
from ui.widgets.verdict import StateWord


class Queue(QWidget):
    """Signals: shown(str), put it on the board; started(str), before all others; loaded(str)."""

    shown = Signal(str)
    started = Signal(str)
    loaded = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._told: tuple[object, ...] = ()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        head = QHBoxLayout()
        head.addWidget(label("Next and done", "strong"))
        head.addStretch(1)
        head.addWidget(label("One at a time on each disk. The queue survives a restart.", "muted"))
        column.addLayout(head)
        self._card = QFrame()
        self._card.setProperty("kind", "card")
        self._rows = QVBoxLayout(self._card)
        self._rows.setContentsMargins(20, 4, 20, 4)
        self._rows.setSpacing(0)
        column.addWidget(self._card)

    def set_downloads(self, downloads: Sequence[Download]) -> None:
        """Show these; nothing is built anew while only figures change."""
        told = tuple((d.id, words.state(d)) for d in downloads)
        self.setVisible(bool(downloads))
        if told == self._told:
            return
        self._told = told
        while item := self._rows.takeAt(0):
            if widget := item.widget():
                widget.hide()
                widget.deleteLater()
        for index, download in enumerate(downloads):
            if index:
                self._rows.addWidget(frame("rule"))
            self._rows.addWidget(self._row(download))

    def _row(self, download: Download) -> QWidget:
        box = QWidget()
        box.setFixedHeight(44)
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        name = button(f"{words.name(download)} {words.quantization(download)}".strip(), "link")
        name.setAccessibleDescription("Show it on the board")
        name.clicked.connect(lambda: self.shown.emit(download.id))
        row.addWidget(name)
        row.addStretch(1)
        row.addWidget(label(units.format_file_size(download.request.size_bytes)))
        state = StateWord(kind="small")
        state.set_state(*words.state(download))
        state.setMinimumWidth(200)
        row.addWidget(state)
        if download.state is DownloadState.DONE:
            action, signal = "Load", self.loaded
        else:
            action, signal = "Start now", self.started
        if action != "Load" or words.loadable(download):
            act = button(action, "link")
            act.clicked.connect(lambda: signal.emit(download.id))
            row.addWidget(act)
        return box
