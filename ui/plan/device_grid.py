"""A plan as one row a device: its layers, its memory as a bar, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout

from app import units
from app.engine.protocol import DeviceMemory
from app.plan.model import DevicePlan, HostPlan, LoadPlan
from app.plan.text import layer_range
from ui.plan.values import bar_values
from ui.widgets.labels import clear, label, set_state
from ui.widgets.memory_bar import MemoryAxis, MemoryBar

_HEADS = ("Device", "Layers", "", "Planned", "Free")
_HEADS_LOADED = ("Device", "Layers", "", "Planned", "Actual", "Difference", "Free")
_RIGHT = Qt.AlignmentFlag.AlignRight
_MIDDLE = Qt.AlignmentFlag.AlignVCenter


class DeviceGrid(QGridLayout):
    """Takes a plan, and what the loaded model really takes."""

    def __init__(self) -> None:
        super().__init__()
        self.setHorizontalSpacing(16)
        self.setVerticalSpacing(0)
        self.setColumnStretch(2, 1)
        self._actual: Mapping[str, DeviceMemory] = {}

    def set_plan(self, plan: LoadPlan, actual: Mapping[str, DeviceMemory]) -> None:
        """Show a plan; `actual` by the device's engine name, empty while nothing is loaded."""
        self._actual = actual
        clear(self)
        for column, text in enumerate(_HEADS_LOADED if actual else _HEADS):
            head = label(text, "muted")
            if column > 2:
                head.setAlignment(_RIGHT)
            self.addWidget(head, 0, column)
        # Main memory has a scale of its own beside cards: it may be many times as large.
        own_scale = plan.host.host.total_bytes
        scale = max((share.device.total_bytes for share in plan.devices), default=own_scale)
        marked = plan.bottleneck if len(plan.devices) > 1 else None
        for row, share in enumerate(plan.devices, start=1):
            name, fullest = share.device.label, share.device.id == marked
            found = actual.get(share.device.engine_name)
            self._row(row, name, layer_range(plan, share), share, scale, found, fullest=fullest)
        count = len(plan.devices)
        axis = MemoryAxis()
        axis.set_scale(scale)
        self.addWidget(axis, count + 1 if count else 2, 2)  # below what it is true of
        row, found = count + 2 if count else 1, actual.get("CPU")
        self._row(row, "Main memory", _on_host(plan), plan.host, own_scale, found)

    def _row(
        self,
        row: int,
        name: str,
        layers: str,
        share: DevicePlan | HostPlan,
        scale: int,
        found: DeviceMemory | None,
        *,
        fullest: bool = False,
    ) -> None:
        memory = units.format_memory
        used = found.model_bytes if found else None
        values = bar_values(share, scale, used)
        bar = MemoryBar(grid=True)
        bar.set_values(values)
        words = f"{name}, layers {layers}, {memory(share.model_bytes)} of {memory(values.total)}"
        words += ", fullest" if fullest else ""
        words += f", {memory(used)} in use" if used is not None else ""
        bar.setAccessibleDescription(words)
        bar.setToolTip(_parts(share))
        self.addWidget(label(name, "strong" if fullest else ""), row, 0)
        span = QHBoxLayout()
        span.setSpacing(8)
        span.addWidget(label(layers, "muted"))
        if fullest:
            span.addWidget(label("fullest", "tag"), 0, _MIDDLE)
        span.addStretch(1)
        self.addLayout(span, row, 1)
        self.addWidget(bar, row, 2)
        numbers = [memory(share.model_bytes), memory(share.left_bytes).replace("-", "−")]
        if self._actual:
            both = ["–", "–"] if used is None else [memory(used), _more(used - share.model_bytes)]
            numbers[1:1] = both
        for column, text in enumerate(numbers, start=3):
            number = label(text, "strong" if fullest else "")
            number.setAlignment(_RIGHT | _MIDDLE)
            number.setToolTip(_parts(share))
            if share.left_bytes < 0:
                set_state(number, "error")
            self.addWidget(number, row, column)


def _on_host(plan: LoadPlan) -> str:
    """What lies in main memory, in as few words as a cell has room for."""
    apart = sum(1 for each in plan.tensor_overrides if each.device == "CPU")
    layers = f"{plan.host.layer_count} of {plan.block_count + 1}"
    if not apart:
        return layers if plan.host.layer_count else "input only"
    tensors = f"{apart} tensor{'s' if apart > 1 else ''}"
    return f"{layers if plan.host.layer_count else 'input'}, {tensors}"


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
