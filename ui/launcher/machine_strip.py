"""The machine in one strip: a cell for each device and one for the CPU, with live values."""

from __future__ import annotations

import dataclasses
import math

from PySide6.QtCore import QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app import units
from app.hardware.model import Device, DeviceSample, HardwareReport, HardwareSampled
from ui.widgets.labels import clear, frame, label, set_state
from ui.widgets.memory_bar import MemoryBar, MemoryBarValues

WIDE_PX = 960
CELLS_WIDE, CELLS_NARROW = 9, 5
"""Eight cards and the CPU in one row, or in two."""


@dataclasses.dataclass(slots=True)
class _Cell:
    """The widgets of a cell that change, and the memory that they show."""

    box: QWidget
    edge: QFrame
    bar: MemoryBar
    memory: QLabel
    facts: QLabel
    total: int | None


class MachineStrip(QFrame):
    """Nine cells in a row, five where the window is narrow; rows are about equally long."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "card")
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(8, 12, 8, 12)
        self._grid.setHorizontalSpacing(0)
        self._grid.setVerticalSpacing(12)
        self._cells: list[tuple[str, _Cell]] = []
        self._devices: dict[str, Device] = {}
        self._columns = 0

    def set_report(self, report: HardwareReport) -> None:
        """Show the machine."""
        clear(self._grid)
        self._devices = {device.id: device for device in report.devices}
        self._cells = [(d.id, _cell(d.name, d.label, d.memory_total_bytes)) for d in report.devices]
        ram, cpu = report.memory, report.cpu
        host = _cell(cpu.name, "CPU", ram.total_bytes)
        self._cells.append(("host", host))
        self._columns = 0
        self._lay()
        for device_id, cell in self._cells[:-1]:
            device = self._devices[device_id]
            total, free = device.memory_total_bytes, device.memory_free_bytes
            used = total - free if total is not None and free is not None else None
            sample = DeviceSample(
                device_id=device_id,
                memory_used_bytes=used,
                temperature_c=device.temperature_c,
                power_w=device.power_w,
                utilisation_percent=device.utilisation_percent,
            )
            self._show(cell, sample)
        _fill(host, ram.total_bytes - ram.available_bytes)
        host.facts.setText(f"{cpu.physical_cores} cores")

    def set_sample(self, sample: HardwareSampled) -> None:
        """Show live values; what a sample lacks keeps its last value."""
        cells = dict(self._cells)
        for device in sample.devices:
            cell = cells.get(device.device_id)
            if cell is not None:
                self._show(cell, device)
        host = cells.get("host")
        if host is not None and host.total is not None:
            _fill(host, host.total - sample.memory_available_bytes)
            host.facts.setText(f"{sample.cpu_percent:.0f} % busy")

    def _show(self, cell: _Cell, sample: DeviceSample) -> None:
        if sample.memory_used_bytes is not None:
            _fill(cell, sample.memory_used_bytes)
        device = self._devices[sample.device_id]
        facts = [f"{sample.temperature_c:.0f} °C"] if sample.temperature_c is not None else []
        facts += [f"{sample.power_w:.0f} W"] if sample.power_w is not None else []
        if sample.utilisation_percent is not None:
            facts.append(f"{sample.utilisation_percent:.0f} %")
        facts += [f"x{device.pcie.width}"] if device.pcie.width else []
        facts += ["throttling"] if sample.throttling else []
        if not device.usable:
            facts = ["not usable", *facts]
        if facts or not sample.memory_used_bytes:
            cell.facts.setText("  ".join(facts) or (device.support.backend or "").upper())
        set_state(cell.facts, "warn" if sample.throttling or not device.usable else "")

    def minimumSizeHint(self) -> QSize:
        """Any width will do: where it is small there are more rows."""
        return QSize(0, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fold or unfold."""
        super().resizeEvent(event)
        self._lay()

    def _lay(self) -> None:
        most = CELLS_WIDE if self.width() >= WIDE_PX else CELLS_NARROW
        rows = math.ceil(len(self._cells) / most)
        columns = math.ceil(len(self._cells) / max(1, rows)) or 1
        if columns == self._columns:
            return
        for column in range(max(self._grid.columnCount(), columns)):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)
        self._columns = columns
        for index, (_, cell) in enumerate(self._cells):
            last = index % columns == columns - 1 or index == len(self._cells) - 1
            cell.edge.setVisible(not last)
            self._grid.addWidget(cell.box, index // columns, index % columns)


def _cell(name: str, short: str, total: int | None) -> _Cell:
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(0)
    column = QVBoxLayout()
    column.setContentsMargins(8, 0, 8, 0)
    column.setSpacing(4)
    head = QHBoxLayout()
    head.setSpacing(4)
    title = label(_short(name), "small-strong", elide=True)
    title.setToolTip(name)
    head.addWidget(title, 1)
    head.addWidget(label(short, "muted"))
    column.addLayout(head)
    edge = frame("vrule")
    cell = _Cell(
        box, edge, MemoryBar(height=6), label("", "small"), label("", "muted", elide=True), total
    )
    column.addWidget(cell.bar)
    column.addWidget(cell.memory)
    column.addWidget(cell.facts)
    row.addLayout(column, 1)
    row.addWidget(edge)
    if total is None:
        cell.bar.hide()
        cell.memory.setText("memory unknown")
    return cell


def _short(name: str) -> str:
    """A card's name without its maker, which the strip has no room for."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _fill(cell: _Cell, used: int) -> None:
    if cell.total is None:
        return
    used = min(used, cell.total)
    cell.bar.set_values(MemoryBarValues(total=cell.total, held=used))
    cell.memory.setText(f"{used / units.GIB:.1f} of {units.format_memory(cell.total)}")
