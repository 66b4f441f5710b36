"""The chosen plan: the sentence, and each device's memory as a bar."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from app.gguf.model import ModelLayout
from app.plan import speed
from app.plan.model import LoadPlan
from app.plan.text import VERDICT_WORDS
from ui.plan.device_grid import DeviceGrid
from ui.plan.values import VERDICT_STATES
from ui.widgets.labels import label, set_state
from ui.widgets.legend import Legend
from ui.widgets.verdict import StateWord


class PlanStrip(QFrame):
    """Takes a plan; before that it says what is done."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "card")
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 14, 20, 14)
        column.setSpacing(8)
        self.verdict = StateWord(kind="lead")
        column.addWidget(self.verdict)
        self.speed = label("", "body-muted", wrap=True)
        column.addWidget(self.speed)
        self._legend = QHBoxLayout()
        self._legend.addWidget(Legend())
        self._legend.addStretch(1)
        column.addLayout(self._legend)
        self._grid = DeviceGrid()
        column.addLayout(self._grid)

    def set_plan(self, plan: LoadPlan, layout: ModelLayout) -> None:
        """Show a plan to the byte."""
        self.verdict.set_state(
            f"{VERDICT_WORDS[plan.verdict]} {plan.sentence}", *VERDICT_STATES[plan.verdict]
        )
        if VERDICT_STATES[plan.verdict][0] == "ok":
            set_state(self.verdict.word, "")
        self.speed.setText(_speed(plan, layout))
        self.speed.setVisible(bool(self.speed.text()))
        self._grid.set_plan(plan, {})


def _speed(plan: LoadPlan, layout: ModelLayout) -> str:
    rate = speed.estimate(plan, layout).generation if plan.runs else None
    if rate is None:
        return ""
    digits = 0 if rate.likely_low >= 10 else 1
    low, high = f"{rate.likely_low:,.{digits}f}", f"{rate.likely_high:,.{digits}f}"
    return f"Likely {low}–{high} tokens/s with the context full."
