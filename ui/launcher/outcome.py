"""The answer above the chart: verdict, what is missing, what would help, how fast it will be."""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app import units
from app.gguf.model import ModelLayout
from app.plan import speed
from app.plan.model import LoadPlan, Remedy, Verdict
from app.plan.text import VERDICT_WORDS, speed_lines
from ui import theme
from ui.plan.values import VERDICT_STATES
from ui.widgets.labels import button, clear, label, set_state


class Outcome(QWidget):
    """Signals: remedy_chosen(Remedy), for one that settings can apply."""

    remedy_chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._verdict_shown: Verdict | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        row = QHBoxLayout()
        row.setSpacing(8)
        self._icon = QLabel()
        self._icon.setFixedSize(20, 24)
        self._icon.hide()
        row.addWidget(self._icon)
        self.verdict = label("", "lead", wrap=True)
        row.addWidget(self.verdict, 1)
        column.addLayout(row)
        self.speed = label("", "body-muted", wrap=True)
        self.speed.hide()
        column.addWidget(self.speed)
        self.missing = label("", "body-muted", wrap=True)
        self.missing.hide()
        column.addWidget(self.missing)
        self._helps = QWidget()
        self._grid = QGridLayout(self._helps)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(2, 1)
        column.addWidget(self._helps)
        theme.manager().changed.connect(self._show_icon)

    def set_plan(self, plan: LoadPlan, layout: ModelLayout | None) -> None:
        """Show a plan of `layout`, which is needed to tell the speed."""
        self._verdict_shown = plan.verdict
        self.verdict.setText(f"{VERDICT_WORDS[plan.verdict]} {plan.sentence}")
        state = VERDICT_STATES[plan.verdict][0]
        set_state(self.verdict, "" if state == "ok" else state)
        self._show_icon()
        rate = speed.estimate(plan, layout) if layout is not None and plan.runs else None
        self._show_speed(rate, _note(plan))
        facts = " ".join(_missing(plan))
        self.missing.setText(facts)
        self.missing.setVisible(bool(facts))
        self._show_remedies([remedy for remedy in plan.remedies if not remedy.missing])

    def show_remedies(self, shown: bool) -> None:
        """Without them where ways out that load at once are shown instead."""
        self._helps.setVisible(shown)

    def _show_icon(self) -> None:
        if self._verdict_shown is None:
            return
        state, name = VERDICT_STATES[self._verdict_shown]
        color = getattr(theme.current(), state)
        self._icon.setPixmap(theme.pixmap(name, color, 20, self.devicePixelRatioF()))
        self._icon.show()

    def _show_speed(self, rate: speed.Speed | None, note: str) -> None:
        words = note or (_speed_words(rate) if rate else "")
        self.speed.setText(words)
        self.speed.setVisible(bool(words))
        sources = "\n".join(speed_lines(rate)) if rate else ""
        self.speed.setToolTip(sources)
        self.speed.setAccessibleDescription(sources)

    def _show_remedies(self, remedies: list[Remedy]) -> None:
        clear(self._grid)
        if remedies:
            self._grid.addWidget(label("What would help", "muted"), 0, 0)
        for row, remedy in enumerate(remedies):
            self._grid.addWidget(label(remedy.sentence), row, 1)
            action = _action(remedy)
            if action:
                link = button(action, "link")
                link.setAccessibleName(action)
                link.setAccessibleDescription(remedy.sentence)
                link.clicked.connect(lambda _on=False, r=remedy: self.remedy_chosen.emit(r))
                # A link stands beside its sentence, not at the far edge.
                self._grid.addWidget(link, row, 2, Qt.AlignmentFlag.AlignLeft)


def _note(plan: LoadPlan) -> str:
    """What is known better than an estimated speed: a measured one, or that there is none."""
    if plan.request.tensor_parallel and plan.runs:
        return plan.warnings[-1]
    return plan.note


def _missing(plan: LoadPlan) -> Iterator[str]:
    """What places lack; the verdict itself names what the worst one does."""
    labels = {share.device.id: share.device.label for share in plan.devices}
    worst = labels.get(plan.bottleneck or "", "Main memory")
    told = f"{worst} is {units.format_memory(plan.shortfall_bytes)} short."
    for remedy in plan.remedies:
        if remedy.missing and remedy.sentence != told:
            yield remedy.sentence


def _action(remedy: Remedy) -> str:
    """What the link says that applies a remedy; empty if no setting does."""
    if remedy.layers:
        return "Move them"
    match dict(remedy.changes):
        case {"kv_type_k": kind, "micro_batch": int(size)}:
            return f"Use {kind} and {size}"
        case {"kv_type_k": kind}:
            return f"Use {kind}"
        case {"micro_batch": int(size)}:
            return f"Use {size}"
        case {"context": int(tokens)}:
            return f"Use {tokens:,} tokens"
        case {"layer_counts": None}:
            return "Reset"
        case _:
            return ""


def _speed_words(rate: speed.Speed) -> str:
    """Both phases as likely ranges; how they come about is in the tooltip."""
    parts = []
    if rate.generation:
        whole = f" ({rate.whole.likely} with all layers on devices)" if rate.whole else ""
        parts.append(f"Likely {rate.generation.likely} tokens/s with the context full{whole}")
    if rate.prompt:
        parts.append(f"prompts {rate.prompt.likely} tokens/s")
    return (
        f"{', '.join(parts)}." if parts else "Speed: nothing is known of these devices' bandwidth."
    )
