"""A context that fills up in the whole app: each choice, with the real engine."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from app.chat.events import (
    AnswerExtended,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
)
from app.chat.message import ContextLevel, Outcome
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded
from app.errors import ErrorKind
from app.events import AppEvent, ContextOffered, PlanPreviewed, SnapshotChanged, SnapshotState
from app.service import AppService, context
from app.settings.model import Overflow, Settings

Event = TypeVar("Event", bound=AppEvent)
TIMEOUT_S = 60
FACT = (
    "Remember: the lamp of lighthouse number {0} is lit at {0} minutes past six, and put out at dawn."
    " Its keeper is called Anna, she has {0} cats, and a boat that is as blue as the sea in summer."
)
GREEDY = {"temperature": 0}
ENDLESS = {"temperature": 0, "ignore_end": True}


class Chat:
    """A service with the starter model, and its events."""

    def __init__(self, service: AppService) -> None:
        self.service = service
        self.events: queue.Queue[AppEvent] = queue.Queue()
        service.subscribe(self.events.put)

    def until(self, kind: type[Event]) -> tuple[list[AppEvent], Event]:
        seen: list[AppEvent] = []
        while True:
            seen.append(self.events.get(timeout=TIMEOUT_S))
            last = seen[-1]
            if isinstance(last, kind):
                return seen, last

    def load(self, settings: Settings) -> None:
        self.service.settings = settings
        self.service.start(load=True)
        self.until(ModelLoaded)

    def ask(
        self, text: str, limit: int | None = 8
    ) -> tuple[list[AppEvent], TurnFinished | QuestionReturned]:
        self.service.chat.send(text, max_tokens=limit)
        seen: list[AppEvent] = []
        while True:
            seen.append(event := self.events.get(timeout=TIMEOUT_S))
            if isinstance(event, TurnFinished | QuestionReturned):
                return seen, event

    def ask_until_full(self) -> QuestionReturned:
        for number in range(16):
            _, end = self.ask(FACT.format(number))
            if isinstance(end, QuestionReturned):
                return end
        raise AssertionError("the context never was full")


@pytest.fixture
def chat() -> Iterator[Chat]:
    service = AppService()
    yield Chat(service)
    service.close()


def settings(overflow: Overflow, **values: object) -> Settings:
    return Settings.model_validate(
        {
            "context": 512,
            "reply_reserve": 64,
            "overflow": overflow,
            "sampling": GREEDY,
            "threads": 1,
        }
        | values
    )


def fill(chat: Chat, wanted: Callable[[AppEvent], bool], most: int = 16) -> list[AppEvent]:
    """Ask until `wanted` happens; returns all of that turn."""
    for number in range(most):
        seen, end = chat.ask(FACT.format(number))
        if isinstance(end, TurnFinished):
            assert end.error is None
        if any(wanted(event) for event in seen):
            return seen
    raise AssertionError("it did not happen")


def test_more_than_the_model_was_trained_for_is_told_as_such(chat: Chat) -> None:
    chat.load(settings(Overflow.STOP))
    offered: list[ContextOffered] = []
    chat.service.subscribe(lambda e: offered.append(e) if isinstance(e, ContextOffered) else None)
    chat.service.chat.send("word " * 9000)
    _, returned = chat.until(QuestionReturned)
    assert "question does not fit" in str(returned.error)
    chat.until(ContextOffered)
    assert "trained for 8,192" in offered[0].sentence


def test_stop_gives_the_question_back_and_the_ways_out_work(chat: Chat) -> None:
    chat.load(settings(Overflow.STOP))
    warned: list[ContextOffered] = []
    chat.service.subscribe(lambda e: warned.append(e) if isinstance(e, ContextOffered) else None)
    end = chat.ask_until_full()
    before = chat.service.chat.messages
    levels = [m.stats.context_level for m in before if m.stats is not None]
    assert all(m.stats.kept_for_reply == 64 for m in before if m.stats is not None)
    assert end.text == FACT.format(len(before) // 2)
    assert end.error.kind is ErrorKind.USAGE
    assert "64 kept for the reply" in end.error.title
    assert before[-1].outcome is not Outcome.RUNNING
    assert len(before) % 2 == 0, "the chat is as before the question"
    assert {*levels} == {*ContextLevel}, "a person was told twice before"
    assert levels == sorted(levels)
    chat.service.set_overflow(Overflow.DROP_OLDEST)
    _, finished = chat.ask(end.text)
    assert isinstance(finished, TurnFinished)
    assert finished.answer.text
    assert chat.service.chat.messages[: len(before)] != before, "now older messages are marked"
    assert [m.text for m in chat.service.chat.messages[: len(before)]] == [m.text for m in before]
    before = chat.service.chat.messages
    assert (warned[0].offer.context, warned[0].offer.larger) == (512, 1024)
    assert "1,024 instead of 512 fits" in warned[0].sentence
    chat.service.enlarge_context(FACT.format(99))
    _, after = chat.until(TurnFinished)
    assert after.answer.text
    assert chat.service.engine.loaded is not None
    assert chat.service.engine.loaded.loaded.context == chat.service.settings.context == 1024
    assert chat.service.chat.messages[: len(before)] == before


def test_an_answer_goes_on_beyond_the_end_of_the_context(chat: Chat) -> None:
    chat.load(settings(Overflow.DROP_OLDEST))
    for number in range(4):
        chat.ask(FACT.format(number))
    chat.service.settings = chat.service.settings.model_copy(update={"sampling": ENDLESS})
    seen, end = chat.ask("Tell a long story about a lighthouse.", limit=220)
    assert isinstance(end, TurnFinished)
    answer = end.answer
    began = next(i for i, event in enumerate(seen) if isinstance(event, AnswerExtended))
    again = [event for event in seen[began:] if isinstance(event, PromptRead)]
    assert again, "turns were left out in the middle of the answer"
    assert again[0].left_out == (2, 3, 4, 5, 6, 7)[: len(again[0].left_out)]
    assert again[0].total - again[0].reused <= 2, "the KV cache was moved, not computed again"
    assert answer.stats is not None
    assert answer.outcome is Outcome.TRUNCATED
    assert answer.stats.tokens == 220 > 512 - answer.stats.prompt_tokens
    assert answer.text == "".join(e.text for e in seen if isinstance(e, AnswerExtended))


def test_an_answer_that_fills_the_context_alone_can_be_continued(chat: Chat) -> None:
    chat.load(settings(Overflow.DROP_OLDEST, sampling=ENDLESS, context=256))
    _, end = chat.ask("Tell a very long story about a lighthouse.", limit=None)
    assert isinstance(end, TurnFinished)
    first = end.answer
    assert first.outcome is Outcome.FULL
    chat.service.chat.resume(max_tokens=40)
    seen, finished = chat.until(TurnFinished)
    read = next(event for event in seen if isinstance(event, PromptRead))
    assert read.cut > 0
    assert read.reused > 0.8 * read.total, "what stays of the answer was moved up"
    assert finished.answer.text.startswith(first.text)
    assert len(finished.answer.text) > len(first.text)
    assert len(chat.service.chat.messages) == 2
    assert finished.answer.stats is not None
    assert finished.answer.stats.tokens == 40


def test_a_summary_stands_for_the_oldest_turns_and_includes_earlier_ones(chat: Chat) -> None:
    chat.load(settings(Overflow.SUMMARISE, context=512))

    def summarised(event: AppEvent) -> bool:
        return isinstance(event, TurnsSummarised) and event.summary is not None

    seen = fill(chat, summarised)
    steps = [event for event in seen if isinstance(event, TurnsSummarised)]
    assert steps[0].turns >= 1
    assert steps[0].total > 0
    assert steps[0].summary is None, "it is seen at work"
    (summary,) = chat.service.chat.summaries
    assert summary.text
    assert summary.tokens < summary.replaced_tokens
    messages = chat.service.chat.messages
    assert [m.summarised for m in messages].count(True) == summary.messages
    assert not messages[0].dropped
    assert not messages[1].dropped
    assert messages[summary.after].summarised
    assert not messages[summary.after + 1].dropped
    read = next(event for event in seen if isinstance(event, PromptRead))
    assert read.total <= 512 - 64
    assert not read.left_out
    _, end = chat.ask("Go on.")
    assert isinstance(end, TurnFinished)
    assert end.answer.stats is not None
    assert end.answer.stats.reused_tokens > 0.8 * end.answer.stats.prompt_tokens - 40
    fill(chat, summarised)
    first, second = chat.service.chat.summaries
    assert first == summary
    assert second.messages > first.messages
    assert second.after > first.after


def test_a_summary_can_be_stopped_and_nothing_is_lost(chat: Chat) -> None:
    chat.load(settings(Overflow.SUMMARISE))
    for number in range(16):
        chat.service.chat.send(FACT.format(number), max_tokens=24)
        while not isinstance(event := chat.events.get(timeout=TIMEOUT_S), TurnFinished):
            if isinstance(event, TurnsSummarised):
                chat.service.engine.cancel()
                break
        if isinstance(event, TurnsSummarised):
            break
    _, end = chat.until(TurnFinished)
    assert end.answer.outcome is Outcome.STOPPED
    assert not chat.service.chat.summaries
    assert not any(message.dropped for message in chat.service.chat.messages)
    _, after = chat.ask("And now?")
    assert isinstance(after, TurnFinished)
    assert after.answer.text
    assert chat.service.chat.summaries or any(m.dropped for m in chat.service.chat.messages)


def test_enlarging_by_itself_sends_the_question_again(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "WORTH_SAVING_S", 0.0)
    chat.load(settings(Overflow.ENLARGE, context=256, reply_reserve=32))
    end = chat.ask_until_full()
    seen, finished = chat.until(TurnFinished)
    read = next(event for event in seen if isinstance(event, PromptRead))
    assert read.reused > 0.5 * read.total, "the KV cache came back from disk"
    assert finished.answer.text
    assert chat.service.chat.messages[-2].text == end.text
    assert chat.service.engine.loaded is not None
    assert chat.service.engine.loaded.loaded.context == 512


def test_a_cancelled_enlargement_asks_nothing_later(chat: Chat) -> None:
    chat.load(settings(Overflow.STOP))
    chat.ask(FACT.format(1))
    chat.service.enlarge_context(FACT.format(2))
    while chat.until(EngineStateChanged)[1].state is not EngineState.STARTING:
        pass
    chat.service.engine.cancel()
    while chat.until(EngineStateChanged)[1].state is not EngineState.STOPPED:
        pass
    chat.service.engine.load()
    chat.until(ModelLoaded)
    chat.ask("Hello")
    asked = [m.text for m in chat.service.chat.messages if m.role == "user"]
    assert asked == [FACT.format(1), "Hello"]


def test_what_a_person_does_while_the_kv_cache_is_saved_for_a_longer_context_holds(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "WORTH_SAVING_S", 0.0)
    chat.load(settings(Overflow.STOP))
    chat.ask(FACT.format(1))

    def meanwhile(event: AppEvent) -> None:
        if isinstance(event, SnapshotChanged) and event.state is SnapshotState.SAVING:
            chat.service.set_system_prompt("Answer like a pirate.")

    forget = chat.service.subscribe(meanwhile)
    chat.service.enlarge_context()
    chat.until(ModelLoaded)
    assert chat.service.settings.context == 1024
    assert chat.service.settings.system_prompt == "Answer like a pirate."
    forget()

    def unload(event: AppEvent) -> None:
        if isinstance(event, SnapshotChanged) and event.state is SnapshotState.SAVING:
            chat.service.engine.unload()

    chat.ask(FACT.format(2))
    chat.service.subscribe(unload)
    chat.service.enlarge_context(FACT.format(3))
    while chat.until(SnapshotChanged)[1].state is SnapshotState.SAVING:
        pass
    chat.service.planning.study(chat.service.settings)
    chat.until(PlanPreviewed)
    assert chat.service.engine.state is EngineState.STOPPED, "it was unloaded, and stays so"
    assert chat.service.settings.context == 1024


def test_a_question_that_is_far_too_long_takes_one_load(chat: Chat) -> None:
    chat.load(settings(Overflow.STOP))
    text = "a river " * 600
    _, end = chat.ask(text)
    assert isinstance(end, QuestionReturned)
    assert end.tokens > 1024
    _, offered = chat.until(ContextOffered)
    assert offered.offer.larger >= end.tokens + 64
    assert offered.offer.larger > 1024, "the double would not do"
    chat.service.context.enlarge(text)
    seen, finished = chat.until(TurnFinished)
    assert finished.error is None
    assert sum(isinstance(event, ModelLoaded) for event in seen) == 1
    chat.service.context.study()
    assert chat.until(ContextOffered)[1].offer.needed == 0
