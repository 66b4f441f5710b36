"""Finding the fastest plan: what would be measured, how far it is, and what came of it."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.engine.tuner import (
    CandidateMeasured,
    Result,
    TuningEnded,
    TuningProgressed,
    TuningProposed,
    about,
    turn_words,
)
from app.plan.candidates import Candidate
from app.plan.text import fullest, split_words
from ui.widgets.labels import button, clear, frame, label, set_state

HEADS = ("Plan", "Layers", "Tokens/s", "Prompt tokens/s", "Turn", "Fullest")
_NUMBERS = range(2, 5)
_FACTS = "A loaded model is unloaded meanwhile. You can stop at any time; what was measured counts."
_STEPS = 1000


class TunerDialog(QDialog):
    """Shows frozen values.

    Signals: start_clicked, stop_clicked; used(index) for a measured plan; left, where it was closed
    without that.
    """

    start_clicked = Signal()
    stop_clicked = Signal()
    used = Signal(int)
    left = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Find the fastest")
        self.resize(920, 380)
        self.setMinimumSize(820, 340)
        self._running = False
        self._rows: list[_Row] = []
        self._group = QButtonGroup(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(32, 20, 32, 16)
        column.setSpacing(12)
        column.addWidget(label("Find the fastest", "title"))
        self.lead = label("Looking for plans that are worth measuring.", "strong", wrap=True)
        column.addWidget(self.lead)
        card = frame("card")
        self._grid = QGridLayout(card)
        self._grid.setContentsMargins(16, 10, 16, 10)
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(8)
        self._grid.setColumnStretch(1, 1)
        column.addWidget(card)
        self.progress = QProgressBar()
        self.progress.setRange(0, _STEPS)
        self.progress.setFixedHeight(6)
        self.progress.setTextVisible(False)
        self.progress.setAccessibleName("Progress")
        self.progress.hide()
        column.addWidget(self.progress)
        self.facts = label(_FACTS, "muted", wrap=True)
        column.addWidget(self.facts)
        column.addStretch(1)
        column.addWidget(frame("rule"))
        self._build_foot(column)

    def _build_foot(self, column: QVBoxLayout) -> None:
        foot = QHBoxLayout()
        foot.addStretch(1)
        self.close_button = button("Cancel")
        self.close_button.clicked.connect(self.reject)
        self.stop_button = button("Stop")
        self.stop_button.clicked.connect(self._stop)
        self.stop_button.hide()
        self.start_button = button("Start", "primary")
        self.start_button.setEnabled(False)
        self.start_button.clicked.connect(self.start_clicked)
        self.use_button = button("Use this", "primary")
        self.use_button.clicked.connect(self._use)
        self.use_button.hide()
        for each in (self.close_button, self.stop_button, self.start_button, self.use_button):
            foot.addWidget(each)
        column.addLayout(foot)

    # --- what is known ------------------------------------------------------

    def propose(self, event: TuningProposed) -> None:
        """Show the candidates, and how long they take."""
        if len(event.candidates) < 2:
            self.lead.setText("There is no other plan that fits and could be faster.")
            self.facts.hide()
        else:
            self.lead.setText(event.sentence)
            self.start_button.setEnabled(True)
            self.start_button.setFocus()
        clear(self._grid)
        self._rows = []
        for place, words in enumerate(HEADS):
            head = label(words, "muted")
            if place in _NUMBERS:
                head.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._grid.addWidget(head, 0, place)
        for index, candidate in enumerate(event.candidates):
            row = _Row(candidate)
            self._group.addButton(row.choice, index)
            for place, cell in enumerate(row.cells):
                self._grid.addWidget(cell, index + 1, place)
            self._rows.append(row)

    def begin(self) -> None:
        """It runs now."""
        self._running = True
        for each in (self.start_button, self.close_button, self.use_button):
            each.hide()
        self.stop_button.show()
        self.stop_button.setEnabled(True)
        self.stop_button.setFocus()
        self.progress.setValue(0)
        self.progress.show()

    def advance(self, event: TuningProgressed) -> None:
        """How far it is."""
        self.lead.setText(
            f"Plan {event.index + 1} of {len(self._rows)} is "
            f"being {'loaded' if event.stage == 'loading' else 'measured'}. {about(event.left_s)} left."
        )
        part = (event.fraction or 0.0) / 2 + (0.5 if event.stage == "measuring" else 0.0)
        self.progress.setValue(round(_STEPS * (event.index + part) / max(1, len(self._rows))))
        self._rows[event.index].show_running()

    def measure(self, event: CandidateMeasured) -> None:
        """One is done."""
        self._rows[event.index].show_result(event.result)

    def end(self, event: TuningEnded) -> None:
        """All is done, or what was asked for."""
        self._running = False
        self.stop_button.hide()
        self.progress.hide()
        self.start_button.hide()
        self.close_button.setText("Close" if event.kept is None else "Keep the plan as it was")
        self.close_button.show()
        for row in self._rows[len(event.results) :]:
            row.clear()
        if event.error is not None:
            self.lead.setText(str(event.error))
            set_state(self.lead, "error")
            return
        if event.kept is None:
            self.lead.setText("Nothing was measured.")
            return
        self._rows[event.kept].show_kept()
        self.lead.setText(_verdict(event))
        self.facts.setText(turn_words())
        self.use_button.show()
        self.use_button.setFocus()

    # --- what the person does -------------------------------------------------

    def _stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.lead.setText("Stopping.")
        self.stop_clicked.emit()

    def _use(self) -> None:
        self.used.emit(self._group.checkedId())
        self.accept()

    def reject(self) -> None:
        """Escape stops what runs; a second one leaves."""
        if self._running:
            self._stop()
            return
        super().reject()
        self.left.emit()

    def closeEvent(self, event: QCloseEvent) -> None:
        """As Escape."""
        if self._running:
            self._stop()
            event.ignore()
            return
        super().closeEvent(event)


class _Row:
    """One candidate."""

    def __init__(self, candidate: Candidate) -> None:
        self.choice = QRadioButton(candidate.words[:1].upper() + candidate.words[1:])
        self.choice.setEnabled(False)
        self._numbers = tuple(label("–") for _ in _NUMBERS)
        for cell in self._numbers:
            cell.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        words = split_words(candidate.plan)
        self._layers = label(words, "muted", elide=True)
        self._layers.setToolTip(words)
        self._fullest = label(fullest(candidate.plan), "muted")

    @property
    def cells(self) -> tuple[QWidget, ...]:
        """As in `HEADS`."""
        return self.choice, self._layers, *self._numbers, self._fullest

    def show_running(self) -> None:
        """It is its turn."""
        self._numbers[-1].setText("…")

    def clear(self) -> None:
        """It was not measured."""
        self._numbers[-1].setText("–")

    def show_result(self, result: Result) -> None:
        """What came of it; it can be chosen then."""
        if result.turn_s is None:
            self.clear()
            words = str(result.error) if result.error else "Not measured."
            self._layers.setText(words)
            self._layers.setToolTip(words)
            set_state(self._layers, "error")
            return
        spread = f" ± {100 * result.spread:.0f} %" if result.repeats > 1 else ", once"
        texts = (
            f"{result.tokens_per_s:,.1f}",
            f"{result.prompt_tokens_per_s:,.0f}",
            f"{units.format_duration(result.turn_s)}{spread}",
        )
        for cell, text in zip(self._numbers, texts, strict=True):
            cell.setText(text)
        self.choice.setEnabled(True)
        self.choice.setAccessibleDescription(
            f"{texts[0]} tokens/s, prompt {texts[1]} tokens/s, turn {texts[2]}"
        )

    def show_kept(self) -> None:
        """It is the fastest."""
        self.choice.setChecked(True)
        cells: tuple[QLabel, ...] = self._numbers
        for cell in cells:
            cell.setProperty("kind", "strong")
            cell.style().polish(cell)


def _verdict(event: TuningEnded) -> str:
    assert event.kept is not None  # noqa: S101 - the caller asked
    kept, first = event.results[event.kept], event.results[0]
    if event.cancelled and len(event.results) == 1:
        return "Stopped; only the plan that you have was measured."
    head = "Stopped; of those measured, " if event.cancelled else ""
    if not event.kept:
        words = "no other plan is faster than the one you have, by more than measurements differ."
        return head + words if head else words.capitalize()
    name = f"“{kept.candidate.words}” is the fastest"
    if first.turn_s and kept.turn_s:
        name += f", {units.format_percent(first.turn_s / kept.turn_s - 1)} faster than the plan you have"
    return f"{head}{name}."


__all__ = ["TunerDialog"]
