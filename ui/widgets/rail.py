"""The navigation rail: words under icons, Settings at the bottom."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QKeySequence, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QVBoxLayout, QWidget

from ui import theme

ITEMS = (
    ("Machine", "cpu"),
    ("Models", "boxes"),
    ("Downloads", "download"),
    ("Chat", "message-square"),
)


class _Item(QAbstractButton):
    """One place of the app; checked where the person is."""

    def __init__(self, name: str, icon: str) -> None:
        super().__init__()
        self.setText(name)
        self._icon = icon
        self.busy = False
        self.setCheckable(True)
        self.setFixedSize(76, 56)
        self.setAccessibleName(name)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        theme.manager().changed.connect(self.update)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Background, icon, word, the dot of something running, focus ring."""
        look = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.isChecked() or self.underMouse():
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(look.alt))
            painter.drawRoundedRect(self.rect(), 8, 8)
        color = look.accent if self.isChecked() else look.muted
        ratio = self.devicePixelRatioF()
        painter.drawPixmap(28, 8, theme.pixmap(self._icon, color, 20, ratio))
        font = self.font()
        font.setPixelSize(12)
        font.setWeight(font.Weight.DemiBold if self.isChecked() else font.Weight.Normal)
        painter.setFont(font)
        painter.setPen(QColor(look.text if self.isChecked() else look.muted))
        painter.drawText(QRectF(0, 32, 76, 16), Qt.AlignmentFlag.AlignCenter, self.text())
        if self.busy:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(look.accent))
            painter.drawEllipse(QPointF(51.5, 10.5), 3.5, 3.5)
        if self.hasFocus():
            painter.setPen(QPen(QColor(look.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(1, 1, 74, 54), 8, 8)
        painter.end()


class Rail(QWidget):
    """Signals: chosen(str), with a name of `ITEMS` or `Settings`."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedWidth(88)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 16, 6, 12)
        column.setSpacing(4)
        column.addSpacing(56)
        self._items = {name: _Item(name, icon) for name, icon in ITEMS}
        for item in self._items.values():
            column.addWidget(item)
        column.addStretch(1)
        self._items["Settings"] = _Item("Settings", "settings")
        keys = [f"Ctrl+{number}" for number in range(1, len(ITEMS) + 1)]
        for item, key in zip(self._items.values(), (*keys, "Ctrl+,"), strict=True):
            item.setShortcut(QKeySequence(key))
            item.setToolTip(item.shortcut().toString(QKeySequence.SequenceFormat.NativeText))
        column.addWidget(self._items["Settings"])
        for name, item in self._items.items():
            item.clicked.connect(lambda _checked=False, chosen=name: self.chosen.emit(chosen))
        theme.manager().changed.connect(self.update)

    def set_current(self, name: str) -> None:
        """Mark where the person is."""
        for key, item in self._items.items():
            item.setChecked(key == name)

    def set_busy(self, name: str, busy: bool) -> None:
        """Show the dot that something runs there."""
        item = self._items[name]
        if item.busy != busy:
            item.busy = busy
            item.setAccessibleDescription("Something runs there" if busy else "")
            item.update()

    def sizeHint(self) -> QSize:
        """88 px wide."""
        return QSize(88, 400)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The mark, four bars of unequal length, and the edge."""
        look = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        for index, width in enumerate((24, 17, 21, 11)):
            painter.setBrush(QColor(look.weights if index < 3 else look.kv))
            painter.drawRoundedRect(QRectF(32, 23 + 6 * index, width, 4), 2, 2)
        painter.fillRect(self.width() - 1, 0, 1, self.height(), QColor(look.line))
        painter.end()
