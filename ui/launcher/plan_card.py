"""The plan as one stacked bar per device, planned and actual."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.engine.protocol import DeviceMemory, Loaded
from app.plan.model import Basis, DevicePlan, HostPlan, LoadPlan
from app.plan.text import basis, layer_range
from ui.launcher.apart import TensorsApart
from ui.widgets.labels import button, clear, frame, label, set_state
from ui.widgets.legend import Legend
from ui.widgets.memory_bar import MemoryAxis, MemoryBar, MemoryBarValues

UNEVEN = 1.5
_HEADS = ("Device", "Layers", "", "Planned", "Free")
_HEADS_LOADED = ("Device", "Layers", "", "Planned", "Actual", "Difference", "Free")


class PlanCard(QFrame):
    """Signals: split_clicked, confirm_clicked."""

    split_clicked = Signal()
    confirm_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "card")
        self._plan: LoadPlan | None = None
        self._actual: dict[str, DeviceMemory] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 14)
        column.setSpacing(8)
        head = QHBoxLayout()
        head.addWidget(label("Memory on each device", "strong"))
        head.addStretch(1)
        head.addWidget(Legend())
        column.addLayout(head)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(0)
        self._grid.setColumnStretch(2, 1)
        column.addLayout(self._grid)
        self.apart = TensorsApart()
        column.addWidget(self.apart)
        column.addWidget(frame("rule"))
        foot = QHBoxLayout()
        self.footnote = label("", "muted", wrap=True)
        foot.addWidget(self.footnote, 1)
        self.confirm = button("Confirm with llama.cpp", "link")
        self.confirm.setToolTip("Ask llama.cpp what each device would hold; nothing is loaded.")
        self.confirm.clicked.connect(self._ask)
        foot.addWidget(self.confirm)
        split = button("Adjust split", "link")
        split.clicked.connect(self.split_clicked)
        foot.addWidget(split)
        column.addLayout(foot)

    def _ask(self) -> None:
        self.confirm.setEnabled(False)
        self.footnote.setText("llama.cpp is asked what each device would hold.")
        self.confirm_clicked.emit()

    def show_failure(self) -> None:
        """The question could not be answered; it may be asked again."""
        self.confirm.setEnabled(True)
        if self._plan is not None:
            self.footnote.setText(_footnote(self._plan, self._actual))

    def set_plan(self, plan: LoadPlan, loaded: Loaded | None) -> None:
        """Show the plan, and beside it what the loaded model really takes."""
        self._plan = plan
        self.confirm.setEnabled(True)
        self._actual = actual = {m.device: m for m in loaded.memory} if loaded else {}
        told = plan.basis is Basis.CONFIRMED or plan.request.tensor_parallel
        self.confirm.setVisible(not told and not actual)
        self.apart.set_plan(plan)
        clear(self._grid)
        for column, text in enumerate(_HEADS_LOADED if actual else _HEADS):
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
            values = _bar(share, device.total_bytes, device.others_bytes, scale)
            found = actual.get(device.engine_name)
            span = layer_range(plan, share)
            self._row(row, device.label, span, values, share, found, fullest=device.id == marked)
        host = plan.host
        others = host.host.total_bytes - host.host.available_bytes
        # Main memory has a scale of its own beside cards: it may be many times as large.
        own_scale = max(scale, host.host.total_bytes) if not totals else host.host.total_bytes
        values = _bar(host, host.host.total_bytes, others, own_scale)
        layers = _on_host(plan)
        if totals:
            axis = MemoryAxis()
            axis.set_scale(scale)
            row += 1
            self._grid.addWidget(axis, row, 2)
        self._row(row + 1, "Main memory", layers, values, host, actual.get("CPU"), fullest=False)
        if not totals:
            axis = MemoryAxis()
            axis.set_scale(own_scale)
            self._grid.addWidget(axis, row + 2, 2)
        self.footnote.setText(_footnote(plan, actual))
        set_state(self.footnote, "warn" if plan.basis is Basis.ESTIMATED else "")

    def _row(
        self,
        row: int,
        name: str,
        layers: str,
        values: MemoryBarValues,
        share: DevicePlan | HostPlan,
        found: DeviceMemory | None,
        *,
        fullest: bool,
    ) -> None:
        memory = units.format_memory
        used = _used(found) if found else None
        bar = MemoryBar(grid=True)
        bar.set_values(_with_use(values, used))
        tag = ", fullest" if fullest else ""
        words = (
            f"{name}, layers {layers}, {memory(share.model_bytes)} of {memory(values.total)}{tag}"
        )
        words += f", {memory(used)} in use" if used is not None else ""
        bar.setAccessibleDescription(words)
        bar.setToolTip(_parts(share))
        self._grid.addWidget(label(name, "strong" if fullest else ""), row, 0)
        span = QHBoxLayout()
        span.setSpacing(8)
        span.addWidget(label(layers, "muted"))
        if fullest:
            span.addWidget(label("fullest", "tag"), 0, Qt.AlignmentFlag.AlignVCenter)
        span.addStretch(1)
        self._grid.addLayout(span, row, 1)
        self._grid.addWidget(bar, row, 2)
        numbers = [memory(share.model_bytes), memory(share.left_bytes).replace("-", "−")]
        if self._actual:
            both = ["–", "–"] if used is None else [memory(used), _more(used - share.model_bytes)]
            numbers[1:1] = both
        for column, text in enumerate(numbers, start=3):
            number = label(text, "strong" if fullest else "")
            number.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            number.setToolTip(_parts(share))
            if share.left_bytes < 0:
                set_state(number, "error")
            self._grid.addWidget(number, row, column)


def _on_host(plan: LoadPlan) -> str:
    """What lies in main memory, in as few words as a cell has room for."""
    apart = sum(1 for each in plan.tensor_overrides if each.device == "CPU")
    layers = f"{plan.host.layer_count} of {plan.block_count + 1}"
    if not apart:
        return layers if plan.host.layer_count else "input only"
    tensors = f"{apart} tensor{'s' if apart > 1 else ''}"
    return f"{layers if plan.host.layer_count else 'input'}, {tensors}"


def _used(found: DeviceMemory) -> int:
    return found.weights_bytes + found.kv_cache_bytes + found.compute_bytes


def _more(size: int) -> str:
    """A difference with its sign, in MiB as far as it is small."""
    if abs(size) < units.MIB // 2:
        return "0"
    return f"{'+' if size > 0 else '−'}{units.format_memory(abs(size))}"


def _parts(share: DevicePlan | HostPlan) -> str:
    """What the bar's parts are, in numbers."""
    parts = (
        ("Weights", share.weights_bytes),
        ("KV cache", share.kv_cache_bytes),
        ("Compute", share.compute_bytes),
        ("Reserve", share.reserve_bytes),
    )
    return "\n".join(f"{name}: {units.format_memory(size, digits=2)}" for name, size in parts)


def _compared(plan: LoadPlan, actual: dict[str, DeviceMemory]) -> str:
    """The largest difference between the plan and what was loaded."""
    shares: dict[str, DevicePlan | HostPlan] = {s.device.engine_name: s for s in plan.devices}
    shares["CPU"] = plan.host
    worst = max(
        (_used(m) - shares[name].model_bytes for name, m in actual.items() if name in shares),
        key=abs,
        default=0,
    )
    if abs(worst) < units.MIB // 2:
        return "as planned on every device."
    return f"within {units.format_memory(abs(worst))} of the plan on every device."


def _footnote(plan: LoadPlan, actual: dict[str, DeviceMemory]) -> str:
    if actual:
        return f"{basis(plan)} Loaded: {_compared(plan, actual)}"
    if plan.request.tensor_parallel:
        return basis(plan)
    empty = sum(1 for size in plan.layer_sizes[:-1] if size == 0)
    sizes = [size for size in plan.layer_sizes[:-1] if size]
    ratio = max(sizes) / min(sizes) if sizes else 1
    notes = [f"Layers differ up to {ratio:.0f} times in size"] if ratio >= UNEVEN else []
    notes += [f"{empty} of {plan.block_count} hold no weights"] if empty else []
    sentence = f"{' and '.join(notes)}, so devices get unequal counts." if notes else ""
    sentence = sentence or "Every layer is placed by its own size."
    return f"{basis(plan)} {sentence}"


def _bar(share: DevicePlan | HostPlan, total: int, others: int, scale: int) -> MemoryBarValues:
    return MemoryBarValues(
        total=total,
        weights=share.weights_bytes,
        kv_cache=share.kv_cache_bytes,
        compute=share.compute_bytes,
        reserve=share.reserve_bytes,
        others=others,
        scale=scale,
    )


def _with_use(values: MemoryBarValues, used: int | None) -> MemoryBarValues:
    return dataclasses.replace(values, in_use=used)
