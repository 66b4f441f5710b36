"""What a person sees of a context that fills up."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.chat.events import (
    AnswerExtended,
    AnswerResumed,
    ChatEvent,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
    TurnStarted,
)
from app.chat.message import Message, Outcome, Role, Summary, TurnStats
from app.engine.protocol import Loaded
from app.errors import AppError
from app.events import ContextOffered
from app.plan.larger import LargerContext
from app.plan.model import KvCacheType
from app.settings.model import Overflow, Settings
from ui.chat.blocks import Text
from ui.chat.bubble import Bubble
from ui.chat.chat_view import ChatView
from ui.chat.marks import LeftOutLine, SummaryMark

LOADED = Loaded(
    context=8192, train_context=8192, memory=(), duration_s=3, has_chat_template=True, threads=1
)


@pytest.fixture
def view(qtbot: QtBot) -> ChatView:
    view = ChatView()
    qtbot.addWidget(view)
    view.resize(900, 600)
    view.show()
    view.set_settings(Settings(reply_reserve=1024))
    view.set_loaded(LOADED, None)
    view.set_engine("loaded", ready=True)
    return view


def stats(used: int) -> TurnStats:
    return TurnStats(
        tokens=14, tokens_per_second=9.0, first_token_s=0.1, prompt_tokens=4022, reused_tokens=3810,
        context_used=used, context=8192, kept_for_reply=1024, reasoning_tokens=5,
    )  # fmt: skip


def turn(
    view: ChatView, question: str, answer: str, used: int, outcome: Outcome = Outcome.COMPLETE
) -> None:
    message = Message(role=Role.ASSISTANT, text=answer, stats=stats(used), outcome=outcome)
    events: tuple[ChatEvent, ...] = (
        TurnStarted(turn=1, user=Message(role=Role.USER, text=question)),
        PromptRead(turn=1, done=4022, total=4022, reused=3810),
        AnswerExtended(
            turn=1, text=answer, tokens=4, elapsed_s=1, first_token_s=0.1, context_used=used
        ),
        TurnFinished(turn=1, answer=message),
    )
    for event in events:
        view.receive(event)


def bubbles(view: ChatView) -> list[Bubble]:
    QApplication.processEvents()  # a layout shows what it got once events run
    return [bubble for bubble in view.findChildren(Bubble) if not bubble.isHidden()]


def test_meters_tell_what_was_read_kept_thought_and_reserved(view: ChatView) -> None:
    assert view._meter.text() == "context 0 / 8.2k, 1.0k kept for the reply"
    turn(view, "q", "a", 6100)
    assert view._meter.text() == (
        "9.0 tok/s · first token 0.10 s · read 212, kept 3,810 · thought 5"
        " · context 6.1k / 8.2k, 1.0k kept for the reply"
    )
    view.receive(TurnStarted(turn=2, user=Message(role=Role.USER, text="p")))
    view.receive(PromptRead(turn=2, done=4100, total=8000, reused=4000))
    assert view._meter.text().startswith("reading 51 % · read 100, kept 4,000 · context 4.1k")


def test_a_warning_at_75_and_90_percent_of_the_room_says_what_will_happen(
    view: ChatView, qtbot: QtBot
) -> None:
    line = view.context_line
    turn(view, "q", "a", 5300)
    assert not line.isVisible()
    turn(view, "q", "a", 5400)
    assert line.isVisible()
    assert line.text.text() == (
        "75 % of the room for the conversation is used."
        " When it is full, your question is kept for you to send again."
    )
    assert line.text.property("state") == view._meter.context.property("state") == "warn"
    turn(view, "q", "a", 6500)
    assert line.text.property("state") == view._meter.context.property("state") == "error"
    with qtbot.waitSignal(view.overflow_chosen) as chosen:
        line.actions_of[Overflow.SUMMARISE].trigger()
    assert chosen.args == [Overflow.SUMMARISE]
    view.set_settings(Settings(overflow=Overflow.SUMMARISE))
    assert "summarises the oldest turns" in line.text.text()
    assert line.choice.text() == "When full: summarise the oldest turns"
    offer = LargerContext(context=8192, larger=16_384, trained=131_072, kv_type=KvCacheType.Q8_0)
    view.set_offer(ContextOffered(offer=offer, sentence="It fits."))
    assert (line.offer.text(), line.enlarge.text()) == ("It fits.", "Enlarge to 16,384 with q8_0")
    with qtbot.waitSignal(view.enlarge_clicked) as asked:
        line.enlarge.click()
    assert asked.args == [""]


def test_a_question_that_does_not_fit_goes_back_before_what_was_typed_since(
    view: ChatView, qtbot: QtBot
) -> None:
    turn(view, "q", "a", 6000)
    view.receive(TurnStarted(turn=2, user=Message(role=Role.USER, text="long")))
    view.composer.setPlainText("next")
    error = AppError("It no longer fits.", hint="Enlarge it.")
    view.receive(QuestionReturned(turn=2, text="long", error=error))
    assert view.composer.toPlainText() == "long\n\nnext"
    assert [bubble.text for bubble in bubbles(view)] == ["q", "a"]
    assert view.context_line.text.text() == "It no longer fits. Your question is kept below."
    assert view._send.text() == "Send"
    view.composer.setPlainText("long")
    offer = LargerContext(context=8192, larger=16_384, trained=131_072)
    view.set_offer(ContextOffered(offer=offer, sentence="It fits."))
    with qtbot.waitSignal(view.enlarge_clicked) as asked:
        view.context_line.enlarge.click()
    assert asked.args == ["long"], "it is sent once there is room"
    view.receive(TurnStarted(turn=3, user=Message(role=Role.USER, text="long")))
    assert not view.composer.toPlainText()
    assert view.context_line.text.text() != "It no longer fits. Your question is kept below."


def test_marks_stand_below_what_was_left_out_or_summarised_and_all_stays(view: ChatView) -> None:
    for number in range(5):
        turn(view, f"q{number}", f"a{number}", 6000)
    view.receive(TurnStarted(turn=6, user=Message(role=Role.USER, text="q5")))
    view.receive(TurnsSummarised(turn=6, turns=2, done=40, total=40, tokens=12))
    assert bubbles(view)[-1]._note.text() == "Summarising 2 older turns ... 12 tokens"
    summary = Summary(text="They *spoke*.", after=5, messages=4, tokens=60, replaced_tokens=400)
    view.receive(TurnsSummarised(turn=6, turns=2, summary=summary, replaced=(2, 3, 4, 5)))
    view.receive(PromptRead(turn=6, done=1, total=9, dropped=6, left_out=(6, 7)))
    (mark,) = view.findChildren(SummaryMark)
    assert mark.head.text() == "Summary of 4 messages above · 60 tokens instead of 400"
    assert mark.body.isHidden()
    mark.head.click()
    assert not mark.body.isHidden()
    assert mark.body.toPlainText() == "They spoke."
    (line,) = view.findChildren(LeftOutLine)
    assert line.text.text() == "Left out of the prompt: 2 messages above"
    layout = view.transcript._messages
    shown = [layout.indexOf(bubble) for bubble in bubbles(view)]
    assert shown[5] < layout.indexOf(mark) < shown[6]
    assert shown[7] < layout.indexOf(line) < shown[8]
    assert [bubble.text for bubble in bubbles(view)][:4] == ["q0", "a0", "q1", "a1"]
    dim = [b.findChildren(Text)[-1].property("state") == "muted" for b in bubbles(view)[:10]]
    assert dim == [False, False, *[True] * 6, False, False]
    later = Summary(text="More.", after=7, messages=6, tokens=70, replaced_tokens=300)
    view.receive(TurnsSummarised(turn=6, turns=2, summary=later, replaced=tuple(range(2, 8))))
    assert mark.head.text().endswith("part of a later one")
    view.clear()
    assert not bubbles(view)
    assert all(m.isHidden() for m in view.findChildren(SummaryMark))


def test_an_answer_that_was_cut_off_goes_on_in_its_place(view: ChatView, qtbot: QtBot) -> None:
    turn(view, "q", "Once upon", 8192, Outcome.FULL)
    assert "the answer was cut off" in view.context_line.text.text()
    answer = bubbles(view)[-1]
    with qtbot.waitSignal(view.continue_clicked):
        answer.resume.click()
    half = Message(role=Role.ASSISTANT, text="Once upon", outcome=Outcome.FULL)
    view.receive(AnswerResumed(turn=2, answer=half))
    assert answer.resume.isHidden()
    view.receive(
        AnswerExtended(
            turn=2, text=" a time", tokens=4, elapsed_s=1, first_token_s=0.1, context_used=4000
        )
    )
    whole = Message(role=Role.ASSISTANT, text="Once upon a time", stats=stats(4000))
    view.receive(TurnFinished(turn=2, answer=whole))
    assert [bubble.text for bubble in bubbles(view)] == ["q", "Once upon a time"]
    assert not view.context_line.isVisible()
