"""One message in the transcript."""

from __future__ import annotations

import json
from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.engine.protocol import ToolCall
from ui.chat.blocks import Answer, Block, CodeCard, Text
from ui.chat.thought import Thought
from ui.widgets.labels import button, label, set_state

NOTES = {
    "stopped": "Stopped.",
    "truncated": "The longest answer was reached.",
    "full": "The context was full.",
    "interrupted": "The engine stopped before the answer was complete.",
}
MOST_CHARACTERS, MOST_LINES = 4_000, 40
"""More of what a person wrote, or pasted, is folded: the answer to it is what is read."""


class Bubble(QWidget):
    """A user's message in a soft bubble, or an answer without one, with its note and a copy button.

    Signals: continue_clicked.
    """

    continue_clicked = Signal()

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
            self.fold = button("", "link")
            self.fold.setCheckable(True)
            self.fold.toggled.connect(self._show_own)
            inner.addWidget(self.fold, 0, Qt.AlignmentFlag.AlignLeft)
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
        self.calls: tuple[ToolCall, ...] = ()
        self._column = QVBoxLayout()
        self._column.setSpacing(8)
        outer.addLayout(self._column)
        foot = QHBoxLayout()
        self._note = label("", "muted")
        self._copy = button("Copy", "link")
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.text))
        self._copy.hide()
        self.resume = button("Continue", "link")
        self.resume.clicked.connect(self.continue_clicked)
        self.resume.hide()
        foot.addWidget(self._copy)
        foot.addWidget(self.resume)
        foot.addWidget(self._note, 1)
        outer.addLayout(foot)

    def set_text(self, text: str) -> None:
        """Show the whole text."""
        self.text = text
        if self.user:
            self._show_own(self.fold.isChecked())
        else:
            self._answer.set_markdown(text)

    def _show_own(self, whole: bool) -> None:
        start = "\n".join(self.text[:MOST_CHARACTERS].split("\n", MOST_LINES)[:MOST_LINES])
        short = start if len(start) == len(self.text) else f"{start.rstrip()} ..."
        self._text.setPlainText(self.text if whole else short)
        self.fold.setVisible(len(start) < len(self.text))
        self.fold.setText("Show less" if whole else f"Show all {len(self.text):,} characters")

    def set_thought(self, text: str) -> None:
        """Show what the model has thought so far."""
        self._thought.set_running(text)

    def set_calls(self, calls: Sequence[ToolCall]) -> None:
        """Show the tools that the model calls; nothing runs them."""
        known, self.calls = len(self.calls), tuple(calls)
        for call in self.calls[known:]:
            card = CodeCard()
            text = json.dumps(call.arguments, indent=2, ensure_ascii=False)
            card.set_block(Block(text, "json"), f"Tool call, not run: {call.name}")
            self._column.addWidget(card)

    def set_note(self, words: str) -> None:
        """Say below the answer what is being done for it."""
        self._note.setText(words)

    def set_resumable(self, resumable: bool) -> None:
        """Whether the answer can be asked to go on."""
        if not self.user:
            self.resume.setText("Continue" if self.text else "Try again")
            self.resume.setVisible(resumable)

    def set_dimmed(self) -> None:
        """It is no longer in the prompt; it stays readable."""
        for text in self.findChildren(Text):
            set_state(text, "muted")

    def finish(
        self,
        outcome: str,
        tokens: int | None,
        *,
        thought: tuple[str, int, float],
        resumable: bool = False,
    ) -> None:
        """The answer is final; `thought` is its reasoning, with tokens and seconds."""
        self._thought.finish(*thought)
        parts = [NOTES.get(outcome, ""), units.format_tokens(tokens) if tokens else ""]
        self._note.setText("  ".join(part for part in parts if part))
        self._copy.setVisible(bool(self.text))
        self.set_resumable(resumable)
