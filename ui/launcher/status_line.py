"""The launcher's foot: what the engine does, how far it is, and what it asks or warns of."""

from __future__ import annotations

import time

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from app.engine import words
from app.engine.model import EngineState, EngineStateChanged
from ui.widgets.error_line import ErrorLine
from ui.widgets.labels import label, set_state
from ui.widgets.question_line import QuestionLine

TICK_MS = 1000


class StatusLine(QWidget):
    """Signals: stop_clicked, split_clicked.

    Attributes:
        foot: Takes the owner's buttons, beside what the engine does; what it asks or warns of is above.
    """

    stop_clicked = Signal()
    split_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.alarm = ErrorLine(action="Adjust split")
        self.alarm.acted.connect(self.split_clicked)
        column.addWidget(self.alarm)
        self.question = QuestionLine("Stop engine", "Wait")
        self.question.accepted.connect(self.stop_clicked)
        column.addWidget(self.question)
        self.foot = QHBoxLayout()
        self.foot.setSpacing(12)
        said = QVBoxLayout()
        said.setSpacing(4)
        self.foot.addLayout(said, 1)
        column.addLayout(self.foot)
        row = QHBoxLayout()
        row.setSpacing(12)
        self.label = label("", "body-muted", wrap=True)
        row.addWidget(self.label, 1)
        self.bar = QProgressBar()
        self.bar.setFixedSize(160, 6)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Loading")
        self.bar.hide()
        row.addWidget(self.bar)
        said.addLayout(row)
        self.detail = label("", "muted")
        self.detail.hide()
        said.addWidget(self.detail)
        self._event = EngineStateChanged(state=EngineState.STOPPED)
        self._heard_at = 0.0
        self._clock = QTimer(self)
        self._clock.setInterval(TICK_MS)
        self._clock.timeout.connect(self._tick)

    def set_engine(self, event: EngineStateChanged) -> None:
        """Show what the engine does."""
        self.question.ask(words.silence(event))
        if event.state in (EngineState.STARTING, EngineState.STOPPED, EngineState.CRASHED):
            self.alarm.clear()
        loading = event.state in words.LOADING
        if loading and event.silent_s is not None:
            return  # the stage and the clock stay as they are
        self._event, self._heard_at = event, time.monotonic()
        self.bar.setVisible(loading)
        self.detail.setVisible(loading)
        if loading:
            self._show_progress(event)
            self._tick()
            if not self._clock.isActive():
                self._clock.start()
            set_state(self.label, "")
            return
        self._clock.stop()
        at_rest = event.state in (EngineState.STOPPED, EngineState.STOPPING)
        self.say(
            str(event.error) if event.error else "" if at_rest else "Loaded and ready.",
            error=event.error is not None,
        )

    def say(self, sentence: str, *, error: bool = False) -> None:
        """Tell something else, until the engine's state changes."""
        self.label.setText(sentence)
        set_state(self.label, "error" if error else "")

    def _tick(self) -> None:
        event, since = self._event, time.monotonic() - self._heard_at
        self.label.setText(words.stage(event))
        self.detail.setText(words.progress(event, since))

    def _show_progress(self, event: EngineStateChanged) -> None:
        """A stage whose end is not known has a bar that only moves."""
        self.bar.setRange(0, 0 if event.fraction is None else 100)
        if event.fraction is not None:
            self.bar.setValue(round(100 * event.fraction))
