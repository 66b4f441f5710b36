"""The devices of the split: a row for each, the sums beneath."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from app import units
from app.plan.model import DevicePlan, HostPlan, LoadPlan
from ui.settings.device_row import BAR_COLUMN, HEADS, DeviceRow
from ui.widgets.labels import frame, label
from ui.widgets.legend import Legend

NONE = "No GPU or RPC device is in use: all layers run on the CPU. Name an RPC server below to add one."


class DeviceTable(QScrollArea):
    """Lays the widgets of `DeviceRow`s into one grid; says so where there are none."""

    def __init__(self, rows: Sequence[DeviceRow], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        card = frame("card")
        outer = QVBoxLayout(card)
        outer.setContentsMargins(16, 10, 16, 10)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(10)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(BAR_COLUMN, 1)
        outer.addLayout(self._grid)
        outer.addWidget(frame("rule"))
        total = QHBoxLayout()
        self._layers = label("", "strong")
        self._sums = label("", "muted")
        total.addWidget(self._layers)
        total.addStretch(1)
        total.addWidget(self._sums)
        outer.addLayout(total)
        holder = QWidget()
        inner = QVBoxLayout(holder)
        inner.setContentsMargins(0, 0, 0, 0)
        none = label(NONE, "body-muted", wrap=True)
        none.setVisible(not rows)
        inner.addWidget(none)
        inner.addWidget(card)
        card.setVisible(bool(rows))
        legend = QHBoxLayout()
        legend.addStretch(1)
        legend.addWidget(Legend())
        inner.addLayout(legend)
        inner.addStretch(1)
        self.setWidget(holder)
        for index, text in enumerate(HEADS):
            head = label(text, "muted")
            if text == "Needs":
                head.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._grid.addWidget(head, 0, index)
        self.lay(rows)

    def lay(self, rows: Sequence[DeviceRow]) -> None:
        """Put the rows into this order, for the eye and for the Tab key."""
        before: QWidget | None = None
        for index, row in enumerate(rows, start=1):
            row.up.setEnabled(index > 1)
            for column, cell in enumerate(row.cells):
                self._grid.addWidget(cell, index, column)
                if before is not None and cell.focusPolicy() is not Qt.FocusPolicy.NoFocus:
                    QWidget.setTabOrder(before, cell)
                before = cell if cell.focusPolicy() is not Qt.FocusPolicy.NoFocus else before

    def show_sums(self, plan: LoadPlan) -> None:
        """What all devices and main memory hold together."""
        left = plan.block_count + 1 - plan.gpu_layers
        rest = f", {left} on the CPU" if left else ""
        self._layers.setText(f"{plan.gpu_layers} of {plan.block_count + 1} layers on devices{rest}")
        parts: list[HostPlan | DevicePlan] = [plan.host, *plan.devices]
        memory = units.format_memory
        self._sums.setText(
            f"Weights {memory(sum(p.weights_bytes for p in parts))} · "
            f"KV cache {memory(sum(p.kv_cache_bytes for p in parts))} · "
            f"compute {memory(sum(p.compute_bytes for p in parts))} · "
            f"{memory(sum(p.model_bytes for p in parts))} in all"
        )
