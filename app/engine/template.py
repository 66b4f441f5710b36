"""Renders a model's own chat template in Jinja's immutable sandbox, within limits of time and size.

Templates come with downloaded files, so they are hostile until proven otherwise (CVE-2024-34359).
"""

from __future__ import annotations

import datetime
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import jinja2
import jinja2.sandbox
from pydantic import JsonValue

from app.engine.protocol import ChatMessage

MAX_OUTPUT = 16_000_000
MAX_TEMPLATE = 1_000_000
TIME_LIMIT_S = 5.0
MOST_WORDS = 500
"""Characters of what a template says of its own failure."""

_OPEN, _CLOSE = "<think>", "</think>"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What most models without a template understand."""


class TemplateError(Exception):
    """The template cannot be rendered; the message says why."""


class _TimeLimitError(BaseException):
    """Raised by the alarm; no template can catch it."""


def render(
    source: str,
    messages: tuple[ChatMessage, ...],
    *,
    bos: str = "",
    eos: str = "",
    tools: tuple[dict[str, JsonValue], ...] = (),
    continue_last: bool = False,
) -> str:
    """The prompt for `messages`; with `continue_last` the last one is left open to go on.

    A template that rejects a system message gets it as the beginning of the first user message.

    Raises:
        TemplateError: The template is broken, forbidden things, or exceeds a limit.
    """
    if len(source) > MAX_TEMPLATE:
        raise TemplateError("the chat template is larger than 1 MB")
    shown = messages[:-1] if continue_last else messages
    values: dict[str, object] = {"bos_token": bos, "eos_token": eos, "tools": list(tools) or None}
    try:
        text = _render(source or CHATML, shown, values)
    except TemplateError:
        if not shown or shown[0].role != "system":
            raise
        text = _render(source or CHATML, _without_system(shown), values)
    return text + _partial(messages[-1], text) if continue_last else text


def _partial(message: ChatMessage, prompt: str) -> str:
    """An answer to go on with, its reasoning around which the template may have begun already."""
    if not message.reasoning_content:
        return message.content
    opened = "" if prompt.rstrip().endswith(_OPEN) else _OPEN
    closed = f"{_CLOSE}\n\n{message.content}" if message.content else ""
    return f"{opened}{message.reasoning_content}{closed}"


def _as_value(message: ChatMessage) -> dict[str, object]:
    """As templates know messages: without what is empty, tool calls as OpenAI's interface has them."""
    value: dict[str, object] = {"role": message.role, "content": message.content}
    if message.reasoning_content:
        value["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        calls = [call.model_dump() for call in message.tool_calls]
        value["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return value


def _without_system(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    system, *rest = messages
    if not rest or rest[0].role != "user":
        return tuple(rest)
    first = ChatMessage(role="user", content=f"{system.content}\n\n{rest[0].content}")
    return (first, *rest[1:])


def _render(source: str, messages: tuple[ChatMessage, ...], values: dict[str, object]) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: (
        datetime.datetime.now().astimezone().strftime(form)
    )
    pieces: list[str] = []
    size = 0
    try:
        with _time_limit():
            stream = environment.from_string(source).generate(
                messages=[_as_value(message) for message in messages],
                add_generation_prompt=True,
                **values,
            )
            for piece in stream:
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise TemplateError("the chat template writes without end")
                pieces.append(piece)
    except TemplateError:
        raise
    except _TimeLimitError:
        raise TemplateError(f"the chat template took longer than {TIME_LIMIT_S:.0f} s") from None
    except MemoryError:
        raise TemplateError("the chat template needs more memory than there is") from None
    except Exception as error:
        raise TemplateError(f"the chat template failed: {str(error)[:MOST_WORDS]}") from error
    return "".join(pieces)


def _raise(message: str) -> NoReturn:
    raise TemplateError(str(message)[:MOST_WORDS])


@contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt the block after `TIME_LIMIT_S`, where the system has alarms."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _TimeLimitError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
