"""A word with its icon and colour: every state is told in all three."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from ui import theme
from ui.widgets.labels import label, set_state

ICONS = {"ok": "check", "warn": "triangle-alert", "error": "x", "busy": "clock", "accent": "star"}


class StateWord(QWidget):
    """Icon and word; the state is `ok`, `warn`, `error`, `accent`, `busy` or empty."""

    def __init__(self, parent: QWidget | None = None, *, kind: str = "state") -> None:
        super().__init__(parent)
        self._state = self._icon_name = ""
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self._icon = QLabel()
        self._icon.setFixedWidth(16)
        row.addWidget(self._icon, 0, Qt.AlignmentFlag.AlignVCenter)
        self.word = label("", kind, wrap=kind == "lead")
        row.addWidget(self.word, 1)
        theme.manager().changed.connect(self._draw)

    def set_state(self, words: str, state: str, icon: str = "") -> None:
        """Show `words`; without `icon` the state's own."""
        self.word.setText(words)
        self.setAccessibleName(words)
        self._state = state
        self._icon_name = icon or ICONS.get(state, "")
        set_state(self.word, "" if state == "busy" else state)
        self._draw()

    def _draw(self) -> None:
        self._icon.setVisible(bool(self._icon_name))
        if self._icon_name:
            look = theme.current()
            color = look.muted if self._state in ("", "busy") else getattr(look, self._state)
            ratio = self.devicePixelRatioF()
            self._icon.setPixmap(theme.pixmap(self._icon_name, color, 16, ratio))
