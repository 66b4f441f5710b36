"""One message in the transcript."""

from __future__ import annotations

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from ui.chat.blocks import Answer, Text
from ui.chat.thought import Thought
from ui.widgets.labels import button, label

NOTES = {
    "stopped": "Stopped.",
    "truncated": "The context or the longest answer was reached.",
    "interrupted": "The engine stopped before the answer was complete.",
}


class Bubble(QWidget):
    """A user's message in a soft bubble, or an answer without one, with its note and a copy button."""

    def __init__(self, *, user: bool) -> None:
        super().__init__()
        self.text = ""
        self.user = user
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        if user:
            self._text = Text()
            self._text.setAccessibleName("Your message")
            box = QFrame()
            box.setProperty("kind", "bubble")
            inner = QVBoxLayout(box)
            inner.setContentsMargins(16, 10, 16, 10)
            inner.addWidget(self._text)
            row = QHBoxLayout()
            row.addSpacing(120)
            row.addWidget(box)
            outer.addLayout(row)
            return
        self._thought = Thought()
        outer.addWidget(self._thought)
        self._answer = Answer()
        self._answer.setAccessibleName("Answer")
        outer.addWidget(self._answer)
        foot = QHBoxLayout()
        self._note = label("", "muted")
        self._copy = button("Copy", "link")
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.text))
        self._copy.hide()
        foot.addWidget(self._copy)
        foot.addSpacing(8)
        foot.addWidget(self._note, 1)
        outer.addLayout(foot)

    def set_text(self, text: str) -> None:
        """Show the whole text."""
        self.text = text
        if self.user:
            self._text.setPlainText(text)
        else:
            self._answer.set_markdown(text)

    def set_thought(self, text: str) -> None:
        """Show what the model has thought so far."""
        self._thought.set_running(text)

    def finish(self, outcome: str, tokens: int | None, *, thought: tuple[str, int, float]) -> None:
        """The answer is final; `thought` is its reasoning, with tokens and seconds."""
        self._thought.finish(*thought)
        parts = [NOTES.get(outcome, ""), f"{tokens:,} tokens" if tokens is not None else ""]
        self._note.setText("  ".join(part for part in parts if part))
        self._copy.setVisible(bool(self.text))
