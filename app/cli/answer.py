"""An answer on its way through the terminal."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

from app.chat.events import AnswerExtended, TurnFinished
from app.chat.meters import Meters
from app.cli.context import Emit
from app.engine.protocol import PartKind


class AnswerWords:
    """The answer goes to stdout; what the model thinks on the way, beside it."""

    def __init__(self, say: Callable[[str], None], emit: Emit, *, as_json: bool) -> None:
        """With `as_json` all goes to stdout, one event a line."""
        self._say, self._emit, self._json = say, emit, as_json

    def extend(self, event: AnswerExtended) -> None:
        """More of it."""
        if self._json:
            call = event.call.model_dump() if event.call else None
            self._emit(event.part, text=event.text, tokens=event.tokens, call=call)
        elif event.part is PartKind.TEXT:
            print(event.text, end="", flush=True)
        else:
            words = event.call.model_dump_json() if event.call else event.text
            print(words, end="", file=sys.stderr, flush=True)

    def finished(self, event: TurnFinished) -> None:
        """Its end, and what it took."""
        if not self._json:
            print(flush=True)
        stats = event.answer.stats
        values = None
        if stats is not None:
            values = dataclasses.asdict(stats) | {"evaluated_tokens": stats.evaluated_tokens}
        self._emit(
            "finished",
            outcome=event.answer.outcome,
            text=event.answer.text,
            stats=values,
            error=str(event.error) if event.error else None,
        )
        if stats is not None:
            self._say(str(Meters.of(stats)))
