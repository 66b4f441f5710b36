"""Why the one button of a model's page is as it is, or what could not be read; with a login where that helps."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from app.errors import Action, AppError
from ui.widgets.labels import button, label, set_state


class ReasonLine(QWidget):
    """Hidden while there is nothing to say.

    Signals: login_clicked.
    """

    login_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.words: QLabel = label("", "body-muted", wrap=True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        row.addWidget(self.words, 1)
        self.login = button("Log in to the Hub", "link")
        self.login.clicked.connect(self.login_clicked)
        row.addWidget(self.login, 0, Qt.AlignmentFlag.AlignTop)
        self._reason = ""
        self._problem: AppError | None = None
        self._show()

    def set_reason(self, sentence: str) -> None:
        """Of the button; it goes before a problem."""
        self._reason = sentence
        self._show()

    def set_problem(self, problem: AppError | None) -> None:
        """What could not be read."""
        self._problem = problem
        self._show()

    def _show(self) -> None:
        problem = self._problem
        said = self._reason or (str(problem) if problem else "")
        self.words.setText(said)
        set_state(self.words, "warn" if problem is not None and said == str(problem) else "")
        self.login.setVisible(problem is not None and problem.action is Action.LOG_IN)
        self.setVisible(bool(said))
