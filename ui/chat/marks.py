"""What became of older messages, between them: left out of the prompt, or summarised."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QWidget

from app.chat.message import Summary
from ui.chat.folding import Folding
from ui.widgets.labels import frame, label


def _plural(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


class LeftOutLine(QWidget):
    """A thin line below the messages that are no longer in the prompt."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.text = label("", "muted")
        row.addWidget(frame("rule"), 1)
        row.addWidget(self.text)
        row.addWidget(frame("rule"), 1)

    def set_count(self, count: int) -> None:
        """How many messages above it are meant."""
        self.text.setText(f"Left out of the prompt: {_plural(count)} above")


class SummaryMark(Folding):
    """One line below the messages that a summary stands for; unfolded, what it says."""

    def __init__(self, summary: Summary, parent: QWidget | None = None) -> None:
        super().__init__("Summary", rule=True, parent=parent)
        self.body.set_markdown(summary.text)
        self._summary = summary
        self.set_newest(newest=True)

    def set_newest(self, *, newest: bool) -> None:
        """Only the newest is in the prompt; it includes the others."""
        summary = self._summary
        what = f"Summary of {_plural(summary.messages)} above"
        sizes = f"{summary.tokens:,} tokens instead of {summary.replaced_tokens:,}"
        self.head.setText(f"{what} · {sizes if newest else 'part of a later one'}")
