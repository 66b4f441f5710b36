"""The GPU split: which devices, in which order, how many layers each, with live memory bars."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Protocol

from PySide6.QtCore import QSize, Signal
from PySide6.QtWidgets import QDialog, QHBoxLayout, QVBoxLayout, QWidget

from app import units
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.hardware.model import Device
from app.plan import speed
from app.plan.model import LoadPlan
from app.plan.text import VERDICT_WORDS
from app.settings.model import Settings, SplitMode
from ui import theme
from ui.settings.choices import Choices
from ui.settings.device_row import DeviceRow
from ui.settings.device_table import DeviceTable
from ui.settings.mode_tiles import MODES, ModeTiles
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.layer_bar import LayerBar, LayerBarValues
from ui.widgets.timers import after_rest

SETTLE_MS = 150
"""How long a change must stand before the exact plan is asked for."""


class Preview(Protocol):
    """`AppService.preview`."""

    def __call__(self, settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        """The plan with other settings."""


class SplitDialog(QDialog):
    """Signals: applied(Settings); studied(Settings), to be answered by `show_exact`; fastest_wanted(Settings)."""

    applied = Signal(object)
    studied = Signal(object)
    fastest_wanted = Signal(object)

    def __init__(
        self,
        settings: Settings,
        devices: tuple[Device, ...],
        total_layers: int,
        preview: Preview,
        parent: QWidget | None = None,
        *,
        in_use: Mapping[str, int] | None = None,
        layout: ModelLayout | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("GPU split")
        self.setMinimumSize(900, 640)
        room = parent.size() if parent is not None else QSize(1080, 720)
        self.resize(QSize(1080, 720).boundedTo(room))
        self._preview, self._total = preview, total_layers
        self._in_use, self._layout = in_use or {}, layout
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
        self._build_head(column)
        self._table = DeviceTable(self._rows)
        column.addWidget(self._table, 1)
        for part in (self.layers, self._how, self._tiles):
            part.setVisible(bool(self._rows))
        self.choices = Choices(settings, several=len(devices) > 1)
        column.addWidget(self.choices)
        self._build_footer(column)
        self._connect()
        self._settle = after_rest(self, SETTLE_MS, self.study)
        self._show(settings)
        self.apply_button.setFocus()

    def _build_head(self, column: QVBoxLayout) -> None:
        head = QHBoxLayout()
        head.addWidget(label("GPU split", "title"))
        head.addStretch(1)
        self._facts = label("", "body-muted")
        head.addWidget(self._facts)
        column.addLayout(head)
        self._tiles = ModeTiles(several=len(self._rows) > 1)
        column.addWidget(self._tiles)
        row = QHBoxLayout()
        self._layers_title = label("Layers in order, drawn by size", "strong")
        row.addWidget(self._layers_title)
        row.addStretch(1)
        self._how = label("Drag a cut, or use the arrow keys.", "muted")
        row.addWidget(self._how)
        column.addLayout(row)
        self.layers = LayerBar()
        column.addWidget(self.layers)
        self._verdict = label("", "body", wrap=True)
        column.addWidget(self._verdict)

    def _build_footer(self, column: QVBoxLayout) -> None:
        column.addWidget(frame("rule"))
        foot = QHBoxLayout()
        reset = button("Reset to automatic", "plain")
        reset.clicked.connect(self._reset)
        foot.addWidget(reset)
        self.fastest_button = button("Find the fastest")
        self.fastest_button.setToolTip("Measure some plans on these devices")
        self.fastest_button.clicked.connect(self._find_fastest)
        foot.addWidget(self.fastest_button)
        self._problem = label("", "small", wrap=True)
        set_state(self._problem, "error")
        foot.addWidget(self._problem, 1)
        cancel = button("Cancel")
        cancel.clicked.connect(self.reject)
        self.apply_button = button("Apply and reload", "primary")
        self.apply_button.clicked.connect(self._apply)
        # Otherwise Enter in a field would press the first tile.
        self.apply_button.setDefault(True)
        foot.addWidget(cancel)
        foot.addWidget(self.apply_button)
        column.addLayout(foot)

    def _connect(self) -> None:
        self._tiles.chosen.connect(self._changed)
        self.layers.cut_moved.connect(self._cut_moved)
        self.choices.changed.connect(self._changed)
        for row in self._rows:
            row.use.toggled.connect(self._changed)
            row.slider.valueChanged.connect(functools.partial(self._moved, row))
            row.number.valueChanged.connect(functools.partial(self._moved, row))
            row.reserve.valueChanged.connect(functools.partial(self._reserved, row))
            row.up.clicked.connect(functools.partial(self._raise, row))
            row.lock.toggled.connect(row.show_icons)
        theme.manager().changed.connect(self._show_icons)

    def _show_icons(self) -> None:
        for row in self._rows:
            row.show_icons()

    # --- what the person does -----------------------------------------------------

    def _raise(self, row: DeviceRow, *_checked: object) -> None:
        index = self._rows.index(row)
        if index:
            self._ordered = True
            self._rows[index - 1 : index + 1] = [row, self._rows[index - 1]]
            self._table.lay(self._rows)
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
        reserves = dict(self._stored.reserves)
        reserves |= {
            row.device.id: round(row.reserve.value() * units.GIB)
            for row in self._rows
            if row.reserve_changed
        }
        fixed = self._ordered or self.mode is not SplitMode.AUTOMATIC
        changes: dict[str, object] = {
            "split_mode": self.mode,
            "device_order": tuple(row.device.id for row in self._rows) if fixed else (),
            "disabled_devices": tuple(r.device.id for r in self._rows if not r.use.isChecked()),
            "locked_devices": tuple(r.device.id for r in self._rows if r.lock.isChecked()),
            "layers": {row.device.id: row.number.value() for row in self._used()},
            "reserves": reserves,
        }
        changes |= self.choices.values
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

    def _find_fastest(self) -> None:
        chosen = self._chosen_or_none()
        if chosen is not None:
            self.fastest_wanted.emit(chosen)

    # --- what would come of it --------------------------------------------------------

    def _show(self, settings: Settings) -> None:
        self._updating = True
        self._tiles.set_mode(settings.split_mode)
        self.choices.show_settings(settings)
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
        self._settle.stop()
        self.choices.show_mode(self.mode)
        try:
            chosen = self.chosen()
            plan = self._preview(chosen, limits=False)
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
            self._draw(plan, exact=False)
            self._settle.start()

    def study(self) -> None:
        """Ask for the exact plan of what is chosen now; the quick one is shown meanwhile."""
        chosen = self._chosen_or_none()
        if chosen is not None:
            self.studied.emit(chosen)

    def show_exact(self, settings: Settings, plan: LoadPlan | None, error: AppError | None) -> None:
        """The exact plan arrived; it counts unless something else is chosen by now."""
        if self._settle.isActive() or settings != self._chosen_or_none():
            return
        if error is not None:
            self._fault(str(error))
        elif plan is not None:
            self._draw(plan, exact=True)

    def _chosen_or_none(self) -> Settings | None:
        """As `chosen`, or None where a field holds nonsense."""
        try:
            return self.chosen()
        except ValueError:
            return None

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
            self._table.lay(self._rows)

    def _draw(self, plan: LoadPlan, *, exact: bool) -> None:
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
            if plan.request.tensor_parallel:
                row.fix_layers()
        self._updating = False
        self._tiles.set_outcome(SplitMode.MANUAL, None)
        self._tiles.set_outcome(self.mode, plan)
        for part in (self.layers, self._layers_title, self._how):
            part.setVisible(not plan.request.tensor_parallel and bool(self._rows))
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
        warning = plan.warnings[-1] if plan.request.tensor_parallel else ""
        words = (f"{VERDICT_WORDS[plan.verdict]} {plan.sentence}", plan.note, warning, plan.hint)
        self._verdict.setText(" ".join(part for part in words if part))
        set_state(self._verdict, "" if plan.runs else "error")
        self._facts.setText(self._facts_of(plan, exact=exact))
        self._table.show_sums(plan)
        for each in (self.apply_button, self.fastest_button):
            each.setEnabled(plan.runs)
        self.apply_button.setToolTip("" if plan.runs else plan.sentence)

    def _facts_of(self, plan: LoadPlan, *, exact: bool) -> str:
        """Context, what else would fit, and how fast it is likely to be."""
        limit = f"up to {plan.max_context:,} fit" if plan.max_context else "no context fits"
        parts = [f"{plan.context:,} tokens", limit if exact else "checking what fits"]
        if self._layout is not None and plan.runs:
            rate = speed.estimate(plan, self._layout).generation
            parts += [f"likely {rate.likely} tokens/s"] if rate else []
        return ", ".join(parts)


def _words(error: ValueError) -> str:
    """The sentence within pydantic's report."""
    text = str(error).replace("Value error, ", "")
    lines = [line.strip() for line in text.splitlines() if "“" in line]
    return lines[0].split(" [type=")[0] + "." if lines else "A value is not possible."
