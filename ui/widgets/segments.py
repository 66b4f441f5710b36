"""A row of segments of which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QHBoxLayout, QPushButton, QWidget


class Segments(QFrame):
    """Signals: chosen(str), when a person chose another one."""

    chosen = Signal(str)

    def __init__(self, values: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "segments")
        row = QHBoxLayout(self)
        row.setContentsMargins(2, 2, 2, 2)
        row.setSpacing(2)
        self._group = QButtonGroup(self)
        self._buttons = {value: QPushButton(value) for value in values}
        for value, segment in self._buttons.items():
            segment.setProperty("kind", "segment")
            segment.setCheckable(True)
            segment.setAccessibleName(value)
            self._group.addButton(segment)
            segment.clicked.connect(lambda _checked=False, v=value: self.chosen.emit(v))
            row.addWidget(segment, 1)

    @property
    def value(self) -> str:
        """The chosen one, or empty."""
        return next((v for v, b in self._buttons.items() if b.isChecked()), "")

    def set_value(self, value: str) -> None:
        """Choose without a signal; none of them where `value` is another one."""
        self._group.setExclusive(False)
        for each, segment in self._buttons.items():
            segment.setChecked(each == value)
        self._group.setExclusive(True)
