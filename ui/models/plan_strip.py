"""The chosen plan: the sentence, and each device's memory as a bar."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.gguf.model import ModelLayout
from app.plan import speed
from app.plan.model import DevicePlan, HostPlan, LoadPlan, Verdict
from app.plan.text import VERDICT_WORDS, layer_range
from ui.widgets.labels import clear, label, set_state
from ui.widgets.legend import Legend
from ui.widgets.memory_bar import MemoryAxis, MemoryBar, MemoryBarValues
from ui.widgets.verdict import StateWord

_STATES = {
    Verdict.FITS: ("ok", "circle-check"),
    Verdict.CPU_ONLY: ("ok", "circle-check"),
    Verdict.PARTLY: ("warn", "triangle-alert"),
    Verdict.TOO_LARGE: ("error", "circle-x"),
}


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
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(0)
        self._grid.setColumnStretch(2, 1)
        column.addLayout(self._grid)

    def set_plan(self, plan: LoadPlan, layout: ModelLayout) -> None:
        """Show a plan to the byte."""
        self.verdict.set_state(
            f"{VERDICT_WORDS[plan.verdict]} {plan.sentence}", *_STATES[plan.verdict]
        )
        if _STATES[plan.verdict][0] == "ok":
            set_state(self.verdict.word, "")
        self.speed.setText(_speed(plan, layout))
        self.speed.setVisible(bool(self.speed.text()))
        clear(self._grid)
        for column, text in enumerate(("Device", "Layers", "", "GiB", "Free")):
            head = label(text, "muted")
            if column > 2:
                head.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._grid.addWidget(head, 0, column)
        totals = [share.device.total_bytes for share in plan.devices]
        scale = max(totals, default=plan.host.host.total_bytes)
        marked = plan.bottleneck if len(plan.devices) > 1 else None
        row = 0
        for row, share in enumerate(plan.devices, start=1):
            device = share.device
            values = _values(share, device.total_bytes, device.others_bytes, scale)
            span = layer_range(plan, share)
            self._row(row, device.label, span, values, share, fullest=device.id == marked)
        if totals:
            row += 1
            self._axis(row, scale)
        host, total = plan.host, plan.host.host.total_bytes
        values = _values(host, total, total - host.host.available_bytes, total)
        span = f"{host.layer_count} of {plan.block_count + 1}" if host.layer_count else "input only"
        self._row(row + 1, "Main memory", span, values, host, fullest=False)
        if not totals:
            self._axis(row + 2, total)

    def _axis(self, row: int, scale: int) -> None:
        axis = MemoryAxis()
        axis.set_scale(scale)
        self._grid.addWidget(axis, row, 2)

    def _row(
        self,
        row: int,
        name: str,
        layers: str,
        values: MemoryBarValues,
        share: DevicePlan | HostPlan,
        *,
        fullest: bool,
    ) -> None:
        bar = MemoryBar(grid=True)
        bar.set_values(values)
        tag = ", fullest" if fullest else ""
        bar.setAccessibleDescription(
            f"{name}, layers {layers}, {units.format_memory(share.model_bytes)} of "
            f"{units.format_memory(values.total)}{tag}"
        )
        self._grid.addWidget(label(name, "strong" if fullest else ""), row, 0)
        span = QHBoxLayout()
        span.setSpacing(8)
        span.addWidget(label(layers, "muted"))
        if fullest:
            span.addWidget(label("fullest", "tag"), 0, Qt.AlignmentFlag.AlignVCenter)
        span.addStretch(1)
        self._grid.addLayout(span, row, 1)
        self._grid.addWidget(bar, row, 2)
        for column, size in enumerate((share.model_bytes, share.left_bytes), start=3):
            number = label(_gib(size), "strong" if fullest else "")
            number.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            set_state(number, "error" if size < 0 else "")
            self._grid.addWidget(number, row, column)


def _gib(size: int) -> str:
    return (
        f"{size / units.GIB:,.1f}" if abs(size) >= units.GIB // 10 else f"{size / units.GIB:,.2f}"
    )


def _values(share: DevicePlan | HostPlan, total: int, others: int, scale: int) -> MemoryBarValues:
    return MemoryBarValues(
        total=total,
        weights=share.weights_bytes,
        kv_cache=share.kv_cache_bytes,
        compute=share.compute_bytes,
        reserve=share.reserve_bytes,
        others=others,
        scale=scale,
    )


def _speed(plan: LoadPlan, layout: ModelLayout) -> str:
    rate = speed.estimate(plan, layout).generation if plan.runs else None
    if rate is None:
        return ""
    digits = 0 if rate.likely_low >= 10 else 1
    low, high = f"{rate.likely_low:,.{digits}f}", f"{rate.likely_high:,.{digits}f}"
    return f"Likely {low}–{high} tokens/s with the context full."
