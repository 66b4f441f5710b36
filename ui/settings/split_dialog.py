"""The GPU split: which devices, in which order, how many layers each, with live memory bars."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Protocol

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.errors import AppError
from app.hardware.model import Device
from app.plan.model import DevicePlan, HostPlan, KvCacheType, LoadPlan
from app.plan.text import VERDICT_WORDS
from app.settings.model import Settings, SplitMode
from ui import theme
from ui.settings.device_row import BAR_COLUMN, HEADS, DeviceRow
from ui.settings.mode_tiles import MODES, ModeTiles
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.layer_bar import LayerBar, LayerBarValues
from ui.widgets.legend import Legend


class Preview(Protocol):
    """`AppService.preview`."""

    def __call__(self, settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        """The plan with other settings."""


class SplitDialog(QDialog):
    """Signals: applied(Settings)."""

    applied = Signal(object)

    def __init__(
        self,
        settings: Settings,
        devices: tuple[Device, ...],
        total_layers: int,
        preview: Preview,
        parent: QWidget | None = None,
        *,
        in_use: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("GPU split")
        self.resize(1080, 720)
        self.setMinimumSize(900, 560)
        self._preview, self._total = preview, total_layers
        self._in_use = in_use or {}
        self._stored = settings
        self._updating = False
        self._ordered = bool(settings.device_order)
        known = {device.id: device for device in devices}
        order = [*(i for i in settings.device_order if i in known)]
        order += [i for i in known if i not in order]
        self._rows = [DeviceRow(known[i], total_layers) for i in order]
        column = QVBoxLayout(self)
        column.setContentsMargins(32, 20, 32, 16)
        column.setSpacing(12)
        head = QHBoxLayout()
        head.addWidget(label("GPU split", "title"))
        head.addStretch(1)
        self._facts = label("", "body-muted")
        head.addWidget(self._facts)
        column.addLayout(head)
        self._tiles = ModeTiles()
        column.addWidget(self._tiles)
        self._build_layers(column)
        self._build_devices(column)
        self._build_choices(column)
        self._build_footer(column)
        self._connect()
        self._lay_rows()
        self._show(settings)
        self.apply_button.setFocus()

    def _build_layers(self, column: QVBoxLayout) -> None:
        row = QHBoxLayout()
        row.addWidget(label("Layers in order, drawn by size", "strong"))
        row.addStretch(1)
        self._how = label("Drag a cut, or use the arrow keys.", "muted")
        row.addWidget(self._how)
        column.addLayout(row)
        self.layers = LayerBar()
        column.addWidget(self.layers)
        self._verdict = label("", "body", wrap=True)
        column.addWidget(self._verdict)

    def _build_devices(self, column: QVBoxLayout) -> None:
        card = frame("card")
        outer = QVBoxLayout(card)
        outer.setContentsMargins(16, 10, 16, 10)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(BAR_COLUMN, 1)
        outer.addLayout(self._grid)
        outer.addWidget(frame("rule"))
        total = QHBoxLayout()
        self._total_label = label("", "strong")
        self._sums = label("", "muted")
        total.addWidget(self._total_label)
        total.addStretch(1)
        total.addWidget(self._sums)
        outer.addLayout(total)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        holder = QWidget()
        inner = QVBoxLayout(holder)
        inner.setContentsMargins(0, 0, 0, 0)
        self._none = label(
            "No GPU or RPC device is in use: all layers run on the CPU. Name an RPC server below to add one.",
            "body-muted",
            wrap=True,
        )
        inner.addWidget(self._none)
        inner.addWidget(card)
        legend = QHBoxLayout()
        legend.addStretch(1)
        legend.addWidget(Legend())
        inner.addLayout(legend)
        inner.addStretch(1)
        scroll.setWidget(holder)
        column.addWidget(scroll, 1)
        self._none.setVisible(not self._rows)
        for part in (card, self.layers, self._how, self._tiles):
            part.setVisible(bool(self._rows))

    def _build_choices(self, column: QVBoxLayout) -> None:
        row = QHBoxLayout()
        self._kv_k, self._kv_v = QComboBox(), QComboBox()
        for box in (self._kv_k, self._kv_v):
            for kind in KvCacheType:
                box.addItem(kind.value, kind)
        self._context = QSpinBox()
        self._context.setRange(0, 2**24)
        self._context.setSingleStep(1024)
        self._context.setGroupSeparatorShown(True)
        self._context.setSpecialValueText("automatic")
        self._context.setMinimumWidth(112)
        self._context.lineEdit().setTextMargins(6, 0, 0, 0)
        self._servers = QLineEdit(", ".join(self._stored.rpc_servers))
        self._servers.setPlaceholderText("192.168.1.20:50052")
        for text, widget in (
            ("Context", self._context),
            ("K cache", self._kv_k),
            ("V cache", self._kv_v),
            ("RPC servers", self._servers),
        ):
            widget.setAccessibleName(text)
            row.addWidget(label(text, "strong"))
            row.addWidget(widget, 1 if widget is self._servers else 0)
            row.addSpacing(8)
        column.addLayout(row)

    def _build_footer(self, column: QVBoxLayout) -> None:
        column.addWidget(frame("rule"))
        foot = QHBoxLayout()
        reset = button("Reset to automatic", "plain")
        reset.clicked.connect(self._reset)
        foot.addWidget(reset)
        self._problem = label("", "small", wrap=True)
        set_state(self._problem, "error")
        foot.addWidget(self._problem, 1)
        cancel = button("Cancel")
        cancel.clicked.connect(self.reject)
        self.apply_button = button("Apply and reload", "primary")
        self.apply_button.clicked.connect(self._apply)
        foot.addWidget(cancel)
        foot.addWidget(self.apply_button)
        column.addLayout(foot)

    def _connect(self) -> None:
        self._tiles.chosen.connect(self._changed)
        self.layers.cut_moved.connect(self._cut_moved)
        self._servers.textChanged.connect(self._changed)
        for box in (self._kv_k, self._kv_v):
            box.currentIndexChanged.connect(self._changed)
        self._context.valueChanged.connect(self._changed)
        for row in self._rows:
            row.use.toggled.connect(self._changed)
            row.slider.valueChanged.connect(functools.partial(self._moved, row))
            row.number.valueChanged.connect(functools.partial(self._moved, row))
            row.reserve.valueChanged.connect(functools.partial(self._reserved, row))
            row.up.clicked.connect(functools.partial(self._raise, row))
            row.lock.toggled.connect(row.show_icons)
            theme.manager().changed.connect(row.show_icons)

    def _lay_rows(self) -> None:
        for index, text in enumerate(HEADS):
            head = label(text, "muted")
            if text == "Needs":
                head.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._grid.addWidget(head, 0, index)
        for index, row in enumerate(self._rows, start=1):
            row.up.setEnabled(index > 1)
            for column, cell in enumerate(row.cells):
                self._grid.addWidget(cell, index, column)

    # --- what the person does -----------------------------------------------------

    def _raise(self, row: DeviceRow, *_checked: object) -> None:
        index = self._rows.index(row)
        if index:
            self._ordered = True
            self._rows[index - 1 : index + 1] = [row, self._rows[index - 1]]
            self._lay_rows()
            self._changed()

    def _reserved(self, row: DeviceRow, *_value: object) -> None:
        if not self._updating:
            row.reserve_changed = True
            self._changed()

    def _used(self) -> list[DeviceRow]:
        return [row for row in self._rows if row.use.isChecked()]

    def _moved(self, row: DeviceRow, value: int) -> None:
        """A number by hand: the nearest unlocked neighbour gives or takes, so that the total stays."""
        if self._updating:
            return
        self._updating = True
        row.set_layers(value)
        used = self._used()
        if row in used:
            place = used.index(row)
            after = [r for r in used[place + 1 :] if not r.lock.isChecked()]
            before = [r for r in reversed(used[:place]) if not r.lock.isChecked()]
            surplus = sum(r.number.value() for r in used) - self._total
            for other in (*after, *before):
                given = max(0, other.number.value() - surplus)
                surplus -= other.number.value() - given
                other.set_layers(given)
                if not surplus:
                    break
            if surplus:  # all others are locked, or empty
                row.set_layers(value - surplus if value >= surplus else 0)
        self._tiles.set_mode(SplitMode.MANUAL)
        self._updating = False
        self._changed()

    def _cut_moved(self, cut: int, layer: int) -> None:
        """A cut moved in the layer bar: both neighbours' numbers change."""
        used = self._used()
        first = self._total - sum(row.number.value() for row in used)
        start = first + sum(row.number.value() for row in used[:cut])
        change = layer - start - used[cut].number.value()
        if any(row.lock.isChecked() for row in used[cut : cut + 2]):
            self._problem.setText("This cut touches a locked device. Unlock it to move the cut.")
            return
        self._updating = True
        for row, delta in zip(used[cut : cut + 2], (change, -change), strict=True):
            row.set_layers(row.number.value() + delta)
        self._tiles.set_mode(SplitMode.MANUAL)
        self._updating = False
        self._changed()

    @property
    def mode(self) -> SplitMode:
        """The chosen mode."""
        return self._tiles.mode

    def chosen(self) -> Settings:
        """The settings as the dialog stands now.

        Raises:
            ValueError: An RPC server's address is none.
        """
        servers = [part.strip() for part in self._servers.text().split(",") if part.strip()]
        reserves = dict(self._stored.reserves)
        reserves |= {
            row.device.id: round(row.reserve.value() * units.GIB)
            for row in self._rows
            if row.reserve_changed
        }
        fixed = self._ordered or self.mode is not SplitMode.AUTOMATIC
        changes = {
            "split_mode": self.mode,
            "device_order": tuple(row.device.id for row in self._rows) if fixed else (),
            "disabled_devices": tuple(r.device.id for r in self._rows if not r.use.isChecked()),
            "locked_devices": tuple(r.device.id for r in self._rows if r.lock.isChecked()),
            "layers": {row.device.id: row.number.value() for row in self._used()},
            "reserves": reserves,
            "context": max(256, self._context.value()) if self._context.value() else None,
            "kv_type_k": self._kv_k.currentData(),
            "kv_type_v": self._kv_v.currentData(),
            "rpc_servers": tuple(servers),
        }
        return Settings.model_validate(self._stored.model_dump() | changes)

    def _reset(self) -> None:
        self._stored = self._stored.model_copy(update={"reserves": {}})
        self._ordered = False
        for row in self._rows:
            row.reserve_changed = False
        changes = {"split_mode": SplitMode.AUTOMATIC, "disabled_devices": (), "layers": {}}
        self._show(
            self._stored.model_copy(update={**changes, "locked_devices": (), "context": None})
        )

    def _apply(self) -> None:
        try:
            chosen = self.chosen()
        except ValueError as error:
            self._problem.setText(_words(error))
            return
        self.applied.emit(chosen)
        self.accept()

    # --- what would come of it --------------------------------------------------------

    def _show(self, settings: Settings) -> None:
        self._updating = True
        self._tiles.set_mode(settings.split_mode)
        self._kv_k.setCurrentIndex(list(KvCacheType).index(settings.kv_type_k))
        self._kv_v.setCurrentIndex(list(KvCacheType).index(settings.kv_type_v))
        self._context.setValue(settings.context or 0)
        for row in self._rows:
            row.use.setChecked(row.device.id not in settings.disabled_devices)
            row.lock.setChecked(row.device.id in settings.locked_devices)
            row.set_layers(settings.layers.get(row.device.id, 0))
            row.reserve_changed = False
        self._updating = False
        self._changed()

    def _changed(self, *_value: object) -> None:
        if self._updating:
            return
        self._problem.setText("")
        try:
            chosen = self.chosen()
            plan = self._preview(chosen, limits=True)
            for mode in MODES:
                if mode is not SplitMode.MANUAL and self._rows:
                    other = chosen.model_copy(update={"split_mode": mode})
                    self._tiles.set_outcome(mode, self._preview(other, limits=False))
        except AppError as error:
            self._fault(str(error))
            return
        except ValueError as error:
            self._fault(_words(error))
            return
        if plan is not None:
            self._draw(plan)

    def _fault(self, sentence: str) -> None:
        self._problem.setText(sentence)
        self.apply_button.setEnabled(False)
        self.apply_button.setToolTip(sentence)

    def _follow_order(self, plan: LoadPlan) -> None:
        """Rows stand as the plan has its devices; those that are off come last."""
        places = {share.device.id: index for index, share in enumerate(plan.devices)}
        rows = sorted(self._rows, key=lambda row: places.get(row.device.id, len(places)))
        if self.mode is SplitMode.AUTOMATIC and not self._ordered and rows != self._rows:
            self._rows = rows
            self._lay_rows()

    def _draw(self, plan: LoadPlan) -> None:
        self._updating = True
        self._follow_order(plan)
        shares = {share.device.id: share for share in plan.devices}
        scale = max((share.device.total_bytes for share in plan.devices), default=1)
        for row in self._rows:
            share = shares.get(row.device.id)
            name = row.device.support.engine_name or ""
            row.show_share(plan, share, self._in_use.get(name), scale)
            if share is not None and self.mode is not SplitMode.MANUAL:
                row.set_layers(share.layer_count)
        self._updating = False
        manual = self.mode is SplitMode.MANUAL
        self._tiles.set_outcome(SplitMode.MANUAL, plan if manual else None)
        self.layers.set_values(
            LayerBarValues(
                sizes=plan.layer_sizes,
                first=plan.block_count + 1 - plan.gpu_layers,
                counts=plan.tensor_split,
                names=tuple(share.device.label for share in plan.devices),
            )
        )
        empty = sum(1 for size in plan.layer_sizes if not size)
        more = f" Grey slivers are the {empty} empty layers." if empty else ""
        self._how.setText(f"Drag a cut, or use the arrow keys.{more}")
        self._verdict.setText(f"{VERDICT_WORDS[plan.verdict]} {plan.sentence} {plan.hint}".strip())
        set_state(self._verdict, "" if plan.runs else "error")
        self._facts.setText(f"{plan.context:,} tokens, up to {plan.max_context:,} fit")
        left = plan.block_count + 1 - plan.gpu_layers
        placed = "all placed" if not left else f"{left} on the CPU"
        self._total_label.setText(
            f"{plan.gpu_layers} of {plan.block_count + 1} layers on devices, {placed}"
        )
        parts: list[HostPlan | DevicePlan] = [plan.host, *plan.devices]
        memory = units.format_memory
        self._sums.setText(
            f"Weights {memory(sum(p.weights_bytes for p in parts))} · "
            f"KV cache {memory(sum(p.kv_cache_bytes for p in parts))} · "
            f"compute {memory(sum(p.compute_bytes for p in parts))} · "
            f"{memory(sum(p.model_bytes for p in parts))} in all, main memory included"
        )
        self.apply_button.setEnabled(plan.runs)
        self.apply_button.setToolTip("" if plan.runs else plan.sentence)


def _words(error: ValueError) -> str:
    """The sentence within pydantic's report."""
    text = str(error).replace("Value error, ", "")
    lines = [line.strip() for line in text.splitlines() if "“" in line]
    return lines[0].split(" [type=")[0] + "." if lines else "A value is not possible."
