"""A conversation that outgrows the context goes on where the person wants it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.chat.events import PromptRead
from app.chat.message import ContextLevel
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.engine.overflow import turns_to_drop
from app.errors import AppError, ErrorKind
from tests.helpers import small_models
from tests.helpers.engines import answer, engine, is_end, is_loaded, load, talk, text_of

FACT = "The lamp of lighthouse number {0} is lit at {0} minutes past six, and put out at dawn."


def test_whole_turns_go_and_the_first_and_last_stay() -> None:
    system = protocol.ChatMessage(role="system", content="s")
    messages = (system, *talk("a", "b", "c", "d", "e", "f", "g"))
    assert turns_to_drop(messages) == [(3, 4), (5, 6)]
    assert turns_to_drop((system, *talk("a", "b", "c"))) == []
    assert turns_to_drop(()) == []


def test_the_oldest_turns_are_left_out_and_their_room_is_used(starter_model: Path) -> None:
    session = ChatSession(system_prompt="Answer shortly.")
    reserve, context = 64, 512
    drops = []
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, context=context, micro_batch=64))
        events.until(is_loaded)
        for number in range(24):
            session.begin(FACT.format(number), now_s=0)
            supervisor.generate(
                protocol.Generate(
                    turn=session.turn,
                    messages=session.prompt(),
                    sampling=protocol.Sampling(temperature=0),
                    max_tokens=24,
                    overflow="drop_oldest",
                    reserve=reserve,
                )
            )
            before = sum(m.dropped for m in session.messages)
            read = []
            for event in events.until(is_end):
                assert isinstance(event, TurnEnded | TurnProgressed) or True
                if isinstance(event, TurnEnded | TurnProgressed):
                    said = session.receive(event, now_s=0)
                    read += [said] if isinstance(said, PromptRead) else []
            stats = session.messages[-1].stats
            assert stats is not None
            assert stats.prompt_tokens <= context - reserve
            if read[0].dropped > before:
                drops.append(number)
                assert stats.reused_tokens > 0.5 * stats.prompt_tokens, "the KV cache was moved up"
    assert len(drops) >= 2
    assert drops[1] - drops[0] >= 2, "in chunks, so that prompts begin alike in between"
    dropped = [m.dropped for m in session.messages]
    assert len(dropped) == 48, "all stays in the chat"
    assert not any(dropped[:2])
    first_kept = dropped.index(False, 2)
    assert dropped[2:first_kept] == [True] * (first_kept - 2)
    assert not any(dropped[first_kept:])


def test_without_leave_nothing_is_dropped(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, context=256))
        events.until(is_loaded)
        with pytest.raises(AppError) as error:
            answer(supervisor, events, talk(*[FACT.format(n) for n in range(15)]))
        assert error.value.kind is ErrorKind.USAGE
        assert answer(supervisor, events, talk("Hello"), limit=4).text


def test_a_first_turn_that_fills_the_context_does_not_end_the_chat(starter_model: Path) -> None:
    """It stays as long as anything else can go."""
    long = "word " * 600
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, context=512, micro_batch=128))
        events.until(is_loaded)

        def ask(turn: int, *texts: str, overflow: str) -> tuple[TurnEnded, set[int]]:
            values = {"turn": turn, "messages": talk(*texts), "overflow": overflow, "max_tokens": 4}
            supervisor.generate(protocol.Generate.model_validate(values))
            seen = events.until(is_end)
            assert isinstance(seen[-1], TurnEnded)
            messages = [e.message for e in seen if isinstance(e, TurnProgressed)]
            read = [m for m in messages if isinstance(m, protocol.PrefillProgressed)]
            return seen[-1], {index for m in read for index in m.dropped}

        for turn, overflow in enumerate(("drop_oldest", "summarise")):
            ended, dropped = ask(turn, "Hi", long, "And now?", overflow=overflow)
            assert (ended.error, dropped) == (None, {0, 1})
        ended, _ = ask(3, "Hi", long, "And now?", overflow="stop")
        assert ended.context_full
        assert "oldest turns" in str(ended.error)
        for turn, overflow in enumerate(("stop", "drop_oldest", "summarise"), 4):
            ended, _ = ask(turn, "Hi", "Hello", long, overflow=overflow)
            assert ended.context_full
            assert "question does not fit" in str(ended.error)
            assert "oldest turns" not in str(ended.error)
        ended, _ = ask(7, "word " * 3_300_000, overflow="drop_oldest")
        assert "question does not fit into the context (16,500,000 characters)" in str(ended.error)


@pytest.mark.parametrize(
    "make", [small_models.sliding_window, small_models.recurrent], ids=["window", "recurrent"]
)
def test_an_answer_goes_on_where_nothing_can_be_shifted(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    messages = talk("a" * 40, "b" * 20, "c" * 40, "d" * 20, "e" * 40, "f" * 20, "tell")
    with engine() as (supervisor, events):
        supervisor.load(load(make(tmp_path / "model.gguf"), context=512, micro_batch=64))
        events.until(is_loaded)
        supervisor.generate(
            protocol.Generate(
                turn=1,
                messages=messages,
                sampling=protocol.Sampling(temperature=0, grammar=small_models.ENDLESS_LETTERS),
                max_tokens=260,
                overflow="drop_oldest",
            )
        )
        seen = events.until(is_end)
    end = seen[-1]
    assert isinstance(end, TurnEnded)
    assert end.finished is not None
    assert (end.finished.reason, end.finished.generated_tokens) == ("length", 260)
    read = [
        e.message
        for e in seen
        if isinstance(e, TurnProgressed) and isinstance(e.message, protocol.PrefillProgressed)
    ]
    assert read[-1].dropped
    assert read[-1].total < 512
    assert len(text_of(seen)) == 260, "nothing of the answer is missing or said twice"


def test_a_person_is_told_before_the_context_is_full(starter_model: Path) -> None:
    session = ChatSession()
    levels = []
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, context=256))
        events.until(is_loaded)
        for number in range(4):
            session.begin(FACT.format(number), now_s=0)
            supervisor.generate(
                protocol.Generate(turn=session.turn, messages=session.prompt(), max_tokens=25,
                                  sampling=protocol.Sampling(temperature=0, ignore_end=True))
            )  # fmt: skip
            for event in events.until(is_end):
                if isinstance(event, TurnEnded | TurnProgressed):
                    session.receive(event, now_s=0)
            stats = session.messages[-1].stats
            assert stats is not None
            levels.append(stats.context_level)
            assert stats.context_level <= 100 * stats.context_used / stats.context
    assert levels[0] is ContextLevel.FREE
    assert levels[-1] in (ContextLevel.FILLING, ContextLevel.NEARLY_FULL)
