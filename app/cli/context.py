"""What the terminal chat says of its context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from app.chat.events import PromptRead, QuestionReturned, TurnsSummarised
from app.chat.message import ContextLevel, TurnStats
from app.engine.diagnose import QuestionTooLongError
from app.events import ContextOffered
from app.service import AppService
from app.service.context import warning
from app.settings.model import OVERFLOW_WORDS, Overflow

Say = Callable[[str], None]
_CHOICES = {"drop": Overflow.DROP_OLDEST} | {overflow.value: overflow for overflow in Overflow}


class Emit(Protocol):
    """Prints an event as JSON, where that is wanted."""

    def __call__(self, kind: str, **values: object) -> None:
        """One line."""


class ContextWords:
    """How full it is, what was left out or summarised, and what can be done."""

    def __init__(self, service: AppService, say: Say, emit: Emit) -> None:
        """Nothing was left out yet."""
        self._service, self._say, self._emit = service, say, emit
        self._left_out = 0

    def choose(self, value: str) -> None:
        """What happens when the context is full: another choice, or only say which it is."""
        if value in _CHOICES:
            self._service.set_overflow(_CHOICES[value])
        elif value:
            self._say(f"“{value}” is none of stop, drop, summarise and enlarge.")
        self._say(
            f"When the context is full, {OVERFLOW_WORDS[self._service.settings.overflow]}."
            " Change it with /overflow stop, drop, summarise or enlarge."
        )

    def read_prompt(self, event: PromptRead) -> None:
        """Prompt processing, and what was left out for it."""
        self._emit(
            "prompt_read",
            done=event.done,
            total=event.total,
            reused=event.reused,
            evaluated=event.evaluated,
            left_out=len(event.left_out),
        )
        if len(event.left_out) > self._left_out:
            self._say(f"[Left out of the prompt: {len(event.left_out)} older messages.]")
        self._left_out = len(event.left_out)

    def summarised(self, event: TurnsSummarised) -> None:
        """A summary that is being written, or is there."""
        summary = event.summary
        if summary is None:
            self._emit(
                "summarising",
                turns=event.turns,
                done=event.done,
                total=event.total,
                tokens=event.tokens,
            )
            if event.done == event.total and not event.tokens:
                self._say(f"[Summarising the oldest turns: {event.turns}.]")
            return
        self._emit("summary", **dataclasses.asdict(summary))
        self._say(
            f"[Summary of {summary.messages} older messages, {summary.tokens} tokens instead of"
            f" {summary.replaced_tokens}: {summary.text}]"
        )

    def offered(self, event: ContextOffered) -> None:
        """Which longer context fits."""
        self._emit("context_offered", sentence=event.sentence, **event.offer.changes)
        self._say(event.sentence)

    def returned(self, event: QuestionReturned) -> int:
        """The question does not fit, and is kept; the exit code for that."""
        self._emit("question_returned", text=event.text, error=str(event.error))
        ways = "/overflow drop, /overflow summarise or /enlarge"
        if isinstance(event.error, QuestionTooLongError):
            ways = "/enlarge"
        self._say(f"{event.error} Your question is kept: {ways}, then Enter sends it again.")
        return event.error.exit_code

    def warn(self, stats: TurnStats) -> None:
        """Before the context is full, say what will happen then."""
        if stats.context_level is ContextLevel.FREE:
            return
        sentence = warning(stats.context_use, self._service.settings.overflow)
        self._emit("context_warning", level=int(stats.context_level), sentence=sentence)
        self._say(f"{sentence} See /overflow and /enlarge.")
