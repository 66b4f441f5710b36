"""A head of one line; unfolded, the text below it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from ui.chat.blocks import Text
from ui.widgets.labels import frame


class Folding(QWidget):
    """`head` is a button that opens and closes `body`; it is closed at first."""

    def __init__(self, name: str, *, rule: bool = False, parent: QWidget | None = None) -> None:
        """`name` tells a screen reader what the body is; `rule` draws a line beside the head."""
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.head = QToolButton()
        self.head.setProperty("kind", "link")
        self.head.setCheckable(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.toggled.connect(self._fold)
        self.body = Text()
        self.body.setProperty("state", "muted")
        self.body.setAccessibleName(name)
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(self.head)
        if rule:
            row.addWidget(frame("rule"), 1)
        else:
            row.addStretch(1)
        column.addLayout(row)
        column.addWidget(self.body)
        self._fold(False)

    def _fold(self, opened: bool) -> None:
        self.body.setVisible(opened)
        self.head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
