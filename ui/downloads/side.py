"""Beside the board: the disk, the speed, and what happens when it is done."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app import units
from app.download.model import HALTED, Download
from ui.downloads import words
from ui.downloads.bars import DiskBar, DiskValues, Sparkline, SpeedHistory
from ui.widgets.labels import frame, label, set_state
from ui.widgets.switch import Switch


class Side(QWidget):
    """Signals: load_wanted(bool), whether the model is loaded once it is here."""

    load_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._histories: dict[str, SpeedHistory] = {}
        self._before: dict[str, int] = {}
        self._disk_total = 0
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        head = QHBoxLayout()
        head.addWidget(label("Disk", "strong"))
        head.addStretch(1)
        self._disk_size = label("", "muted")
        head.addWidget(self._disk_size)
        column.addLayout(head)
        self.disk = DiskBar()
        column.addWidget(self.disk)
        self._disk_lines = _Numbers(
            "In use by others", "This download, on disk", "Still to come", "Free now", "Free after"
        )
        column.addWidget(self._disk_lines)
        column.addSpacing(16)
        column.addWidget(label("Speed, last 10 minutes", "strong"))
        self.sparkline = Sparkline()
        column.addWidget(self.sparkline)
        foot = QHBoxLayout()
        self._average, self._peak = label("", "muted"), label("", "muted")
        foot.addWidget(self._average)
        foot.addStretch(1)
        foot.addWidget(self._peak)
        column.addLayout(foot)
        self._lines = _Numbers("Connections", "Retries", "Fetched again")
        column.addWidget(self._lines)
        column.addSpacing(16)
        column.addWidget(frame("rule"))
        column.addSpacing(4)
        row = QHBoxLayout()
        self.switch = Switch()
        self.switch.setAccessibleName("Load it and open a chat when it is done")
        self.switch.toggled.connect(self.load_wanted)
        row.addWidget(self.switch)
        row.addSpacing(4)
        row.addWidget(label("Load it when it is done", wrap=True), 1)
        column.addLayout(row)
        column.addStretch(1)

    def set_disk_total(self, total: int) -> None:
        """The size of the disk that models go to."""
        self._disk_total = total

    def note(self, download: Download) -> None:
        """Take a sample of a download's speed, whether it is shown or not."""
        history = self._histories.setdefault(download.id, SpeedHistory())
        if download.state not in HALTED or history.samples:
            speed = 0.0 if download.state in HALTED else download.progress.bytes_per_s
            history.add(time.monotonic(), speed)

    def set_download(self, download: Download) -> None:
        """Show the figures of this one."""
        progress = download.progress
        free = progress.free_bytes
        coming = progress.size_bytes - progress.written_bytes
        if free is not None:
            total = max(self._disk_total, free + progress.written_bytes)
            here = progress.written_bytes
            others = max(0, total - free - here)
            self.disk.set_values(DiskValues(total=total, others=others, here=here, coming=coming))
            self._disk_size.setText(f"models, {units.format_file_size(total)}")
            size = _size
            after = free - coming
            self._disk_lines.set_values(
                size(others), size(here), size(coming), size(free), size(after)
            )
            self._disk_lines.warn(4, on=after < 0)
        history = self._histories.setdefault(download.id, SpeedHistory())
        self.sparkline.set_history(history)
        told = history.peak > 0
        self._average.setText(f"Average {words.rate(history.average)}" if told else "Not begun")
        self._peak.setText(f"Peak {words.rate(history.peak)}" if told else "")
        self._lines.set_values(
            str(progress.connections),
            f"{progress.retries:,}",
            units.format_file_size(progress.refetched_bytes)
            if progress.refetched_bytes
            else "nothing",
        )


def _size(size_bytes: int) -> str:
    return units.format_file_size(size_bytes) if size_bytes else "0 GB"


class _Numbers(QWidget):
    """Words to the left, numbers to the right."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(0, 1)
        self._values: list[QLabel] = []
        for row, name in enumerate(names):
            grid.addWidget(label(name, "body-muted"), row, 0)
            value = label("")
            grid.addWidget(value, row, 1, Qt.AlignmentFlag.AlignRight)
            self._values.append(value)

    def set_values(self, *values: str) -> None:
        for value, text in zip(self._values, values, strict=True):
            value.setText(text)

    def warn(self, row: int, *, on: bool) -> None:
        set_state(self._values[row], "error" if on else "")
