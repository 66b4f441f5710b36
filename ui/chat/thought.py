"""What a model thought before it answered: open while it runs, then folded to one line."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from app import units
from ui.chat.folding import Folding


class Thought(Folding):
    """Hidden as long as there is none."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Reasoning", parent=parent)
        self.setContentsMargins(0, 0, 0, 8)
        self.hide()

    def set_running(self, text: str) -> None:
        """Show what has been thought so far."""
        self._show(text, "Thinking")
        self.head.setChecked(True)

    def finish(self, text: str, tokens: int, seconds: float) -> None:
        """Fold it; the line tells how long it took."""
        self._show(
            text, f"Thought {units.format_duration(seconds)} · {units.format_tokens(tokens)}"
        )
        self.head.setChecked(False)

    def _show(self, text: str, head: str) -> None:
        self.body.setPlainText(text.strip())
        self.head.setText(head)
        self.setVisible(bool(text.strip()))
