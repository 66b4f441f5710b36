"""One device's memory as a stacked bar: the model from the left, what is not the model from the right."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import theme
from ui.theme.tokens import RADIUS_BAR


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBarValues:
    """Bytes; `scale` is the length of the whole widget, `in_use` what the model really takes."""

    total: int
    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    reserve: int = 0
    others: int = 0
    in_use: int | None = None
    scale: int = 0


class MemoryBar(QWidget):
    """Paints `MemoryBarValues`; its accessible description says the same in words."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values = MemoryBarValues(total=1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager().changed.connect(self.update)

    def set_values(self, values: MemoryBarValues) -> None:
        """Show these values."""
        self._values = values
        used = (values.weights + values.kv_cache + values.compute) / 2**30
        self.setAccessibleName(
            f"Memory: {used:.1f} of {values.total / 2**30:.1f} GiB for the model"
        )
        self.update()

    def sizeHint(self) -> QSize:
        """A bar of 14 px, with room for the line of what is in use."""
        return QSize(160, 20)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track, model, reserve and other programs, then the line of what is in use."""
        values, look = self._values, theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        unit = self.width() / max(values.scale, values.total, 1)
        top, length = (self.height() - 14) // 2, values.total * unit
        clip = QPainterPath()
        clip.addRoundedRect(QRectF(0, top, length, 14), RADIUS_BAR, RADIUS_BAR)
        painter.setClipPath(clip)
        painter.fillRect(QRectF(0, top, length, 14), QColor(look.track))
        overflow = values.weights + values.kv_cache + values.compute > values.total - values.others
        x = 0.0
        parts = ((values.weights, look.weights), (values.kv_cache, look.kv))
        for size, color in parts:
            if size:
                painter.fillRect(QRectF(x, top, max(1.0, size * unit - 1), 14), QColor(color))
            x += size * unit
        if values.compute:
            box = QRectF(x + 0.5, top + 0.5, max(1.0, values.compute * unit - 1), 13)
            painter.fillRect(box, QColor(look.compute))
            painter.setPen(QPen(QColor(look.error if overflow else look.compute_edge), 1))
            painter.drawRect(box)
        others = values.others * unit
        reserve = QRectF(length - others - values.reserve * unit, top, values.reserve * unit, 14)
        painter.fillRect(reserve, QBrush(QColor(look.reserve), Qt.BrushStyle.BDiagPattern))
        painter.fillRect(QRectF(length - others, top, others, 14), QColor(look.others))
        painter.setClipping(False)
        if values.in_use is not None:
            at = min(values.in_use * unit, self.width() - 2)
            painter.fillRect(QRectF(round(at), top - 3, 2, 20), QColor(look.text))
        painter.end()
