"""A row of the list of models: one button as wide as the page, painted in columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QContextMenuEvent, QFont, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QMenu, QSizePolicy, QWidget

from ui import theme
from ui.theme.tokens import TEXT_BODY, TEXT_SMALL
from ui.widgets.verdict import ICONS

ROW_PX = 40
HEAD_PX = 28
LEFT, RIGHT = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
GAP, GAP_PX = 16, 10
"""Between columns, and between a name and what is beside it."""
NARROW_PX = 900


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowValues:
    """What a row says.

    Attributes:
        key: Names the model.
        detail: Beside the name; left out where there is no room for both.
        pinned: The detail stays, and the name is cut.
        state: Of the verdict: `ok`, `warn`, `error` or empty.
    """

    key: str
    name: str
    detail: str = ""
    pinned: bool = False
    weights: str = ""
    size: str = ""
    licence: str = ""
    verdict: str = ""
    state: str = ""

    @property
    def sentence(self) -> str:
        """For a screen reader."""
        parts = (self.name, self.detail, self.weights, self.size, self.licence, self.verdict)
        return ", ".join(part for part in parts if part)


def columns(width: int) -> tuple[QRectF, ...]:
    """Name, weights, size, licence, verdict in a row of this width; x and width only count."""
    narrow = width < NARROW_PX
    fixed = (52, 136, 100, 146) if narrow else (64, 148, round(width * 0.21), 152)
    name = width - 32 - sum(fixed) - GAP * len(fixed)
    boxes, x = [], 16.0
    for wide in (name, *fixed):
        boxes.append(QRectF(x, 0, wide, ROW_PX))
        x += wide + GAP
    return tuple(boxes)


class ModelRow(QAbstractButton):
    """Signals: clicked; moved(int), when an arrow key asks for the row above or below."""

    moved = Signal(int)

    def __init__(self, values: RowValues, *, last: bool, parent: QWidget | None = None) -> None:
        """`last` has no line below it."""
        super().__init__(parent)
        self.values = values
        self._last = last
        self._menu: Callable[[str], QMenu] | None = None
        self.setAccessibleName(values.sentence)
        self.setToolTip(f"{values.name}\n{values.licence}" if values.licence else values.name)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setFixedHeight(ROW_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        theme.manager().changed.connect(self.update)

    def set_menu(self, make: Callable[[str], QMenu]) -> None:
        """Right click or the menu key opens what `make` makes for this key."""
        self._menu = make

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """The row's menu, where it has one."""
        if self._menu is None:
            event.ignore()
        else:
            self._menu(self.values.key).popup(event.globalPos())

    def sizeHint(self) -> QSize:
        """As wide as there is room."""
        return QSize(600, ROW_PX)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from row to row, Return opens."""
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()))
        if step is not None:
            self.moved.emit(step)
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.click()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Columns, the line below, focus ring."""
        look, values = theme.current(), self.values
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.isDown() or self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(look.line if self.isDown() else look.alt))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(4, 2, -4, -2), 8, 8)
        name, weights, size, licence, verdict = columns(self.width())
        self._draw_name(painter, name)
        _text(painter, weights, values.weights, look.text, RIGHT)
        _text(painter, size, values.size, look.text, RIGHT)
        _text(painter, licence, values.licence, look.muted, LEFT, pixels=TEXT_SMALL)
        if values.verdict:
            color = getattr(look, values.state) if values.state else look.muted
            icon = ICONS.get(values.state)
            if icon:
                ratio = self.devicePixelRatioF()
                image = theme.pixmap(icon, color, 16, ratio)
                painter.drawPixmap(round(verdict.x()), (ROW_PX - 16) // 2, image)
                verdict = verdict.adjusted(22, 0, 0, 0)
            _text(painter, verdict, values.verdict, color, LEFT, bold=True, pixels=TEXT_SMALL)
        if not self._last:
            painter.fillRect(QRectF(16, ROW_PX - 1, self.width() - 32, 1), QColor(look.line))
        if self.hasFocus():
            painter.setPen(QPen(QColor(look.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(3, 2, -3, -2), 8, 8)
        painter.end()

    def _draw_name(self, painter: QPainter, box: QRectF) -> None:
        """The name, and what is beside it; of long names the ends tell them apart."""
        look, values = theme.current(), self.values
        detail = _width(painter, values.detail, pixels=TEXT_SMALL) + GAP_PX if values.detail else 0
        fits = _width(painter, values.name, bold=True) + detail <= box.width()
        shown = fits or (values.pinned and detail <= box.width() / 2)
        room = box.adjusted(0, 0, -detail, 0) if shown else box
        middle = Qt.TextElideMode.ElideMiddle
        used = _text(painter, room, values.name, look.text, LEFT, bold=True, cut=middle)
        if shown and values.detail:
            rest = box.adjusted(used + GAP_PX, 0, 1, 0)
            _text(painter, rest, values.detail, look.muted, LEFT, pixels=TEXT_SMALL)


class ColumnHeads(QWidget):
    """The names of the columns, above the first row."""

    def __init__(self, names: tuple[str, str, str, str, str]) -> None:
        super().__init__()
        self._names = names
        self.setFixedHeight(HEAD_PX)
        theme.manager().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """One small line."""
        return QSize(600, HEAD_PX)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """One word over each column."""
        painter = QPainter(self)
        for index, (box, name) in enumerate(zip(columns(self.width()), self._names, strict=True)):
            where = RIGHT if index in (1, 2) else LEFT
            box.setHeight(HEAD_PX)
            _text(painter, box, name, theme.current().muted, where, pixels=TEXT_SMALL)
        painter.end()


def _font(painter: QPainter, *, bold: bool, pixels: int) -> None:
    font = QFont(painter.font())
    font.setPixelSize(pixels)
    font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
    painter.setFont(font)


def _width(painter: QPainter, text: str, *, bold: bool = False, pixels: int = TEXT_BODY) -> float:
    """How wide the whole text is."""
    _font(painter, bold=bold, pixels=pixels)
    return float(painter.fontMetrics().horizontalAdvance(text))


def _text(
    painter: QPainter,
    box: QRectF,
    text: str,
    color: str,
    where: Qt.AlignmentFlag,
    *,
    bold: bool = False,
    pixels: int = TEXT_BODY,
    cut: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
) -> float:
    """Draw `text`, cut at the box's width; returns how wide it is."""
    _font(painter, bold=bold, pixels=pixels)
    painter.setPen(QColor(color))
    metrics = painter.fontMetrics()
    shown = metrics.elidedText(text, cut, max(0, int(box.width())))
    painter.drawText(box, where | Qt.AlignmentFlag.AlignVCenter, shown)
    return float(metrics.horizontalAdvance(shown))
