"""Labels, buttons and lines in the kinds of the style sheet."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QLabel, QPushButton, QWidget


def label(text: str = "", kind: str = "", *, wrap: bool = False) -> QLabel:
    """A label; `kind` as in `ui.theme.style`. Text is never taken for HTML."""
    result = QLabel(text)
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
