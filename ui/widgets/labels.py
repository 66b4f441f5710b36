"""Labels, buttons and lines in the kinds of the style sheet."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QLayoutItem, QPushButton, QWidget


class _ElidedLabel(QLabel):
    """A label that cuts its text at its width instead of asking for more."""

    def minimumSizeHint(self) -> QSize:
        """Any width will do."""
        return QSize(24, super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:
        """Its text's width, which it need not get."""
        return super().sizeHint()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The text, elided at the right."""
        painter = QPainter(self)
        text = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, self.width())
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(
            self.rect(), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text
        )
        painter.end()


def label(text: str = "", kind: str = "", *, wrap: bool = False, elide: bool = False) -> QLabel:
    """A label; `kind` as in `ui.theme.style`. Text is never taken for HTML."""
    result = _ElidedLabel(text) if elide else QLabel(text)
    result.setTextFormat(Qt.TextFormat.PlainText)
    result.setProperty("kind", kind)
    result.setWordWrap(wrap)
    return result


def button(text: str, kind: str = "", *, big: bool = False) -> QPushButton:
    """A button; `kind` as in `ui.theme.style`."""
    result = QPushButton(text)
    result.setProperty("kind", kind)
    result.setProperty("big", big)
    result.setCursor(Qt.CursorShape.PointingHandCursor)
    return result


def frame(kind: str) -> QFrame:
    """A frame: `card`, `rule` or `vrule`."""
    result = QFrame()
    result.setProperty("kind", kind)
    return result


def set_state(widget: QWidget, state: str) -> None:
    """Give a label the state `ok`, `warn`, `error` or none, and its colour."""
    if widget.property("state") != state:
        widget.setProperty("state", state)
        widget.style().unpolish(widget)
        widget.style().polish(widget)


def clear(grid: QGridLayout) -> None:
    """Remove all that a grid holds, layouts within it too."""

    def remove(item: QLayoutItem | None) -> None:
        if item is None:
            return
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif inner is not None:
            while inner.count():
                remove(inner.takeAt(0))

    while grid.count():
        remove(grid.takeAt(0))
