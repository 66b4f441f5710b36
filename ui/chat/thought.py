"""What a model thought before it answered: open while it runs, then folded to one line."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QToolButton, QVBoxLayout, QWidget

from app import units
from ui.chat.blocks import Text


class Thought(QWidget):
    """Hidden as long as there is none."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 8)
        column.setSpacing(4)
        self._head = QToolButton()
        self._head.setProperty("kind", "link")
        self._head.setCheckable(True)
        self._head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._head.toggled.connect(self._fold)
        self._body = Text()
        self._body.setProperty("state", "muted")
        self._body.setAccessibleName("Reasoning")
        column.addWidget(self._head, 0, Qt.AlignmentFlag.AlignLeft)
        column.addWidget(self._body)
        self.hide()

    def set_running(self, text: str) -> None:
        """Show what has been thought so far."""
        self._show(text, "Thinking")
        self._head.setChecked(True)

    def finish(self, text: str, tokens: int, seconds: float) -> None:
        """Fold it; the line tells how long it took."""
        if not text.strip():
            self.hide()
            return
        self._show(text, f"Thought {units.format_duration(seconds)} · {tokens:,} tokens")
        self._head.setChecked(False)
        self._fold(False)

    def _show(self, text: str, head: str) -> None:
        self._body.setPlainText(text.strip())
        self._head.setText(head)
        self.setVisible(bool(text.strip()))

    def _fold(self, opened: bool) -> None:
        self._body.setVisible(opened)
        self._head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
