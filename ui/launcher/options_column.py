"""What a person can change about the plan without opening the split: context and KV cache."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from app import units
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport
from app.plan.model import KvCacheType, LoadPlan, Verdict
from ui.widgets.labels import frame, label, set_state
from ui.widgets.segments import Segments
from ui.widgets.timers import after_rest

SMALLEST = 1024
_KV_TYPES = (KvCacheType.F16, KvCacheType.Q8_0, KvCacheType.Q4_0)
"""The others are in the split dialog."""
SETTLE_MS = 120


class OptionsColumn(QWidget):
    """Signals: context_chosen(int), kv_type_chosen(str)."""

    context_chosen = Signal(int)
    kv_type_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._steps: list[int] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self._quantization = _fact(column, "Quantization")
        column.addSpacing(12)
        self._context = _fact(column, "Context")
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._slider.setAccessibleName("Context in tokens")
        self._slider.setEnabled(False)
        self._slider.valueChanged.connect(self._moved)
        column.addWidget(self._slider)
        self._limit = label("", "muted", wrap=True)
        column.addWidget(self._limit)
        column.addSpacing(12)
        self._kv = _fact(column, "KV cache")
        self._types = Segments([kind.value for kind in _KV_TYPES])
        self._types.setEnabled(False)
        self._types.chosen.connect(self.kv_type_chosen)
        column.addWidget(self._types)
        column.addSpacing(12)
        column.addWidget(frame("rule"))
        self._disk = _fact(column, "Disk", small=True)
        self._files = _fact(column, "Files", small=True)
        column.addStretch(1)
        self._settle = after_rest(self, SETTLE_MS, self._announce)

    def set_report(self, report: HardwareReport) -> None:
        """Show the disk on which models lie."""
        free = units.format_file_size(report.disks[0].free_bytes) if report.disks else "–"
        self._disk.setText(f"{free} free")

    def set_layout_of(self, layout: ModelLayout) -> None:
        """The model decides how far the context goes."""
        bits = 8 * layout.size_bytes / max(1, layout.parameter_count)
        self._quantization.setText(
            f"{layout.quantization or 'unknown'}, {bits:.1f} bits per weight"
        )
        count = len(layout.files)
        size = units.format_file_size(layout.file_size_bytes)
        self._files.setText(size if count == 1 else f"{count:,}, {size}")
        self._steps = _steps(layout.context_length)
        self._slider.blockSignals(True)
        self._slider.setRange(0, len(self._steps) - 1)
        self._slider.blockSignals(False)
        self._slider.setEnabled(len(self._steps) > 1)
        self._types.setEnabled(True)

    def set_plan(self, plan: LoadPlan) -> None:
        """Show what holds now; a slider under the hand stays where it is."""
        kinds = {plan.request.kv_type_k, plan.request.kv_type_v}
        self._types.set_value(plan.request.kv_type_k if len(kinds) == 1 else "")
        kv = plan.host.kv_cache_bytes + sum(share.kv_cache_bytes for share in plan.devices)
        self._kv.setText(units.format_memory(kv))
        if not self._slider.isSliderDown() and not self._settle.isActive() and self._steps:
            nearest = min(range(len(self._steps)), key=lambda i: abs(self._steps[i] - plan.context))
            self._slider.blockSignals(True)
            self._slider.setValue(nearest)
            self._slider.blockSignals(False)
            self._context.setText(f"{plan.context:,} tokens")
        partly = ", partly in main memory" if plan.verdict is Verdict.PARTLY else ""
        limit = f"Up to {plan.max_context:,} fit with {plan.request.kv_type_k}{partly}."
        self._limit.setText(limit if plan.max_context else "No context fits.")
        set_state(self._limit, "" if plan.context <= plan.max_context else "error")

    def set_pending(self) -> None:
        """Something was changed; its plan is being worked out."""
        self._limit.setText("Working out the plan.")
        set_state(self._limit, "")

    def _moved(self, index: int) -> None:
        self._context.setText(f"{self._steps[index]:,} tokens")
        self._settle.start()

    def _announce(self) -> None:
        self.context_chosen.emit(self._steps[self._slider.value()])


def _fact(column: QVBoxLayout, name: str, *, small: bool = False) -> QLabel:
    """A line with a name at the left and a value at the right."""
    row = QHBoxLayout()
    row.addWidget(label(name, "muted" if small else "strong"))
    row.addStretch(1)
    value = label("–", "small" if small else "body-muted")
    row.addWidget(value)
    column.addLayout(row)
    return value


def _steps(trained: int) -> list[int]:
    """Contexts to choose from: four in each doubling, whole multiples of 256, up to the trained one."""
    steps: list[int] = []
    size = SMALLEST
    while size < trained:
        quarter = max(256, size // 4)
        steps += range(size, min(2 * size, trained), quarter)
        size *= 2
    return [*steps, trained]
