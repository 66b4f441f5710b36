"""Turns how a worker failed into what a person can do about it."""

from __future__ import annotations

import re
import signal

from app import units
from app.engine import protocol
from app.engine.shortage import HOST, Refusal, refusal
from app.errors import Action, AppError, ErrorKind

_RPC = re.compile(
    r"Remote RPC server|RPC handshake failed for (?P<shaken>\S+)|Failed to connect to (?P<endpoint>\S+)"
    r"|RPC transport initialization failed"
)
"""ggml-rpc.cpp; the first says not which."""
_NO_ANSWER = re.compile(r"no RPC server answers at (\S+)")


KILLED = "The system ended the engine, since no memory was left."


class ShortOfMemoryError(AppError):
    """An allocation failed; `refusal` has what llama.cpp said of it."""

    def __init__(self, refusal: Refusal) -> None:
        """In llama.cpp's names; who knows the plan says it better."""
        self.refusal = refusal
        card = re.fullmatch(r"(?:CUDA|ROCm|MUSA|Vulkan|SYCL|MTL)(\d+)", refusal.device)
        place = f"on {f'GPU {card[1]}' if card else refusal.device}" if refusal.device else ""
        if refusal.device == HOST:
            place = "in main memory"
        size = units.format_memory(refusal.size_bytes) if refusal.size_bytes else "Memory"
        what = f" for the {refusal.part}" if refusal.part else ""
        super().__init__(
            f"There was not enough memory{' ' if place else ''}{place}.",
            detail=KILLED if refusal.killed else f"{size}{what} could not be allocated.",
            hint="Choose a shorter context or a smaller KV cache type, or move layers to another device.",
            action=Action.OPEN_SPLIT,
            kind=ErrorKind.MEMORY,
        )


class ServerLostError(AppError):
    """An RPC server is gone; `endpoint` is empty where llama.cpp does not say which."""

    def __init__(self, endpoint: str = "") -> None:
        """Name it."""
        self.endpoint = endpoint
        place = f" at {endpoint}" if endpoint else ""
        super().__init__(
            f"The connection to an RPC server{place} was lost.",
            hint="Start the server again and reload, or switch its device off in the GPU split.",
            action=Action.RELOAD,
            kind=ErrorKind.HARDWARE,
        )


class QuestionTooLongError(AppError):
    """A question that does not fit even if all turns before it are left out."""

    def __init__(self, tokens: str) -> None:
        """`tokens` says how many there are, and how many fit."""
        super().__init__(
            f"The question does not fit into the context ({tokens}).",
            hint="Shorten it or the system prompt, keep less for the reply, or enlarge the context.",
            action=Action.OPEN_SPLIT,
            kind=ErrorKind.USAGE,
        )


def load_failed(failed: protocol.Failed, model_path: str) -> AppError:
    """Why a load failed that the worker survived."""
    name = _name(model_path)
    match failed.reason:
        case "memory":
            return short_of_memory(failed.detail)
        case "architecture":
            found = re.search(r"unknown model architecture: '([^']*)'", failed.detail)
            kind = f" “{found[1]}”" if found else ""
            return AppError(
                f"This engine does not know the architecture{kind} of {name}.",
                hint="Choose another model, or update the engine.",
                action=Action.CHOOSE_MODEL,
                kind=ErrorKind.MODEL_FILE,
            )
        case "device" if found := _NO_ANSWER.search(failed.detail):
            return ServerLostError(found[1])
        case "split":
            return AppError(
                f"llama.cpp cannot split the tensors of {name}.",
                detail=failed.detail,
                hint="Choose a split by layers in the GPU split.",
                action=Action.OPEN_SPLIT,
                kind=ErrorKind.USAGE,
            )
        case "device":
            return AppError(
                f"A device of the plan is gone: {failed.detail}.",
                hint="Start it again, or switch it off in the GPU split.",
                action=Action.OPEN_SPLIT,
                kind=ErrorKind.HARDWARE,
            )
        case _:
            return AppError(
                f"{name} could not be loaded.",
                detail=failed.detail,
                hint="Check the file, or choose another one.",
                action=Action.CHOOSE_MODEL,
                kind=ErrorKind.MODEL_FILE,
            )


def short_of_memory(text: str) -> ShortOfMemoryError:
    """Memory was lacking; `text` is what llama.cpp said."""
    return ShortOfMemoryError(refusal(text) or Refusal())


def snapshot_failed(detail: str) -> AppError:
    """Why a KV cache was not saved or restored."""
    return AppError(
        "The chat's KV cache could not be saved or restored.",
        detail=_sentence(detail),
        hint="The chat itself is safe; its next answer takes longer to begin.",
        kind=ErrorKind.DISK,
    )


def file_changed(model_path: str, detail: str = "") -> AppError:
    """The model's files are no longer what was loaded."""
    return AppError(
        f"{_name(model_path)} was changed or cut off while it was loaded.",
        detail=detail,
        hint="Check the file, then reload; nothing of the chat is lost.",
        action=Action.RELOAD,
        kind=ErrorKind.MODEL_FILE,
    )


def _name(model_path: str) -> str:
    return model_path.replace("\\", "/").rsplit("/", 1)[-1]


def turn_failed(failed: protocol.Failed) -> AppError:
    """Why an answer failed that the worker survived."""
    if failed.reason == "context":
        return AppError(
            f"The conversation no longer fits into the context ({failed.detail}).",
            hint="Leave out or summarise the oldest turns, enlarge the context, or start a new chat.",
            action=Action.OPEN_SPLIT,
            kind=ErrorKind.USAGE,
        )
    if failed.reason == "question":
        return QuestionTooLongError(failed.detail)
    if failed.reason == "memory":
        return short_of_memory(failed.detail)
    if failed.reason == "template":
        return AppError(
            "The model's chat template cannot be used.",
            detail=_sentence(failed.detail),
            hint="Choose another file of this model.",
            action=Action.CHOOSE_MODEL,
            kind=ErrorKind.MODEL_FILE,
        )
    if failed.reason == "sampling":
        return AppError(
            "The sampling options cannot be used.",
            detail=_sentence(failed.detail),
            hint="Correct the grammar or the JSON schema, or leave them out.",
            action=Action.OPEN_SETTINGS,
            kind=ErrorKind.SETTINGS,
        )
    return AppError(
        "The engine could not answer.",
        detail=_sentence(failed.detail),
        hint="Reload the model and ask again.",
        action=Action.RELOAD,
        kind=ErrorKind.ENGINE,
    )


def crashed(returncode: int | None, stderr: str, command: protocol.Load | None = None) -> AppError:
    """Why the worker process ended; `stderr` is its end, `command` what it loaded."""
    # It aborts with these words, so that they are its last; memory may have been short earlier.
    if match := _RPC.search(stderr):
        return ServerLostError(match["endpoint"] or match["shaken"] or "")
    if found := refusal(stderr):
        return ShortOfMemoryError(found)
    assertion = re.search(r"GGML_ASSERT\([^\n]*", stderr)
    detail = f"{_how(returncode)}{' ' + assertion[0] if assertion else ''}"
    if command is not None and command.split_mode == "tensor":
        return AppError(
            "The engine stopped while tensors were split over devices, which is experimental.",
            detail=detail,
            hint="Choose a split by layers in the GPU split, then reload; nothing of the chat is lost.",
            action=Action.OPEN_SPLIT,
            kind=ErrorKind.ENGINE,
        )
    hint = "Reload to go on; nothing of the chat is lost."
    if returncode == -signal.SIGILL:
        hint = "The engine was built for another processor: run `make engine`."
    return AppError(
        "The engine stopped unexpectedly.",
        detail=detail,
        hint=hint,
        action=Action.RELOAD,
        kind=ErrorKind.ENGINE,
    )


def interrupted() -> AppError:
    """A person unloaded the model, or loaded one again, in the middle of an answer."""
    return AppError(
        "The answer was cut off, since the engine was stopped or loaded again.",
        hint="Continue it, or ask again; nothing of the chat is lost.",
        kind=ErrorKind.USAGE,
    )


def starved() -> ShortOfMemoryError:
    """The system killed the worker for lack of memory."""
    return ShortOfMemoryError(Refusal(device=HOST, killed=True))


def given_up() -> AppError:
    """A person ended an engine of which nothing was heard."""
    return AppError(
        "The engine was stopped, since nothing was heard of it.",
        hint="Reload to go on; nothing of the chat is lost.",
        action=Action.RELOAD,
        kind=ErrorKind.ENGINE,
    )


def _sentence(detail: str) -> str:
    return f"{detail[:1].upper()}{detail[1:].rstrip('.')}."


def _how(returncode: int | None) -> str:
    if returncode is None:
        return "It did not answer."
    if returncode >= 0:
        return f"It ended with exit code {returncode}."
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    killed = ": something killed it" if name == "SIGKILL" else ""
    return f"It was ended by {name}{killed}."
