"""Tensors that lie apart from their layers: one line, and on request a row for each."""

from __future__ import annotations

import itertools
import re

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.plan.model import LoadPlan, TensorOverride
from ui.widgets.labels import button, clear, label

WANT = "For want of memory on its layer's device."
_LAYER = re.compile(r"^blk\.(\d+)\.")


class TensorsApart(QWidget):
    """Hidden while every tensor lies with its layer."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        row = QHBoxLayout()
        self.summary = label("", wrap=True)
        row.addWidget(self.summary, 1)
        self.toggle = button("Show tensors", "link")
        self.toggle.setCheckable(True)
        self.toggle.toggled.connect(self._unfold)
        row.addWidget(self.toggle)
        column.addLayout(row)
        self.details = QWidget()
        self._grid = QGridLayout(self.details)
        self._grid.setContentsMargins(0, 0, 0, 4)
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(3, 1)
        self.details.hide()
        column.addWidget(self.details)
        self.hide()

    def _unfold(self, on: bool) -> None:
        self.details.setVisible(on)
        self.toggle.setText("Hide tensors" if on else "Show tensors")

    def set_plan(self, plan: LoadPlan) -> None:
        """Show the plan's tensors apart."""
        self.setVisible(bool(plan.tensor_overrides))
        self.summary.setText(_summary(plan))
        clear(self._grid)
        labels = _labels(plan)
        for row, override in enumerate(plan.tensor_overrides):
            size = label(units.format_memory(override.size_bytes), "small")
            size.setAlignment(Qt.AlignmentFlag.AlignRight)
            cells = (
                label(override.tensor, "small"),
                size,
                label(labels.get(override.device, "main memory"), "muted"),
                label(override.reason or WANT, "muted", wrap=True),
            )
            for column, cell in enumerate(cells):
                self._grid.addWidget(cell, row, column)


def _labels(plan: LoadPlan) -> dict[str, str]:
    return {share.device.engine_name: share.device.label for share in plan.devices}


def _summary(plan: LoadPlan) -> str:
    """How many tensors of which layers lie where; why, if all have one reason."""
    labels = _labels(plan)
    parts = []
    by_device = sorted(plan.tensor_overrides, key=lambda each: each.device)
    for device, group in itertools.groupby(by_device, key=lambda each: each.device):
        found = list(group)
        size = units.format_memory(sum(each.size_bytes for each in found))
        place = f"on {labels[device]}" if device in labels else "in main memory"
        parts.append(f"{_count(found)} {place}, {size}")
    reasons = {each.reason for each in plan.tensor_overrides}
    why = next(iter(reasons)) if len(reasons) == 1 else ""
    return f"{'; '.join(parts)}. {why}".strip() if parts else ""


def _count(found: list[TensorOverride]) -> str:
    layers = sorted({int(m[1]) for each in found if (m := _LAYER.match(each.tensor))})
    tensors = "1 tensor" if len(found) == 1 else f"{len(found)} tensors"
    if not layers:
        return tensors
    if len(layers) > 4:
        return f"{tensors} of {len(layers)} large layers"
    *most, last = map(str, layers)
    words = f"{', '.join(most)} and {last}" if most else last
    return f"{tensors} of {'layers' if most else 'layer'} {words}"
