"""A switch, 32 x 18."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QWidget

from ui import theme


class Switch(QAbstractButton):
    """A checkable button that looks like a switch."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setFixedSize(38, 24)
        theme.manager().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """With room for the focus ring."""
        return QSize(38, 24)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track, thumb, focus ring."""
        look = theme.current()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(look.accent if self.isChecked() else look.switch_off))
        painter.drawRoundedRect(QRectF(3, 3, 32, 18), 9, 9)
        painter.setBrush(QColor(look.thumb))
        painter.drawEllipse(QRectF(19 if self.isChecked() else 5, 5, 14, 14))
        if self.hasFocus():
            painter.setPen(QPen(QColor(look.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(1, 1, 36, 22), 11, 11)
        painter.end()
