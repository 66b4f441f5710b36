"""The window without a mouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QFocusEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.chat.message import Message, Role
from app.service import AppService
from ui.chat.blocks import Text
from ui.main_window import MainWindow
from ui.widgets.shrinking_area import ShrinkingArea


@pytest.fixture
def window(qtbot: QtBot) -> Iterator[MainWindow]:
    service = AppService()
    window = MainWindow(service)
    qtbot.addWidget(window)
    window.show()
    yield window
    window.close()
    service.close()


def test_every_place_has_a_shortcut_that_its_tooltip_names(window: MainWindow) -> None:
    items = window.rail._items
    shortcuts = [item.shortcut().toString() for item in items.values()]
    assert shortcuts == ["Ctrl+1", "Ctrl+2", "Ctrl+3", "Ctrl+4", "Ctrl+,"]
    assert all(item.toolTip() for item in items.values())


def test_escape_stops_an_answer_wherever_the_focus_is(qtbot: QtBot, window: MainWindow) -> None:
    stops: list[bool] = []
    window.chat.stop_clicked.connect(lambda: stops.append(True))
    window.show_page("Chat")
    window.chat.start_turn(Message(role=Role.USER, text="Hello"))
    for number, widget in enumerate(
        (window.chat.composer, window.rail._items["Machine"], window.chat.model), start=1
    ):
        QTest.keyClick(widget, Qt.Key.Key_Escape)
        assert len(stops) == number
    window.show_page("Machine")
    QTest.keyClick(window.rail._items["Machine"], Qt.Key.Key_Escape)
    assert len(stops) == 3, "what is not in sight is not stopped"


def test_the_focus_is_seen_and_never_on_what_is_not(qtbot: QtBot, window: MainWindow) -> None:
    window.show_page("Chat")
    for area in window.findChildren(ShrinkingArea):
        assert area.focusPolicy() is Qt.FocusPolicy.NoFocus
    window.chat.start_turn(Message(role=Role.USER, text="Hello"))
    (text,) = (t for t in window.chat.findChildren(Text) if t.toPlainText() == "Hello")
    qtbot.waitUntil(text.isVisible)
    pictures = []
    for reason in (Qt.FocusReason.MouseFocusReason, Qt.FocusReason.TabFocusReason):
        QApplication.sendEvent(text, QFocusEvent(QFocusEvent.Type.FocusIn, reason))
        pictures.append(text.grab().toImage())
    QApplication.sendEvent(text, QFocusEvent(QFocusEvent.Type.FocusOut))
    assert pictures[0] != pictures[1]
    assert text.grab().toImage() == pictures[0]
