"""What is asked while the model is loaded, and what can be done with an answer that never came."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.chat.events import TurnFinished, TurnStarted
from app.chat.message import Message, Outcome, Role
from app.engine.protocol import Loaded
from ui.chat.chat_view import WAITS, WAKES, ChatView

LOADED = Loaded(
    context=8192, train_context=8192, memory=(), duration_s=3, has_chat_template=True, threads=1
)


def loading(qtbot: QtBot) -> tuple[ChatView, list[str]]:
    view = ChatView()
    qtbot.addWidget(view)
    view.show()
    sent: list[str] = []
    view.submitted.connect(sent.append)
    view.set_engine("Reading shard 2 of 4", ready=False, loading=True)
    view.composer.setPlainText("Are you there?")
    QTest.keyClick(view.composer, Qt.Key.Key_Return)
    return view, sent


def loaded(view: ChatView) -> None:
    view.set_engine("loaded", ready=True)
    view.set_loaded(LOADED, None)


def test_a_question_asked_while_the_model_loads_is_sent_as_it_then_stands(qtbot: QtBot) -> None:
    view, sent = loading(qtbot)
    assert (sent, view._note.text()) == ([], WAITS)
    view.composer.setPlainText("Are you there now?")
    loaded(view)
    assert sent == ["Are you there now?"]
    view.receive(TurnStarted(turn=1, user=Message(role=Role.USER, text=sent[0])))
    assert not view._note.text()
    assert not view.composer.toPlainText()
    loaded(view)
    assert len(sent) == 1


def test_escape_takes_it_back_and_so_does_a_load_that_ends(qtbot: QtBot) -> None:
    view, sent = loading(qtbot)
    QTest.keyClick(view.composer, Qt.Key.Key_Escape)
    assert not view._note.text()
    QTest.keyClick(view.composer, Qt.Key.Key_Return)
    view.set_engine("stopped", ready=False, error="The file is broken.")
    assert not view._note.text()
    loaded(view)
    assert sent == []
    assert view.composer.toPlainText() == "Are you there?"


def test_an_answer_that_never_began_can_be_asked_for_again(qtbot: QtBot) -> None:
    view, _sent = loading(qtbot)
    loaded(view)
    view.receive(TurnStarted(turn=1, user=Message(role=Role.USER, text="Are you there?")))
    answer = Message(role=Role.ASSISTANT, text="", outcome=Outcome.STOPPED)
    view.receive(TurnFinished(turn=1, answer=answer))
    bubble = view.transcript._bubbles[-1]
    qtbot.waitUntil(bubble.resume.isVisible)
    assert bubble.resume.text() == "Try again"
    with qtbot.waitSignal(view.continue_clicked):
        bubble.resume.click()


def test_a_question_that_wakes_the_model_says_so_until_it_is_asked(qtbot: QtBot) -> None:
    view, sent = loading(qtbot)
    view.set_engine("asleep until you ask", ready=False, asleep=True)
    QTest.keyClick(view.composer, Qt.Key.Key_Return)
    assert (sent, view._note.text()) == (["Are you there?"], WAKES)
    view.receive(TurnStarted(turn=1, user=Message(role=Role.USER, text="Are you there?")))
    loaded(view)
    assert len(sent) == 1
    assert not view._note.text()
