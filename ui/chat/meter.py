"""The line of meters below the composer; only the context has a colour."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QWidget

from app.chat.message import ContextLevel
from app.chat.meters import DOT, Meters
from ui.widgets.labels import label, set_state

STATES = {ContextLevel.FREE: "", ContextLevel.FILLING: "warn", ContextLevel.NEARLY_FULL: "error"}
LONG = (
    "Read: tokens of the prompt that were computed for this answer. Kept: those that were in the"
    " KV cache from before. Thought: tokens of reasoning."
)


class Meter(QWidget):
    """Rate, time to first token, what was read and kept, and the context."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        self._turn = label("", "muted", elide=True)
        self.context = label("", "muted")
        row.addStretch(1)
        row.addWidget(self._turn)
        row.addWidget(self.context)
        row.addStretch(1)
        self.setToolTip(LONG)

    def text(self) -> str:
        """All of it."""
        return self._turn.text() + self.context.text()

    def show_meters(self, meters: Meters | None) -> None:
        """Show them; None while there is no model."""
        context = meters.context if meters and meters.use.size else ""
        turn = meters.turn if meters else ""
        self._turn.setText(turn + DOT if turn and context else turn)
        self._turn.setVisible(bool(turn))
        self.context.setText(context)
        set_state(self.context, STATES[meters.use.level] if meters else "")
