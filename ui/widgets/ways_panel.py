"""What is wrong, and what can be done about it: a button for each way, beside it what comes of it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from ui.widgets.labels import button, clear, label
from ui.widgets.verdict import StateWord

Way = tuple[str, str]
"""What the button says, and what comes of it."""


class WaysPanel(QWidget):
    """Hidden while nothing is wrong.

    Signals: chosen(int), the number of the way that was pressed; dismissed, where there is none.
    """

    chosen = Signal(int)
    dismissed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 4)
        column.setSpacing(6)
        self._state = StateWord(kind="")
        self.text = self._state.word
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        head = QHBoxLayout()
        head.addWidget(self._state, 1)
        self._dismiss = button("Dismiss", "link")
        self._dismiss.clicked.connect(self.dismissed)
        head.addWidget(self._dismiss, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(head)
        self.detail = label("", "muted", wrap=True)
        column.addWidget(self.detail)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(6)
        self._grid.setColumnStretch(1, 1)
        column.addLayout(self._grid)
        self.buttons: list[QPushButton] = []
        self.hide()

    def show_ways(
        self, sentence: str, detail: str, ways: Sequence[Way], *, state: str = "error"
    ) -> None:
        """Show one fault with its ways out, the best first; `state` is `error` or `ok`."""
        self._state.set_state(sentence, state)
        self._dismiss.setVisible(state == "ok" or not ways)
        self.detail.setText(detail)
        self.detail.setVisible(bool(detail))
        clear(self._grid)
        self.buttons = []
        for number, (title, effect) in enumerate(ways):
            press = button(title)
            press.setAccessibleDescription(effect)
            press.clicked.connect(lambda _on=False, n=number: self.chosen.emit(n))
            self._grid.addWidget(press, number, 0)
            words = label(effect, "body-muted", wrap=True)
            self._grid.addWidget(words, number, 1, Qt.AlignmentFlag.AlignVCenter)
            self.buttons.append(press)
        self.show()

    def dismiss(self) -> None:
        """Nothing is wrong any more."""
        self.hide()
        clear(self._grid)
        self.buttons = []
