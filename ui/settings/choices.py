"""What a plan depends on beside the split: context, KV cache, objective, batches, RPC servers."""

from __future__ import annotations

import enum

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from app.plan.model import FlashAttention, KvCacheType, Objective
from app.settings.model import Settings, SplitMode
from ui.widgets.labels import label

OBJECTIVES = {
    Objective.BALANCED: "balanced",
    Objective.FEWEST: "fewest devices",
    Objective.FASTEST: "fastest",
    Objective.LONGEST: "longest context",
}
MICRO_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)
SMALLEST_CONTEXT = 256


class Choices(QWidget):
    """Two lines of fields, each named and explained as in `Settings`. Signals: changed."""

    changed = Signal()

    def __init__(self, settings: Settings, *, several: bool, parent: QWidget | None = None) -> None:
        """`several` devices have splits to choose from."""
        super().__init__(parent)
        self.context = QSpinBox()
        self.context.setRange(0, 2**24)
        self.context.setSingleStep(1024)
        self.context.setGroupSeparatorShown(True)
        self.context.setSpecialValueText("automatic")
        self.context.setMinimumWidth(112)
        self.context.lineEdit().setTextMargins(6, 0, 0, 0)
        self.kv_k, self.kv_v = _combo(KvCacheType), _combo(KvCacheType)
        self.flash_attention = _combo(FlashAttention)
        self.objective = QComboBox()
        for objective, words in OBJECTIVES.items():
            self.objective.addItem(words, objective)
        self.micro_batch = QComboBox()
        for size in sorted({*MICRO_BATCHES, settings.micro_batch}):
            self.micro_batch.addItem(f"{size:,}", size)
        self.servers = QLineEdit(", ".join(settings.rpc_servers))
        self.servers.setPlaceholderText("192.168.1.20:50052")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        first: dict[str, QWidget] = {
            "context": self.context,
            "kv_type_k": self.kv_k,
            "kv_type_v": self.kv_v,
        }
        first |= {"objective": self.objective} if several else {}
        second: dict[str, QWidget] = {
            "flash_attention": self.flash_attention,
            "micro_batch": self.micro_batch,
            "rpc_servers": self.servers,
        }
        for fields in (first, second):
            column.addLayout(_line(fields, stretched=self.servers))
        self._explained = self.objective.toolTip()
        self._connect()

    def _connect(self) -> None:
        for box in (
            self.kv_k,
            self.kv_v,
            self.objective,
            self.flash_attention,
            self.micro_batch,
        ):
            box.currentIndexChanged.connect(self.changed)
        self.context.valueChanged.connect(self.changed)
        self.servers.textChanged.connect(self.changed)

    def show_settings(self, settings: Settings) -> None:
        """Show what is stored; RPC servers stay as they are."""
        self.context.setValue(settings.context or 0)
        if self.micro_batch.findData(settings.micro_batch) < 0:
            self.micro_batch.addItem(f"{settings.micro_batch:,}", settings.micro_batch)
        for box, value in (
            (self.kv_k, settings.kv_type_k),
            (self.kv_v, settings.kv_type_v),
            (self.objective, settings.objective),
            (self.flash_attention, settings.flash_attention),
            (self.micro_batch, settings.micro_batch),
        ):
            box.setCurrentIndex(box.findData(value))

    def show_mode(self, mode: SplitMode) -> None:
        """An objective is for automatic splits only."""
        automatic = mode is SplitMode.AUTOMATIC
        self.objective.setEnabled(automatic)
        reason = "" if automatic else " This split is fixed; choose Automatic to change it."
        self.objective.setToolTip(self._explained + reason)

    @property
    def values(self) -> dict[str, object]:
        """Fields of `Settings`, not checked yet."""
        tokens = self.context.value()
        servers = [part.strip() for part in self.servers.text().split(",")]
        return {
            "context": max(SMALLEST_CONTEXT, tokens) if tokens else None,
            "kv_type_k": self.kv_k.currentData(),
            "kv_type_v": self.kv_v.currentData(),
            "objective": self.objective.currentData(),
            "flash_attention": self.flash_attention.currentData(),
            "micro_batch": self.micro_batch.currentData(),
            "rpc_servers": tuple(server for server in servers if server),
        }


def _combo(kinds: type[enum.StrEnum]) -> QComboBox:
    box = QComboBox()
    for kind in kinds:
        box.addItem(kind.value, kind)
    return box


def _line(fields: dict[str, QWidget], *, stretched: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for name, widget in fields.items():
        field = Settings.model_fields[name]
        title = label(field.title or name, "strong")
        title.setBuddy(widget)
        title.setToolTip(field.description or "")
        widget.setAccessibleName(field.title or name)
        widget.setAccessibleDescription(field.description or "")
        widget.setToolTip(field.description or "")
        row.addWidget(title)
        row.addWidget(widget, 1 if widget is stretched else 0)
        row.addSpacing(8)
    if stretched not in fields.values():
        row.addStretch(1)
    return row
