"""What the colours of a memory bar mean."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QWidget

from ui import theme
from ui.widgets.labels import label

KINDS = {
    "weights": "Weights",
    "kv": "KV cache",
    "compute": "Compute",
    "track": "Free",
    "reserve": "Reserve",
    "others": "Other programs",
}


class _Swatch(QWidget):
    """A square of 10 px in one colour of the theme."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role
        self.setFixedSize(10, 10)
        theme.manager().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        """10 px square."""
        return QSize(10, 10)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Fill, and an edge for the light ones."""
        look = theme.current()
        painter = QPainter(self)
        color = QColor(getattr(look, self._role))
        hatched = self._role == "reserve"
        brush = QBrush(color, Qt.BrushStyle.BDiagPattern if hatched else Qt.BrushStyle.SolidPattern)
        painter.fillRect(QRectF(0, 0, 10, 10), brush)
        edges = {"compute": look.compute_edge, "track": look.line_strong, "reserve": look.reserve}
        if self._role in edges:
            painter.setPen(QColor(edges[self._role]))
            painter.drawRect(0, 0, 9, 9)
        painter.end()


class Legend(QWidget):
    """One line: swatch and word for each part."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        for index, (role, text) in enumerate(KINDS.items()):
            if index:
                row.addSpacing(8)
            row.addWidget(_Swatch(role))
            row.addWidget(label(text, "muted"))
