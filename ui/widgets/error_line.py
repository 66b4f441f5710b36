"""What went wrong, which stays until a person has read it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QWidget

from ui.widgets.labels import button, label, set_state


class ErrorLine(QWidget):
    """One error at a time; hidden while there is none."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.setSpacing(12)
        self.text = label("", wrap=True)
        set_state(self.text, "error")
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        row.addWidget(self.text, 1)
        self.dismiss = button("Dismiss", "link")
        self.dismiss.clicked.connect(self.clear)
        row.addWidget(self.dismiss, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def show_error(self, sentence: str) -> None:
        """Say it instead of what was said before."""
        self.text.setText(sentence)
        self.show()

    def clear(self) -> None:
        """Nothing is wrong any more."""
        self.text.clear()
        self.hide()
