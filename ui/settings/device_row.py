"""The controls of one device in the split."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QSlider, QSpinBox, QWidget

from app import units
from app.hardware.model import Device
from app.plan.model import DevicePlan, LoadPlan
from app.plan.text import layer_range
from ui import theme
from ui.plan.values import bar_values
from ui.widgets.labels import button, label, set_state
from ui.widgets.memory_bar import MemoryBar, MemoryBarValues
from ui.widgets.switch import Switch

HEADS = ("Use", "Device", "", "Layers", "", "Range", "Memory", "Needs", "Reserve", "Lock")
BAR_COLUMN = 6


class DeviceRow:
    """Widgets from left to right in `cells`; the dialog lays them into its grid."""

    def __init__(self, device: Device, total_layers: int) -> None:
        self.device = device
        name = device.label
        self.title = label(name)
        self.title.setToolTip(device.name)
        self.use = Switch()
        self.use.setAccessibleName(f"Use {name}")
        self.up = button("", "icon")
        self.up.setAccessibleName(f"Move {name} up")
        self.up.setToolTip("Move up: this device gets earlier layers")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, total_layers)
        self.slider.setFixedWidth(64)
        self.slider.setAccessibleName(f"Layers on {name}")
        self.number = QSpinBox()
        self.number.setRange(0, total_layers)
        self.number.setFixedWidth(64)
        self.number.setAccessibleName(f"Number of layers on {name}")
        self.span = label("–", "muted")
        self.tag = label("fullest", "tag")
        self.tag.hide()
        self.range = QWidget()
        place = QHBoxLayout(self.range)
        place.setContentsMargins(0, 0, 0, 0)
        place.setSpacing(8)
        place.addWidget(self.span)
        place.addWidget(self.tag, 0, Qt.AlignmentFlag.AlignVCenter)
        place.addStretch(1)
        self.bar = MemoryBar()
        self.needs = label("–")
        self.needs.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.reserve = QDoubleSpinBox()
        self.reserve.setRange(0, 1024)
        self.reserve.setSingleStep(0.25)
        self.reserve.setDecimals(2)
        self.reserve.setSuffix(" GiB")
        self.reserve.setFixedWidth(96)
        self.reserve.setAccessibleName(f"Memory to keep free on {name}")
        self.lock = button("", "icon")
        self.lock.setCheckable(True)
        self.lock.setAccessibleName(f"Keep the number of layers on {name}")
        self.lock.setToolTip("Locked: keeps its layers while others move")
        self.reserve_changed = False
        for field in (self.number, self.reserve):
            field.lineEdit().setTextMargins(6, 0, 0, 0)
        self.show_icons()

    @property
    def cells(self) -> tuple[QWidget, ...]:
        """As in `HEADS`."""
        return (
            self.use, self.title, self.up, self.slider, self.number, self.range,
            self.bar, self.needs, self.reserve, self.lock,
        )  # fmt: skip

    def show_icons(self) -> None:
        """In the theme's colours."""
        look = theme.current()
        self.up.setIcon(theme.icon("arrow-up", look.muted, 16, look.line))
        name = "lock" if self.lock.isChecked() else "lock-open"
        self.lock.setIcon(theme.icon(name, look.text if self.lock.isChecked() else look.muted, 16))

    def set_layers(self, count: int) -> None:
        """Number and slider together."""
        self.number.setValue(count)
        self.slider.setValue(count)

    def fix_layers(self) -> None:
        """Each device has a part of every layer: there is no number to choose."""
        for control in (self.slider, self.number, self.lock):
            control.setEnabled(False)

    def show_share(
        self, plan: LoadPlan, share: DevicePlan | None, in_use: int | None, scale: int
    ) -> None:
        """Show the device's part of a plan; None if it is switched off."""
        on = share is not None
        for control in (self.slider, self.number, self.reserve, self.lock):
            control.setEnabled(on)
        self.span.setText(layer_range(plan, share) if share else "–")
        used = sum(1 for each in plan.devices if each.layer_count)
        fullest = share is not None and used > 1 and share.device.id == plan.bottleneck
        self.tag.setVisible(fullest)
        for text in (self.title, self.needs):
            text.setProperty("kind", "strong" if fullest else "")
            text.style().polish(text)
        if share is None:
            self.needs.setText("off")
            set_state(self.needs, "")
            total = self.device.memory_total_bytes or 1
            self.bar.set_values(MemoryBarValues(total=total, scale=scale))
            return
        self.needs.setText(units.format_memory(share.model_bytes))
        set_state(self.needs, "error" if share.left_bytes < 0 else "")
        if not self.reserve_changed:
            self.reserve.setValue(share.reserve_bytes / units.GIB)
        self.bar.set_values(bar_values(share, scale, in_use))
