"""One turn: prompt processing, then tokens until an end. Only the worker imports this."""

from __future__ import annotations

import codecs
import contextlib
import time
from collections.abc import Callable

from app.engine import protocol
from app.engine.llama import Model
from app.engine.sampler import Sampler
from app.engine.stop import StopFlag

Send = Callable[[protocol.Message], None]
COALESCE_S = 1 / 30
"""Time between two messages with text: a screen shows no more, and each costs both processes."""


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
    tokens = model.prompt(command.messages, continue_last=command.continue_last)
    if len(tokens) >= model.sequence.size:
        raise ContextFullError(f"{len(tokens)} of {model.sequence.size}")
    with contextlib.closing(model.make_sampler(command.sampling)) as sampler:
        sampler.read(tokens)
        _Turn(command, model, send, stop, started).run(tokens, sampler)


class _Turn:
    def __init__(
        self,
        command: protocol.Generate,
        model: Model,
        send: Send,
        stop: StopFlag,
        started: float,
    ) -> None:
        self._command, self._model, self._send, self._stop = command, model, send, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._started = started
        self._first: float | None = None
        self._generated = 0
        self._pending: list[bytes] = []
        self._unsent = 0
        self._reused = 0

    def run(self, tokens: list[int], sampler: Sampler) -> None:
        turn, sequence = self._command.turn, self._model.sequence
        for index, done in enumerate(sequence.prefill(tokens)):
            if index == 0:
                self._reused = done
            self._send(
                protocol.PrefillProgressed(
                    turn=turn, done=done, total=len(tokens), reused=self._reused
                )
            )
        prefilled = time.monotonic()
        complete = sequence.tokens == tokens
        reason = self._stream(sampler) if complete else "cancelled"
        now = time.monotonic()
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
            )
        )

    def _stream(self, sampler: Sampler) -> protocol.EndReason:
        limit = self._command.max_tokens
        ends, piece, clock = self._model.end_tokens, self._model.piece, time.monotonic
        sent_at = 0.0
        for token in self._model.sequence.generate(sampler.chain):
            now = clock()
            if self._first is None:
                self._first = now
            if token in ends:
                return "stop"
            self._generated += 1
            self._pending.append(piece(token))
            if now - sent_at >= COALESCE_S:
                self._flush(now)
                sent_at = now
            if limit is not None and self._generated >= limit:
                return "length"
        return "cancelled" if self._stop.is_set() else "context"

    def _flush(self, now: float, *, final: bool = False) -> None:
        text = self._decoder.decode(b"".join(self._pending), final)
        self._unsent += len(self._pending)
        self._pending.clear()
        if not text:
            return
        self._send(
            protocol.TokensGenerated(
                turn=self._command.turn,
                text=text,
                tokens=self._unsent,
                context_used=len(self._model.sequence.tokens),
                elapsed_s=now - (self._first if self._first is not None else now),
            )
        )
        self._unsent = 0
