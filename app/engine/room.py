"""Makes a conversation fit into the context, before an answer and in its middle.

Only the worker imports this.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable

from app.engine import protocol
from app.engine.llama import Model
from app.engine.overflow import (
    KEEP,
    KEEP_BESIDE_SUMMARY,
    kept_for_reply,
    summary_turn,
    turns_to_drop,
)
from app.engine.protocol import ChatMessage
from app.engine.stop import StopFlag
from app.engine.summary import summarise
from app.engine.template import MAX_OUTPUT

OPENING = 8
"""Tokens at the beginning of a partial answer that stay: a tag that opens its reasoning is among them."""
WORTH_CONTINUING = 32
"""An answer of which fewer tokens could stay cannot be continued."""
_Row = tuple[int | None, ChatMessage]


class ContextFullError(Exception):
    """The prompt leaves no room for an answer; the message gives its tokens and the context's.

    Attributes:
        tokens: Of the prompt.
        alone: No turn could be left out that would help.
    """

    def __init__(self, message: str, tokens: int, *, alone: bool = False) -> None:
        """`message` is for a person."""
        super().__init__(message)
        self.tokens, self.alone = tokens, alone


class Room:
    """The prompt of one turn, and what it is made of by now.

    Attributes:
        tokens: The prompt.
        dropped: Indexes of the turn's messages that were left out.
        shorter: By how many tokens leaving out made it shorter the last time.
        cut: Tokens left out at the beginning of the answer that is to be continued.
        summary_s: Time that summaries took.
    """

    def __init__(
        self,
        command: protocol.Generate,
        model: Model,
        send: Callable[[protocol.Message], None],
        stop: StopFlag,
    ) -> None:
        """Write the prompt, shortened where it must be and may be; after a stop it may be too long.

        Raises:
            ContextFullError: It is too long.
            TemplateError: It cannot be written.
        """
        self._command, self._model, self._send, self._stop = command, model, send, stop
        self._rows: list[_Row] = list(enumerate(command.messages))
        self._size = model.sequence.size
        self._kept = kept_for_reply(self._size, command.reserve)
        self._room = self._size - self._kept
        self.dropped: tuple[int, ...] = ()
        self.shorter = self.cut = 0
        self.summary_s = 0.0
        characters = sum(len(m.content) + len(m.reasoning_content) for m in command.messages)
        if characters > MAX_OUTPUT:
            # No template may write so much, and no context holds it; of four characters a token is likely.
            raise ContextFullError(f"{characters:,} characters", characters // 4, alone=True)
        self.tokens = self._write(self._rows)
        self._fit()

    def _fit(self) -> None:
        # An answer that goes on is in the reply's room already.
        most = self._size - 1 if self._command.continue_last else self._room
        while len(self.tokens) > most and (self.make([]) or self._drop_first()):
            pass
        if self._stop.is_set():
            return
        if self._command.continue_last and self._may_shorten and len(self.tokens) > most:
            self._cut_answer()
        if len(self.tokens) > (self._size - 1 if self._may_shorten else most):
            raise self._full()

    @property
    def _may_shorten(self) -> bool:
        return self._command.overflow != "stop"

    def _full(self) -> ContextFullError:
        kept = "" if self._command.continue_last else f", {self._kept:,} kept for the reply"
        return ContextFullError(
            f"{len(self.tokens):,} of {self._size:,} tokens{kept if self._kept > 1 else ''}",
            len(self.tokens),
            alone=not self._command.continue_last and self._is_alone(),
        )

    def _is_alone(self) -> bool:
        """True if the question would not fit either with the system prompt alone before it."""
        starts = self._starts()
        if len(starts) < 2:
            return True
        return len(self._write(self._without(list(range(starts[0], starts[-1]))))) > self._room

    def make(self, answer: list[int]) -> bool:
        """Shorten the prompt, which `answer` follows; False if nothing may go, or after a stop."""
        self.shorter = 0
        if not self._may_shorten:
            return False
        if self._command.overflow == "summarise" and self._summarise(len(answer)):
            return True
        return not self._stop.is_set() and self._drop(len(answer))

    def _write(self, rows: list[_Row]) -> list[int]:
        return self._model.prompt(
            tuple(message for _, message in rows),
            tools=self._command.tools,
            continue_last=self._command.continue_last,
        )

    def _least(self, turns: list[tuple[int, ...]], goal: float) -> list[int]:
        """Indexes of rows: as few of the oldest turns as bring the prompt down to `goal`, or all."""

        def enough(count: int) -> bool:
            return len(self._write(self._without(_joined(turns[:count])))) <= goal

        # Each look writes and counts the whole prompt, which may take some time.
        index = bisect.bisect_left(range(1, len(turns)), True, key=enough)
        return _joined(turns[: index + 1])

    def _without(self, gone: list[int]) -> list[_Row]:
        missing = set(gone)
        return [row for index, row in enumerate(self._rows) if index not in missing]

    def _indexes(self, rows: list[int]) -> tuple[int, ...]:
        """Those of the turn's messages; a summary of this turn is none of them."""
        found = (self._rows[row][0] for row in rows)
        return tuple(index for index in found if index is not None)

    def _drop(self, answer: int) -> bool:
        turns = turns_to_drop(tuple(message for _, message in self._rows))
        if not turns:
            return False
        self._leave_out(self._least(turns, KEEP * self._room - answer))
        return True

    def _drop_first(self) -> bool:
        """Leave out what else stays, the oldest first: without that no question could be asked any more."""
        starts = self._starts()
        allowed = self._may_shorten and not self._command.continue_last and not self._stop.is_set()
        if not allowed or len(starts) < 2:
            return False
        self._leave_out(list(range(starts[0], starts[1])))
        return True

    def _starts(self) -> list[int]:
        """Where turns begin: with a message of the user."""
        return [index for index, (_, message) in enumerate(self._rows) if message.role == "user"]

    def _leave_out(self, gone: list[int]) -> None:
        before = len(self.tokens)
        self.dropped += self._indexes(gone)
        self._rows = self._without(gone)
        self.tokens = self._write(self._rows)
        self.shorter = max(0, before - len(self.tokens))

    def _summarise(self, answer: int) -> bool:
        """Put a summary in the place of the oldest turns; False if it did not work."""
        messages = tuple(message for _, message in self._rows)
        turns = turns_to_drop(messages, summaries=True)
        if all(messages[turn[0]].summary for turn in turns):
            return False
        gone = self._least(turns, KEEP_BESIDE_SUMMARY * self._room - answer)
        replaced, count = self._indexes(gone), sum(messages[i].role == "user" for i in gone)
        saved = len(self.tokens) - len(self._write(self._without(gone)))

        def tell(done: int, total: int, tokens: int, text: str = "") -> None:
            self._send(
                protocol.SummaryProgressed(
                    turn=self._command.turn,
                    turns=count,
                    replaced=replaced,
                    replaced_tokens=saved,
                    done=done,
                    total=total,
                    tokens=tokens,
                    text=text,
                )
            )

        started = time.monotonic()
        text = summarise(
            self._model,
            messages[: gone[-1] + 1],
            self._command.tools,
            saved // 2,
            tell,
            self._stop,
        )
        self.summary_s += time.monotonic() - started
        if not text:
            return False
        rows = self._without(gone)
        rows[gone[0] : gone[0]] = [(None, message) for message in summary_turn(text)]
        tokens = self._write(rows)
        if len(tokens) >= len(self.tokens):
            return False
        tell(0, 0, len(tokens) - (len(self.tokens) - saved), text)
        self._rows, self.tokens = rows, tokens
        return True

    def _cut_answer(self) -> None:
        """Leave out the beginning of the answer that goes on, as nothing else is left to go."""
        head = len(self._write_head()) + OPENING
        tail = int(KEEP * self._room) - head
        if tail < WORTH_CONTINUING:
            raise self._full()
        before = len(self.tokens)
        self.tokens = self.tokens[:head] + self.tokens[-tail:]
        self.cut = before - len(self.tokens)
        self.shorter += self.cut

    def _write_head(self) -> list[int]:
        messages = tuple(message for _, message in self._rows[:-1])
        return self._model.prompt(messages, tools=self._command.tools)


def _joined(turns: list[tuple[int, ...]]) -> list[int]:
    return [index for turn in turns for index in turn]
