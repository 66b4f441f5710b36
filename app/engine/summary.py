"""Lets the model itself summarise the beginning of a conversation. Only the worker imports this."""

from __future__ import annotations

import codecs
import contextlib
import time
from collections.abc import Callable

from pydantic import JsonValue

from app.engine.llama import Model, TemplateError
from app.engine.overflow import SUMMARY_QUESTION
from app.engine.parts import PartParser
from app.engine.protocol import ChatMessage, PartKind, Sampling
from app.engine.sequence import DecodeError
from app.engine.stop import StopFlag

Progress = Callable[[int, int, int], None]
"""Told of tokens read, tokens to read, and tokens written."""
SHORTEST = 16
"""Fewer tokens say nothing worth keeping."""
MOST_REASONING = 1024
"""A model that thinks for longer about a summary costs more time than it is worth."""
REPORT_S = 0.2
PROMPT_TAIL = 16
"""Tokens in which the template may have opened the reasoning."""


def summarise(
    model: Model,
    messages: tuple[ChatMessage, ...],
    tools: tuple[dict[str, JsonValue], ...],
    limit: int,
    progress: Progress,
    stop: StopFlag,
) -> str:
    """A summary of `messages` in at most `limit` tokens, reasoning not counted.

    Empty if there is no room to write one, if the engine could not, or after a stop. The prompt
    begins as the conversation does, so that what is cached of it is used.
    """
    question = ChatMessage(role="user", content=SUMMARY_QUESTION)
    try:
        tokens = model.prompt((*messages, question), tools=tools)
        if limit < SHORTEST or len(tokens) + SHORTEST > model.sequence.size:
            return ""
        for done in model.sequence.prefill(tokens):
            progress(done, len(tokens), 0)
        if model.sequence.tokens != tokens:
            return ""
        written, whole = _write(model, tokens, limit, progress)
    except (DecodeError, TemplateError):
        return ""
    return "" if stop.is_set() else _sentences(written, whole=whole)


def _write(model: Model, prompt: list[int], limit: int, progress: Progress) -> tuple[str, bool]:
    """What the model says, and whether it came to its end."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    parser = PartParser(model.detokenize(prompt[-PROMPT_TAIL:]))
    said: list[str] = []
    written = counted = 0
    told_at, whole = time.monotonic(), False
    with contextlib.closing(model.make_sampler(Sampling(temperature=0))) as sampler:
        sampler.read(prompt)
        for token in model.sequence.generate(sampler.sample):
            if token in model.end_tokens:
                whole = True
                break
            written += 1
            counted += parser.kind is PartKind.TEXT
            pieces = parser.feed(decoder.decode(model.piece(token)))
            said += [piece.text for piece in pieces if piece.kind is PartKind.TEXT]
            if counted >= limit or written - counted > MOST_REASONING:
                break
            if time.monotonic() - told_at >= REPORT_S:
                told_at = time.monotonic()
                progress(len(prompt), len(prompt), written)
    said += [piece.text for piece in parser.end() if piece.kind is PartKind.TEXT]
    return "".join(said), whole


def _sentences(text: str, *, whole: bool) -> str:
    """The text; where it was cut off, up to the end of a sentence if there is one."""
    text = text.strip()
    if whole:
        return text
    end = max(text.rfind(mark) for mark in (". ", ".\n", "! ", "? ", "。", "\n"))
    return text[: end + 1].strip() if end > len(text) // 2 else text
