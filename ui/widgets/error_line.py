"""What went wrong, which stays until a person has read it."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QWidget

from ui.widgets.labels import button
from ui.widgets.verdict import StateWord


class ErrorLine(QWidget):
    """One error at a time; hidden while there is none.

    Signals: acted, when the person takes the way out that the line offers.
    """

    acted = Signal()

    def __init__(self, parent: QWidget | None = None, *, action: str = "") -> None:
        """`action` is the word of the way out, if there is one."""
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.setSpacing(12)
        self._state = StateWord(kind="")
        self.text = self._state.word
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        row.addWidget(self._state, 1)
        self.action = button(action, "link")
        self.action.clicked.connect(self.acted)
        self.action.setVisible(bool(action))
        row.addWidget(self.action, 0, Qt.AlignmentFlag.AlignTop)
        self.dismiss = button("Dismiss", "link")
        self.dismiss.clicked.connect(self.clear)
        row.addWidget(self.dismiss, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def show_error(self, sentence: str) -> None:
        """Say it instead of what was said before."""
        self._state.set_state(sentence, "error")
        self.show()

    def clear(self) -> None:
        """Nothing is wrong any more."""
        self.text.clear()
        self.hide()
