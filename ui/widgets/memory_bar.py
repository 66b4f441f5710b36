"""One device's memory as a stacked bar: the model from the left, what is not the model from the right."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import theme
from ui.theme.tokens import RADIUS_BAR, TEXT_SMALL

BAR_PX = 14
OVERFLOW_PX = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBarValues:
    """Bytes.

    Attributes:
        in_use: What the model really takes; a line over the bar.
        held: What is in use, by whomever; drawn from the left instead of parts.
        scale: The length of the whole widget; at least `total`.
    """

    total: int
    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    reserve: int = 0
    others: int = 0
    in_use: int | None = None
    held: int = 0
    scale: int = 0


class MemoryBar(QWidget):
    """Paints `MemoryBarValues`; its accessible description says the same in words."""

    def __init__(
        self, parent: QWidget | None = None, *, height: int = BAR_PX, grid: bool = False
    ) -> None:
        """A bar of `height` px; `grid` draws lines at quarters of the scale, over the row's height."""
        super().__init__(parent)
        self._values = MemoryBarValues(total=1)
        self._height, self._grid = height, grid
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
        """The bar, with room for the line of what is in use."""
        return QSize(120, 34 if self._grid else self._height + 6)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track, model, reserve and other programs, then the line of what is in use."""
        values, look = self._values, theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        unit = self.width() / max(values.scale, values.total, 1)
        if self._grid:
            for quarter in range(5):
                line = round(quarter * (self.width() - 1) / 4)
                painter.fillRect(QRectF(line, 0, 1, self.height()), QColor(look.grid))
        high = self._height
        top, length = (self.height() - high) // 2, values.total * unit
        clip = QPainterPath()
        clip.addRoundedRect(QRectF(0, top, length, high), RADIUS_BAR, RADIUS_BAR)
        painter.setClipPath(clip)
        painter.fillRect(QRectF(0, top, length, high), QColor(look.track))
        overflow = values.weights + values.kv_cache + values.compute > values.total - values.others
        x = 0.0
        for size, color in (
            (values.weights, look.weights),
            (values.kv_cache, look.kv),
            (values.held, look.others),
        ):
            if size:
                painter.fillRect(QRectF(x, top, max(1.0, size * unit - 1), high), QColor(color))
            x += size * unit
        if values.compute:
            box = QRectF(x + 0.5, top + 0.5, max(1.0, values.compute * unit - 1), high - 1)
            painter.fillRect(box, QColor(look.compute))
            painter.setPen(QPen(QColor(look.error if overflow else look.compute_edge), 1))
            painter.drawRect(box)
        others = values.others * unit
        reserve = QRectF(length - others - values.reserve * unit, top, values.reserve * unit, high)
        painter.fillRect(reserve, QBrush(QColor(look.reserve), Qt.BrushStyle.BDiagPattern))
        painter.fillRect(QRectF(length - others, top, others, high), QColor(look.others))
        if overflow:
            painter.fillRect(
                QRectF(length - OVERFLOW_PX, top, OVERFLOW_PX, high), QColor(look.error)
            )
        painter.setClipping(False)
        if values.in_use is not None:
            at = min(values.in_use * unit, self.width() - 2)
            painter.fillRect(QRectF(round(at), top - 3, 2, high + 6), QColor(look.text))
        painter.end()


class MemoryAxis(QWidget):
    """The numbers under the bars: quarters of the scale, in GiB."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scale = 0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager().changed.connect(self.update)

    def set_scale(self, scale: int) -> None:
        """`scale` in bytes is the length of the whole widget."""
        self._scale = scale
        self.update()

    def sizeHint(self) -> QSize:
        """One small line."""
        return QSize(120, 18)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """0 at the left edge, the scale at the right one."""
        painter = QPainter(self)
        font = self.font()
        font.setPixelSize(TEXT_SMALL)
        painter.setFont(font)
        painter.setPen(QColor(theme.current().muted))
        align = Qt.AlignmentFlag
        step = self._scale / 4 / 2**30
        whole = step >= 25 or abs(step - round(step)) < 0.05
        for quarter in range(5):
            value = self._scale * quarter / 4 / 2**30
            text = f"{value:.0f}" if whole or not quarter else f"{value:.1f}"
            x = quarter * self.width() / 4
            where = (
                align.AlignLeft
                if not quarter
                else align.AlignRight
                if quarter == 4
                else align.AlignHCenter
            )
            box = QRectF(x - (0 if not quarter else 60 if quarter == 4 else 30), 0, 60, 18)
            painter.drawText(box, where | align.AlignVCenter, text)
        painter.end()
