"""One turn: prompt processing, then tokens until an end. Only the worker imports this."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import time
from collections.abc import Callable

from app.engine import protocol
from app.engine.llama import Model
from app.engine.overflow import KEEP, turns_to_drop, without
from app.engine.parts import PartParser, Piece
from app.engine.protocol import PartKind
from app.engine.sampler import Sampler
from app.engine.stop import StopFlag

Send = Callable[[protocol.Message], None]
COALESCE_S = 1 / 30
"""Time between two messages with text: a screen shows no more, and each costs both processes."""


LIFE_SIGN_S = 1.0
"""Where tokens bring no text for so long, their number is sent alone."""
PROMPT_TAIL = 16
"""Tokens in which the template may have opened the reasoning."""


class ContextFullError(Exception):
    """The prompt leaves no room for an answer; the message gives its tokens and the context's."""


def run(command: protocol.Generate, model: Model, send: Send, stop: StopFlag) -> None:
    """Process the prompt and stream the answer.

    Raises:
        ContextFullError: The prompt is too long.
        TemplateError: The prompt cannot be written.
        SamplingError: The sampling options cannot be used.
        DecodeError: llama.cpp failed.
    """
    started = time.monotonic()
    prompt = _fit(command, model)
    last = command.messages[-1] if command.messages else None
    thinking = command.continue_last and last and last.reasoning_content and not last.content
    opening = "<think>" if thinking else model.detokenize(prompt.tokens[-PROMPT_TAIL:])
    parser = PartParser(opening, tools=bool(command.tools))
    with contextlib.closing(model.make_sampler(command.sampling)) as sampler:
        sampler.read(prompt.tokens)
        _Turn(command, model, send, stop, parser, started).run(prompt, sampler)


@dataclasses.dataclass(frozen=True, slots=True)
class _Prompt:
    """Tokens, the indexes of messages that were left out, and how many tokens shorter that made it."""

    tokens: list[int]
    dropped: tuple[int, ...] = ()
    shorter: int = 0


def _fit(command: protocol.Generate, model: Model) -> _Prompt:
    """The prompt, shortened where it must be and may be."""

    def tokens_without(dropped: tuple[int, ...]) -> list[int]:
        messages = without(command.messages, dropped)
        return model.prompt(messages, tools=command.tools, continue_last=command.continue_last)

    size = model.sequence.size
    tokens = whole = tokens_without(())
    room = size - max(1, min(command.reserve, size // 2))
    dropped: tuple[int, ...] = ()
    if len(tokens) > room and command.overflow == "drop_oldest":
        for turn in turns_to_drop(command.messages):
            dropped += turn
            tokens = tokens_without(dropped)
            if len(tokens) <= KEEP * room:
                break
    if len(tokens) >= size:
        raise ContextFullError(f"{len(tokens)} of {size}")
    return _Prompt(tokens, dropped, len(whole) - len(tokens))


class _Turn:
    def __init__(
        self,
        command: protocol.Generate,
        model: Model,
        send: Send,
        stop: StopFlag,
        parser: PartParser,
        started: float,
    ) -> None:
        self._command, self._model, self._send, self._stop = command, model, send, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parser = parser
        self._started = started
        self._first: float | None = None
        self._generated = 0
        self._pieces: list[tuple[Piece, int]] = []
        self._unsent = 0
        self._sent_at = 0.0
        self._reused = 0
        self._reasoning_tokens = 0
        self._reasoning_s = 0.0

    def run(self, prompt: _Prompt, sampler: Sampler) -> None:
        turn, sequence, tokens = self._command.turn, self._model.sequence, prompt.tokens
        for index, done in enumerate(sequence.prefill(tokens, shorter=prompt.shorter)):
            if index == 0:
                self._reused = done
            self._send(
                protocol.PrefillProgressed(
                    turn=turn,
                    done=done,
                    total=len(tokens),
                    reused=self._reused,
                    dropped=prompt.dropped,
                )
            )
        prefilled = time.monotonic()
        complete = sequence.tokens == tokens
        reason = self._stream(sampler) if complete else "cancelled"
        now = time.monotonic()
        self._add(self._parser.feed(self._decoder.decode(b"", True)))
        self._add(self._parser.end())
        self._flush(now, final=True)
        self._send(
            protocol.TurnFinished(
                turn=turn,
                reason=reason,
                prompt_tokens=len(tokens),
                reused_tokens=self._reused,
                generated_tokens=self._generated,
                prefill_s=prefilled - self._started,
                first_token_s=None if self._first is None else self._first - self._started,
                generate_s=0.0 if self._first is None else now - self._first,
                context_used=len(sequence.tokens),
                context=sequence.size,
                reasoning_tokens=self._reasoning_tokens,
                reasoning_s=self._reasoning_s,
                reasoning_closed=self._parser.closed,
            )
        )

    def _stream(self, sampler: Sampler) -> protocol.EndReason:
        limit = self._command.max_tokens
        ends, clock = self._model.end_tokens, time.monotonic
        before = clock()
        for token in self._model.sequence.generate(sampler.chain):
            now = clock()
            if self._first is None:
                self._first = now
            if token in ends:
                return "stop"
            self._generated += 1
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
