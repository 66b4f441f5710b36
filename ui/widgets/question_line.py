"""A question that waits for a person, with the one thing that can be done; doing nothing is the other."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QWidget

from ui.widgets.labels import button
from ui.widgets.verdict import StateWord


class QuestionLine(QWidget):
    """Hidden while there is nothing to ask.

    Signals: accepted, when the person wants it done.
    """

    accepted = Signal()

    def __init__(self, action: str, wait: str, parent: QWidget | None = None) -> None:
        """`action` is the button's word, `wait` that of the one that puts the question off."""
        super().__init__(parent)
        self._waits = False
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 4)
        row.setSpacing(12)
        self._state = StateWord(kind="")
        self.text = self._state.word
        self.text.setWordWrap(True)
        row.addWidget(self._state, 1)
        self.wait = button(wait)
        self.wait.clicked.connect(self._put_off)
        self.accept = button(action)
        self.accept.clicked.connect(self.accepted)
        for each in (self.wait, self.accept):
            row.addWidget(each, 0, Qt.AlignmentFlag.AlignVCenter)
        self.hide()

    def ask(self, question: str) -> None:
        """Ask, or ask no more if it is empty; what was put off is not asked again until then."""
        if not question:
            self._waits = False
        elif not self._waits:
            self._state.set_state(question, "warn")
        self.setVisible(bool(question) and not self._waits)

    def _put_off(self) -> None:
        self._waits = True
        self.hide()
