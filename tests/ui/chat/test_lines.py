"""What stands above the composer, all of it at once, in the smallest window."""

from __future__ import annotations

import itertools

from PySide6.QtCore import QPoint, QRect
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.engine.protocol import Loaded
from app.events import ContextOffered, WayOut, WaysOutFound
from app.plan.larger import LargerContext
from app.settings.model import Settings
from ui.chat.chat_view import ChatView
from ui.chat.transcript import LEAST_PX
from ui.widgets.shrinking_area import ShrinkingArea

SMALLEST = 960 - 88, 640
LOADED = Loaded(
    context=8192, train_context=8192, memory=(), duration_s=3, has_chat_template=True, threads=1
)
WAYS = tuple(WayOut(title=f"Way {n}", effect="It fits then.", settings=Settings()) for n in "1234")
LONG = "The context is full, and what was said before has to make room for what comes next. "


def chat(qtbot: QtBot) -> ChatView:
    view = ChatView()
    qtbot.addWidget(view)
    view.resize(*SMALLEST)
    view.show()
    view.set_loaded(LOADED, None)
    view.set_engine("loaded", ready=True)
    return view


def place(view: ChatView, widget: QWidget) -> QRect:
    return QRect(widget.mapTo(view, QPoint(0, 0)), widget.size())


def test_all_lines_at_once_leave_room_for_the_chat_and_can_be_reached(qtbot: QtBot) -> None:
    view = chat(qtbot)
    view.composer.setPlainText("line\n" * 12)
    view.show_note("The KV cache was saved.")
    view.alarm.show_error("GPU 2 holds 1.4 GiB in main memory.")
    view.question.ask("Nothing was heard of the engine for 45 s.")
    view.context_line.set_problem(LONG * 2)
    offer = LargerContext(context=8192, larger=16_384, trained=131_072)
    view.set_offer(ContextOffered(offer=offer, sentence=LONG))
    view.set_ways(WaysOutFound(sentence="GPU 2 is 1.4 GiB short.", detail=LONG, ways=WAYS))
    (area,) = view.findChildren(ShrinkingArea)
    qtbot.waitUntil(lambda: view.transcript.height() == LEAST_PX)
    assert area.verticalScrollBar().maximum() > 0
    rows = [place(view, widget) for widget in (view.transcript, area, view.composer, view._meter)]
    assert view.size().toTuple() == SMALLEST
    assert all(above.bottom() < below.top() for above, below in itertools.pairwise(rows))
    assert rows[-1].bottom() < view.height()
    for one, next_ in zip(view.trouble.buttons, view.trouble.buttons[1:], strict=False):
        assert one.geometry().bottom() < next_.geometry().top()
    for press in area.findChildren(QPushButton):
        if press.isVisible():
            area.ensureWidgetVisible(press)
            QApplication.processEvents()
            assert place(view, area).contains(place(view, press)), press.text()


def test_lines_take_no_more_than_they_need_and_nothing_once_they_are_gone(qtbot: QtBot) -> None:
    view = chat(qtbot)
    (area,) = view.findChildren(ShrinkingArea)
    qtbot.waitUntil(lambda: area.height() == 0)
    view.alarm.show_error(LONG * 2)
    qtbot.waitUntil(lambda: area.height() > 0)
    lower = area.height()
    assert area.verticalScrollBar().maximum() == 0
    assert view.alarm.text.height() >= 2 * view.alarm.text.fontMetrics().lineSpacing()
    view.resize(480, 640)
    bar = area.verticalScrollBar()
    qtbot.waitUntil(lambda: area.height() > lower and not bar.maximum())
    view.alarm.dismiss.click()
    qtbot.waitUntil(lambda: area.height() == 0)


def test_what_failed_elsewhere_leaves_the_chat_as_it_is(qtbot: QtBot) -> None:
    view = chat(qtbot)
    view.show_failure("The folder cannot be read.")
    assert view.trouble.text.text() == "The folder cannot be read."
    assert (view._send.isEnabled(), view.trouble.buttons) == (True, [])
    view.trouble.dismissed.emit()
    assert view.trouble.isHidden()
    view.set_engine("asleep until you ask", ready=False, asleep=True)
    view.show_failure("The folder cannot be read.")
    assert view._send.isEnabled()
    assert [press.text() for press in view.trouble.buttons] == ["Reload"]
