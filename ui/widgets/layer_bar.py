"""All layers in order, drawn by size, with cuts that a person can move from device to device."""

from __future__ import annotations

import dataclasses
import itertools

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from ui import theme
from ui.theme.tokens import TEXT_SMALL

TOP_PX, BAR_PX, BOTTOM_PX = 22, 52, 22
HIT_PX = 7
NAMED_PX = 40
STRIDE = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerBarValues:
    """What to draw.

    Attributes:
        sizes: Bytes of each layer in order.
        first: The first layer that is on a device; those before stay in main memory.
        counts: Layers of each device, in order.
        names: The devices' labels.
    """

    sizes: tuple[int, ...]
    first: int
    counts: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first layer of the second device, of the third, and so on."""
        return tuple(itertools.accumulate(self.counts, initial=self.first))[1:-1]


class LayerBar(QWidget):
    """Drag a cut, or choose it with Up and Down and move it with the arrow keys.

    Signals: cut_moved(int, int), with the number of the cut and the layer that it shall stand before.
    """

    cut_moved = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values = LayerBarValues(sizes=(), first=0, counts=(), names=())
        self._edges: list[float] = [0.0]
        self._current = 0
        self._dragged = False
        self._before: int | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Layers in order, drawn by size")
        theme.manager().changed.connect(self.update)

    def set_values(self, values: LayerBarValues) -> None:
        """Show these layers and cuts."""
        self._values = values
        self._current = min(self._current, max(0, len(values.cuts) - 1))
        spans = itertools.pairwise((values.first, *values.cuts, len(values.sizes)))
        self.setAccessibleDescription(
            "; ".join(
                f"{name}, layers {first} to {end - 1}"
                for name, (first, end) in zip(values.names, spans, strict=False)
                if end > first
            )
        )
        self.update()

    def sizeHint(self) -> QSize:
        """Names above, numbers below."""
        return QSize(400, TOP_PX + BAR_PX + BOTTOM_PX)

    # --- places -----------------------------------------------------------------

    def _lay(self) -> None:
        """Where each layer begins: a pixel for an empty one, the rest by bytes."""
        sizes = self._values.sizes
        empty = sum(1 for size in sizes if not size)
        unit = max(0.0, self.width() - empty) / max(1, sum(sizes))
        self._edges = list(itertools.accumulate((s * unit or 1.0 for s in sizes), initial=0.0))

    def _cut_at(self, x: float) -> int | None:
        near = [(abs(self._edges[cut] - x), i) for i, cut in enumerate(self._values.cuts)]
        found = [(distance, index) for distance, index in near if distance <= HIT_PX]
        return min(found)[1] if found else None

    def _layer_at(self, x: float) -> int:
        return min(range(len(self._edges)), key=lambda index: abs(self._edges[index] - x))

    def _ask(self, cut: int, layer: int) -> None:
        cuts = self._values.cuts
        low = cuts[cut - 1] if cut else self._values.first
        high = cuts[cut + 1] if cut + 1 < len(cuts) else len(self._values.sizes)
        layer = max(low, min(high, layer))
        if layer != cuts[cut]:
            self.cut_moved.emit(cut, layer)

    # --- mouse and keys -----------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take the nearest cut."""
        cut = self._cut_at(event.position().x())
        if cut is not None:
            self._current, self._dragged = cut, True
            self._before = self._values.cuts[cut]
            self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move it, from layer to layer."""
        x = event.position().x()
        if self._dragged:
            self._ask(self._current, self._layer_at(x))
        near = self._dragged or self._cut_at(x) is not None
        self.setCursor(Qt.CursorShape.SplitHCursor if near else Qt.CursorShape.ArrowCursor)

    def mouseReleaseEvent(self, _event: QMouseEvent) -> None:
        """Let it go."""
        self._dragged, self._before = False, None
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and Right move by a layer, with Shift by eight; Up and Down choose another cut."""
        cuts = self._values.cuts
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}
        others = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        key = Qt.Key(event.key())
        if not cuts or key not in steps | others:
            super().keyPressEvent(event)
        elif key in others:
            self._current = (self._current + others[key]) % len(cuts)
            self.update()
        else:
            many = event.modifiers() & Qt.KeyboardModifier.ShiftModifier
            self._ask(self._current, cuts[self._current] + steps[key] * (STRIDE if many else 1))

    # --- painting -------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Cells, then names and cuts."""
        if not self._values.sizes:
            return
        self._lay()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = self.font()
        font.setPixelSize(TEXT_SMALL)
        painter.setFont(font)
        self._paint_cells(painter)
        self._paint_names(painter)
        self._paint_cuts(painter)
        painter.end()

    def _paint_cells(self, painter: QPainter) -> None:
        values, look = self._values, theme.current()
        owners = [-1] * values.first
        for index, count in enumerate(values.counts):
            owners += [index] * count
        for layer, size in enumerate(values.sizes):
            left, right = self._edges[layer], self._edges[layer + 1]
            owner = owners[layer] if layer < len(owners) else -1
            color = look.others if owner < 0 else look.weights_2 if owner % 2 else look.weights
            gap = 1.0 if right - left > 3 else 0.0
            box = QRectF(left, TOP_PX, right - left - gap, BAR_PX)
            painter.fillRect(box, QColor(color if size else look.reserve))
            if right - left >= NAMED_PX:
                painter.setPen(QColor(look.on_weights_2 if owner % 2 else look.on_weights))
                words = f"{layer}\n{_size(size)}" if right - left >= 60 else str(layer)
                painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_names(self, painter: QPainter) -> None:
        values, look = self._values, theme.current()
        ends = (values.first, *values.cuts, len(values.sizes))
        bold = QFont(painter.font())
        bold.setWeight(QFont.Weight.DemiBold)
        painter.setPen(QColor(look.text))
        for name, count, (first, end) in zip(
            values.names, values.counts, itertools.pairwise(ends), strict=True
        ):
            left, right = self._edges[first], self._edges[end]
            full, short = f"{name}  {count}", name.rpartition(" ")[2]
            room = right - left
            words = full if painter.fontMetrics().horizontalAdvance(full) < room else short
            if count and painter.fontMetrics().horizontalAdvance(words) < room:
                painter.setFont(bold)
                box = QRectF(left, 0, room, TOP_PX - 4)
                painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)

    def _paint_cuts(self, painter: QPainter) -> None:
        look = theme.current()
        low = TOP_PX + BAR_PX
        taken = -100.0
        for index, cut in enumerate(self._values.cuts):
            x = self._edges[cut]
            chosen = index == self._current and (self._dragged or self.hasFocus())
            color = QColor(look.accent if chosen else look.text)
            painter.fillRect(QRectF(x - 1, TOP_PX - 5, 2, BAR_PX + 10), color)
            painter.setPen(color)
            painter.setBrush(QColor(look.accent if chosen else look.thumb))
            painter.drawRoundedRect(QRectF(x - 3.5, TOP_PX + BAR_PX / 2 - 10, 7, 20), 3, 3)
            moved = chosen and self._before not in (None, cut)
            words = f"{cut}, was {self._before}" if moved else str(cut)
            width = painter.fontMetrics().horizontalAdvance(words)
            at = min(max(0.0, x - width / 2), self.width() - width)
            if at > taken + 6 or chosen:
                painter.setPen(QColor(look.accent if chosen else look.muted))
                painter.drawText(QRectF(at, low + 4, width + 2, 16), words)
                taken = at + width


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 // 10 else f"{size / 2**20:.0f} MiB"
