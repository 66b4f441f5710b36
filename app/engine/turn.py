"""One turn: prompt processing, then tokens until an end. Only the worker imports this."""

from __future__ import annotations

import codecs
import contextlib
import time
from collections.abc import Callable

from app.engine import protocol
from app.engine.llama import Model
from app.engine.overflow import kept_for_reply
from app.engine.parts import PartParser, Piece
from app.engine.protocol import PartKind
from app.engine.room import Room
from app.engine.sampler import Sampler
from app.engine.stop import StopFlag

Send = Callable[[protocol.Message], None]
COALESCE_S = 1 / 30
"""Time between two messages with text: a screen shows no more, and each costs both processes."""


LIFE_SIGN_S = 1.0
"""Where tokens bring no text for so long, their number is sent alone."""
PROMPT_TAIL = 16
"""Tokens in which the template may have opened the reasoning."""


def run(command: protocol.Generate, model: Model, send: Send, stop: StopFlag) -> None:
    """Process the prompt and stream the answer.

    Raises:
        ContextFullError: The prompt is too long.
        TemplateError: The prompt cannot be written.
        SamplingError: The sampling options cannot be used.
        DecodeError: llama.cpp failed.
    """
    started = time.monotonic()
    room = Room(command, model, send, stop)
    last = command.messages[-1] if command.continue_last else None
    thinking = last is not None and last.reasoning_content and not last.content
    opening = "<think>" if thinking else model.detokenize(room.tokens[-PROMPT_TAIL:])
    goes_on = last is not None and bool(last.content)
    parser = PartParser(opening, tools=bool(command.tools), goes_on=goes_on)
    with contextlib.closing(model.make_sampler(command.sampling)) as sampler:
        sampler.read(room.tokens)
        _Turn(command, model, send, stop, parser, room, started).run(sampler)


class _Turn:
    def __init__(
        self,
        command: protocol.Generate,
        model: Model,
        send: Send,
        stop: StopFlag,
        parser: PartParser,
        room: Room,
        started: float,
    ) -> None:
        self._command, self._model, self._send, self._stop = command, model, send, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parser = parser
        self._room = room
        self._answer: list[int] = []
        self._started = started
        self._first: float | None = None
        self._generated = 0
        self._pieces: list[tuple[Piece, int]] = []
        self._unsent = 0
        self._sent_at = 0.0
        self._reused = 0
        self._reasoning_tokens = 0
        self._reasoning_s = 0.0

    def run(self, sampler: Sampler) -> None:
        turn, sequence, tokens = self._command.turn, self._model.sequence, self._room.tokens
        complete, self._reused = self._read(tokens)
        read = len(tokens) if complete else max(self._reused, len(sequence.tokens))
        prefilled = time.monotonic() - self._room.summary_s
        try:
            reason = self._stream(sampler) if complete else "cancelled"
        finally:
            now = time.monotonic()
            self._add(self._parser.feed(self._decoder.decode(b"", True)))
            self._add(self._parser.end())
            self._flush(now, final=True)
        self._send(
            protocol.TurnFinished(
                turn=turn,
                reason=reason,
                prompt_tokens=read,
                reused_tokens=self._reused,
                generated_tokens=self._generated,
                prefill_s=prefilled - self._started,
                first_token_s=None if self._first is None else self._first - self._started,
                generate_s=0.0 if self._first is None else now - self._first,
                context_used=len(sequence.tokens),
                context=sequence.size,
                kept_for_reply=kept_for_reply(sequence.size, self._command.reserve),
                reasoning_tokens=self._reasoning_tokens,
                reasoning_s=self._reasoning_s,
                reasoning_closed=self._parser.closed,
            )
        )

    def _read(self, tokens: list[int]) -> tuple[bool, int]:
        """Prompt processing, told as it advances; whether all was read, and how much was there before."""
        reused = None
        for done in self._model.sequence.prefill(tokens, shorter=self._room.shorter):
            reused = done if reused is None else reused
            self._send(
                protocol.PrefillProgressed(
                    turn=self._command.turn,
                    done=done,
                    total=len(tokens),
                    reused=reused,
                    dropped=self._room.dropped,
                    cut=self._room.cut,
                )
            )
        return self._model.sequence.tokens == tokens, reused or 0

    def _stream(self, sampler: Sampler) -> protocol.EndReason:
        """The answer; where it reaches the end of the context it goes on if older turns may go."""
        reason = self._until_full(sampler)
        while reason == "context" and self._make_room():
            reason = self._until_full(sampler)
        return "cancelled" if reason == "context" and self._stop.is_set() else reason

    def _make_room(self) -> bool:
        self._flush(time.monotonic(), final=True)
        if not self._room.make(self._answer):
            return False
        tokens = self._room.tokens + self._answer
        return len(tokens) < self._model.sequence.size and self._read(tokens)[0]

    def _until_full(self, sampler: Sampler) -> protocol.EndReason:
        limit = self._command.max_tokens
        ends, clock = self._model.end_tokens, time.monotonic
        before = clock()
        for token in self._model.sequence.generate(sampler.sample):
            now = clock()
            if self._first is None:
                self._first = now
            if token in ends:
                return "stop"
            self._generated += 1
            self._answer.append(token)
            self._take(token, now - before)
            before = now
            if now - self._sent_at >= COALESCE_S:
                self._flush(now)
            if limit is not None and self._generated >= limit:
                return "length"
        return "cancelled" if self._stop.is_set() else "context"

    def _take(self, token: int, duration_s: float) -> None:
        parser, kind = self._parser, self._parser.kind
        self._unsent += 1
        text = self._decoder.decode(self._model.piece(token))
        if text:
            self._add(parser.feed(text))
        if PartKind.REASONING in (kind, parser.kind):
            self._reasoning_tokens += 1
            self._reasoning_s += duration_s

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            last, tokens = self._pieces[-1] if self._pieces else (None, 0)
            if last is not None and last.kind is piece.kind and piece.call is last.call is None:
                joined = Piece(piece.kind, last.text + piece.text)
                self._pieces[-1] = (joined, tokens + self._unsent)
            else:
                self._pieces.append((piece, self._unsent))
            self._unsent = 0

    def _flush(self, now: float, *, final: bool = False) -> None:
        if not self._pieces and self._unsent and (final or now - self._sent_at >= LIFE_SIGN_S):
            self._add([Piece(self._parser.kind, "")])
        for piece, tokens in self._pieces:
            self._send(
                protocol.TokensGenerated(
                    turn=self._command.turn,
                    text=piece.text,
                    tokens=tokens,
                    context_used=len(self._model.sequence.tokens),
                    elapsed_s=now - (self._first if self._first is not None else now),
                    part=piece.kind,
                    call=piece.call,
                )
            )
            self._sent_at = now
        self._pieces.clear()
