"""The GPU split: which devices, in which order, how many layers each, with a live memory bar."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.errors import AppError
from app.hardware.model import Device
from app.plan.model import KvCacheType, LoadPlan
from app.plan.text import VERDICT_WORDS, layer_range
from app.settings.model import Settings, SplitMode
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.memory_bar import MemoryBar, MemoryBarValues

Preview = Callable[[Settings], LoadPlan | None]
MODES = {
    SplitMode.AUTOMATIC: "Automatic",
    SplitMode.EVEN: "Even",
    SplitMode.BY_MEMORY: "By memory",
    SplitMode.MANUAL: "By hand",
}


class _Row:
    """The controls of one device."""

    def __init__(self, device: Device, total: int) -> None:
        self.device = device
        self.title = label(f"{device.label}  {device.name}")
        self.use = QCheckBox()
        self.use.setAccessibleName(f"Use {device.label}")
        self.up = button("↑", "icon")
        self.up.setAccessibleName(f"Move {device.label} up")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, total)
        self.slider.setAccessibleName(f"Layers on {device.label}")
        self.number = QSpinBox()
        self.number.setRange(0, total)
        self.number.setAccessibleName(f"Number of layers on {device.label}")
        self.span = label("–", "muted")
        self.bar = MemoryBar()
        self.planned = label("–")


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
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("GPU split")
        self.resize(960, 620)
        self._preview, self._total = preview, total_layers
        self._stored = self._settings = settings
        self._updating = False
        known = {device.id: device for device in devices}
        order = [*(i for i in settings.device_order if i in known)]
        order += [i for i in known if i not in order]
        self._rows = [_Row(known[i], total_layers) for i in order]
        column = QVBoxLayout(self)
        column.setContentsMargins(32, 20, 32, 16)
        column.setSpacing(12)
        column.addWidget(label("GPU split", "title"))
        self._build_choices(column)
        self._verdict = label("", "lead", wrap=True)
        column.addWidget(self._verdict)
        card = frame("card")
        self._grid = QGridLayout(card)
        self._grid.setContentsMargins(16, 12, 16, 12)
        self._grid.setHorizontalSpacing(12)
        self._grid.setColumnStretch(6, 1)
        column.addWidget(card)
        self._none = label(
            "No GPU or RPC device in use: all layers run on the CPU. Name an RPC server below to add one.",
            "body-muted",
            wrap=True,
        )
        column.addWidget(self._none)
        self._none.setVisible(not self._rows)
        card.setVisible(bool(self._rows))
        self._total_label = label("", "strong")
        column.addWidget(self._total_label)
        column.addStretch(1)
        self._build_footer(column)
        self._connect()
        self._lay_rows()
        self._show(settings)

    def _build_choices(self, column: QVBoxLayout) -> None:
        row = QHBoxLayout()
        self._mode, self._kv = QComboBox(), QComboBox()
        for mode, words in MODES.items():
            self._mode.addItem(words, mode)
        for kind in KvCacheType:
            self._kv.addItem(kind.value, kind)
        self._context = QSpinBox()
        self._context.setRange(0, 2**24)
        self._context.setSingleStep(1024)
        self._context.setGroupSeparatorShown(True)
        self._context.setSpecialValueText("automatic")
        for text, widget in (
            ("Split", self._mode),
            ("Context", self._context),
            ("KV cache", self._kv),
        ):
            widget.setAccessibleName(text)
            row.addWidget(label(text, "strong"))
            row.addWidget(widget)
            row.addSpacing(12)
        row.addStretch(1)
        column.addLayout(row)

    def _build_footer(self, column: QVBoxLayout) -> None:
        servers = QHBoxLayout()
        servers.addWidget(label("RPC servers", "strong"))
        self._servers = QLineEdit(", ".join(self._stored.rpc_servers))
        self._servers.setPlaceholderText("192.168.1.20:50052, 192.168.1.21:50052")
        self._servers.setAccessibleName("RPC servers")
        servers.addWidget(self._servers, 1)
        column.addLayout(servers)
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
        self._mode.currentIndexChanged.connect(self._changed)
        self._kv.currentIndexChanged.connect(self._changed)
        self._context.valueChanged.connect(self._changed)
        for row in self._rows:
            row.use.toggled.connect(self._changed)
            row.slider.valueChanged.connect(lambda value, r=row: self._moved(r, value))
            row.number.valueChanged.connect(lambda value, r=row: self._moved(r, value))
            row.up.clicked.connect(lambda _checked=False, r=row: self._raise(r))

    def _lay_rows(self) -> None:
        heads = ("Use", "Device", "", "Layers", "", "Range", "Memory", "Planned")
        for index, text in enumerate(heads):
            self._grid.addWidget(label(text, "muted"), 0, index)
        for index, row in enumerate(self._rows, start=1):
            cells: tuple[QWidget, ...] = (
                row.use,
                row.title,
                row.up,
                row.slider,
                row.number,
                row.span,
                row.bar,
                row.planned,
            )
            for column, cell in enumerate(cells):
                self._grid.addWidget(cell, index, column)

    def _raise(self, row: _Row) -> None:
        index = self._rows.index(row)
        if index:
            self._rows[index - 1 : index + 1] = [row, self._rows[index - 1]]
            self._lay_rows()
            self._changed()

    def _moved(self, row: _Row, value: int) -> None:
        """A number by hand: the neighbour gives or takes, so that the total stays."""
        if self._updating:
            return
        self._updating = True
        used = [r for r in self._rows if r.use.isChecked()]
        before = sum(r.number.value() for r in used if r is not row)
        row.number.setValue(value)
        row.slider.setValue(value)
        if len(used) > 1 and row in used:
            index = used.index(row)
            other = used[index + 1] if index + 1 < len(used) else used[index - 1]
            rest = before - other.number.value()
            given = max(0, self._total - rest - value)
            other.number.setValue(given)
            other.slider.setValue(given)
        self._mode.setCurrentIndex(list(MODES).index(SplitMode.MANUAL))
        self._updating = False
        self._changed()

    @property
    def mode(self) -> SplitMode:
        """The chosen mode; Qt hands an enum's plain text back."""
        return SplitMode(self._mode.currentData())

    def chosen(self) -> Settings:
        """The settings as the dialog stands now.

        Raises:
            ValueError: An RPC server's address is none.
        """
        servers = [part.strip() for part in self._servers.text().split(",") if part.strip()]
        kind = self._kv.currentData()
        changes = {
            "split_mode": self.mode,
            "device_order": tuple(row.device.id for row in self._rows),
            "disabled_devices": tuple(r.device.id for r in self._rows if not r.use.isChecked()),
            "layers": {r.device.id: r.number.value() for r in self._rows if r.use.isChecked()},
            "context": max(256, self._context.value()) if self._context.value() else None,
            "kv_type_k": kind,
            "kv_type_v": kind,
            "rpc_servers": tuple(servers),
        }
        return Settings.model_validate(self._stored.model_dump() | changes)

    def _show(self, settings: Settings) -> None:
        self._updating = True
        self._mode.setCurrentIndex(list(MODES).index(settings.split_mode))
        self._kv.setCurrentIndex(list(KvCacheType).index(settings.kv_type_k))
        self._context.setValue(settings.context or 0)
        for row in self._rows:
            row.use.setChecked(row.device.id not in settings.disabled_devices)
            value = settings.layers.get(row.device.id, 0)
            row.number.setValue(value)
            row.slider.setValue(value)
        self._updating = False
        self._changed()

    def _changed(self) -> None:
        if self._updating:
            return
        self._problem.setText("")
        try:
            plan = self._preview(self.chosen())
        except AppError as error:
            self._verdict.setText(str(error))
            set_state(self._verdict, "error")
            return
        except ValueError as error:
            self._problem.setText(_words(error))
            return
        if plan is not None:
            self._draw(plan)

    def _draw(self, plan: LoadPlan) -> None:
        self._updating = True
        shares = {share.device.id: share for share in plan.devices}
        manual = self.mode is SplitMode.MANUAL
        scale = max((share.device.total_bytes for share in plan.devices), default=1)
        for row in self._rows:
            share = shares.get(row.device.id)
            row.slider.setEnabled(share is not None)
            row.number.setEnabled(share is not None)
            row.span.setText(layer_range(plan, share) if share else "–")
            row.planned.setText(units.format_memory(share.model_bytes) if share else "off")
            if share is None:
                row.bar.set_values(
                    MemoryBarValues(total=row.device.memory_total_bytes or 1, scale=scale)
                )
                continue
            set_state(row.planned, "error" if share.left_bytes < 0 else "")
            row.bar.set_values(
                MemoryBarValues(
                    total=share.device.total_bytes,
                    weights=share.weights_bytes,
                    kv_cache=share.kv_cache_bytes,
                    compute=share.compute_bytes,
                    reserve=share.reserve_bytes,
                    others=share.device.others_bytes,
                    scale=scale,
                )
            )
            if not manual:
                row.number.setValue(share.layer_count)
                row.slider.setValue(share.layer_count)
        self._updating = False
        self._verdict.setText(f"{VERDICT_WORDS[plan.verdict]} {plan.sentence} {plan.hint}".strip())
        set_state(self._verdict, "" if plan.fits else "error")
        left = plan.block_count + 1 - plan.gpu_layers
        placed = "all placed" if not left else f"{left} on the CPU"
        total = plan.host.model_bytes + sum(share.model_bytes for share in plan.devices)
        self._total_label.setText(
            f"{plan.gpu_layers} of {plan.block_count + 1} layers on devices, {placed}. "
            f"{units.format_memory(total)} in all, {plan.context:,} tokens of context."
        )
        self.apply_button.setEnabled(plan.fits)

    def _reset(self) -> None:
        self._show(
            self._stored.model_copy(
                update={
                    "split_mode": SplitMode.AUTOMATIC,
                    "disabled_devices": (),
                    "layers": {},
                    "context": None,
                }
            )
        )

    def _apply(self) -> None:
        try:
            chosen = self.chosen()
        except ValueError as error:
            self._problem.setText(_words(error))
            return
        self.applied.emit(chosen)
        self.accept()


def _words(error: ValueError) -> str:
    """The sentence within pydantic's report."""
    text = str(error).replace("Value error, ", "")
    lines = [line.strip() for line in text.splitlines() if "“" in line]
    return lines[0].split(" [type=")[0] + "." if lines else "A value is not possible."
