"""A supervisor with a real worker, and its events to wait for."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

from app.engine import protocol
from app.engine.model import (
    EngineEvent,
    EngineStateChanged,
    ModelLoaded,
    TurnEnded,
    TurnProgressed,
)
from app.engine.supervisor import EngineSupervisor

TIMEOUT_S = 60
LONG = protocol.ChatMessage(role="user", content="Tell a very long story about a lighthouse.")


class Events:
    def __init__(self) -> None:
        self.queue: queue.Queue[EngineEvent] = queue.Queue()

    def until(self, wanted: Callable[[EngineEvent], bool]) -> list[EngineEvent]:
        seen = []
        while True:
            event = self.queue.get(timeout=TIMEOUT_S)
            seen.append(event)
            if wanted(event):
                return seen


@contextlib.contextmanager
def engine(**options: object) -> Iterator[tuple[EngineSupervisor, Events]]:
    events = Events()
    supervisor = EngineSupervisor(events.queue.put, **options)  # type: ignore[arg-type]
    try:
        yield supervisor, events
    finally:
        supervisor.close()


def is_loaded(event: EngineEvent) -> bool:
    if isinstance(event, EngineStateChanged) and event.error is not None:
        raise event.error
    return isinstance(event, ModelLoaded)


def is_error(event: EngineEvent) -> bool:
    return isinstance(event, EngineStateChanged) and event.error is not None


def is_end(event: EngineEvent) -> bool:
    return isinstance(event, TurnEnded)


def text_of(events: list[EngineEvent]) -> str:
    return "".join(
        e.message.text
        for e in events
        if isinstance(e, TurnProgressed) and isinstance(e.message, protocol.TokensGenerated)
    )


def has_text(event: EngineEvent) -> bool:
    return bool(text_of([event]))


def generate(turn: int, limit: int | None = 16) -> protocol.Generate:
    greedy = protocol.Sampling(temperature=0)
    return protocol.Generate(turn=turn, messages=(LONG,), sampling=greedy, max_tokens=limit)


def load(path: Path, **values: object) -> protocol.Load:
    return protocol.Load.model_validate(
        {"model_path": str(path), "context": 1024, "threads": 1} | values
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of one turn."""

    text: str
    finished: protocol.TurnFinished

    @property
    def evaluated(self) -> int:
        """Tokens of the prompt that were computed."""
        return self.finished.prompt_tokens - self.finished.reused_tokens


def answer(
    supervisor: EngineSupervisor,
    events: Events,
    messages: tuple[protocol.ChatMessage, ...],
    *,
    limit: int | None = 16,
    sampling: protocol.Sampling | None = None,
    continue_last: bool = False,
) -> Answer:
    """Ask and wait; a failed turn raises its error."""
    supervisor.generate(
        protocol.Generate(
            turn=1,
            messages=messages,
            sampling=sampling or protocol.Sampling(temperature=0),
            max_tokens=limit,
            continue_last=continue_last,
        )
    )
    seen = events.until(is_end)
    end = seen[-1]
    assert isinstance(end, TurnEnded)
    if end.error is not None:
        raise end.error
    assert end.finished is not None
    return Answer(text_of(seen), end.finished)


def talk(*texts: str) -> tuple[protocol.ChatMessage, ...]:
    """User and assistant by turns, the user first."""
    return tuple(
        protocol.ChatMessage(role="assistant" if index % 2 else "user", content=text)
        for index, text in enumerate(texts)
    )
