"""The foot of the chat: each device's memory, planned and actual, and how warm it is."""

from __future__ import annotations

import dataclasses

from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from app import units
from app.engine.protocol import Loaded
from app.hardware.model import DeviceSample, HardwareReport, HardwareSampled
from app.plan.model import LoadPlan
from ui.widgets.labels import label, set_state
from ui.widgets.memory_bar import MemoryBar, MemoryBarValues


@dataclasses.dataclass(slots=True)
class _Cell:
    box: QWidget
    bar: MemoryBar
    live: QLabel


class DeviceStrip(QWidget):
    """One cell for each device that holds a part of the model; hidden while none is loaded."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(20, 6, 20, 8)
        self._row.setSpacing(20)
        self._row.addStretch(1)
        self._cells: dict[str, _Cell] = {}
        self._samples: dict[str, DeviceSample] = {}
        self.hide()

    def set_report(self, report: HardwareReport) -> None:
        """What was read once, until live values come."""
        for device in report.devices:
            self._samples[device.id] = DeviceSample(
                device_id=device.id, temperature_c=device.temperature_c, power_w=device.power_w
            )

    def set_loaded(self, loaded: Loaded | None, plan: LoadPlan | None) -> None:
        """Show what the loaded model takes on each device."""
        for cell in self._cells.values():
            self._row.removeWidget(cell.box)
            cell.box.hide()
            cell.box.deleteLater()
        self._cells = {}
        if loaded is None or plan is None:
            self.hide()
            return
        actual = {m.device: m.model_bytes for m in loaded.memory}
        for share in plan.devices:
            if share.layer_count:
                used = actual.get(share.device.engine_name, 0)
                total = share.device.total_bytes
                self._add(share.device.id, share.device.label, share.model_bytes, used, total)
        host = plan.host
        self._add("host", "RAM", host.model_bytes, actual.get("CPU", 0), host.host.total_bytes)
        for device_id in self._cells:
            self._show(device_id)
        self.show()

    def set_sample(self, sample: HardwareSampled) -> None:
        """Live values."""
        for device in sample.devices:
            self._samples[device.device_id] = device
            self._show(device.device_id)

    def _add(self, device_id: str, name: str, planned: int, used: int, total: int) -> None:
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(label(name, "muted"))
        bar = MemoryBar(height=4)
        bar.setMinimumWidth(32)
        bar.setMaximumWidth(120)
        bar.set_values(MemoryBarValues(total=total, weights=used))
        row.addWidget(bar, 100)
        live = label("", "small")
        row.addWidget(live)
        row.addStretch(1)
        memory = units.format_memory
        words = f"{name}: {memory(planned)} planned, {memory(used)} in use by the model"
        box.setToolTip(words)
        box.setAccessibleName(words)
        live.setText(f"{memory(used)}, planned {memory(planned)}")
        box.setProperty("memory", live.text())
        self._cells[device_id] = _Cell(box, bar, live)
        self._row.insertWidget(self._row.count() - 1, box, 4)

    def _show(self, device_id: str) -> None:
        cell, sample = self._cells.get(device_id), self._samples.get(device_id)
        if cell is None or sample is None:
            return
        memory = str(cell.box.property("memory"))
        short = memory.split(",")[0] if len(self._cells) > 4 else memory
        heat = f"  {sample.temperature_c:.0f} °C" if sample.temperature_c is not None else ""
        cell.live.setText(f"{short}{heat}{'  throttling' if sample.throttling else ''}")
        set_state(cell.live, "warn" if sample.throttling else "")
