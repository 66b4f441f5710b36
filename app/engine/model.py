"""States and events of the engine, as the app sees them."""

from __future__ import annotations

import dataclasses
import enum

from app.engine import protocol
from app.errors import AppError


class EngineState(enum.StrEnum):
    """Where the engine is. CRASHED keeps until the next load."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    PREFILL = "prefill"
    GENERATING = "generating"
    STOPPING = "stopping"
    CRASHED = "crashed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineStateChanged:
    """Event: the engine's state, or the progress within it, changed.

    Attributes:
        stage: While LOADING: `reading`, `allocating` or `warming_up`.
        fraction: While LOADING: 0 to 1, or None if unknown.
        progress: While LOADING: the bytes behind it, once reading began.
        elapsed_s: While STARTING and LOADING: since the load began.
        expected_s: While STARTING and LOADING: what the same load took last time, None if there was none.
        silent_s: Where something runs: how long nothing was heard of it, once that is long; None
            while it moves. Nothing is ended for that: the person is asked.
        computing: With `silent_s`: True if the process uses the processor all the same.
        model_path: The model in question, once there is one.
        error: Why, in CRASHED, or in STOPPED after a load that failed.
    """

    state: EngineState
    stage: str = ""
    fraction: float | None = None
    progress: protocol.LoadProgressed | None = None
    elapsed_s: float = 0.0
    expected_s: float | None = None
    silent_s: float | None = None
    computing: bool = False
    model_path: str | None = None
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoaded:
    """Event: a model is ready; what it really takes, per device."""

    model_path: str
    loaded: protocol.Loaded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SafetyApplied:
    """Event: the worker died in its self-test, and a safer setting works; `sentence` says which."""

    setting: str
    sentence: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnProgressed:
    """Event: prompt processing or a summary advanced, or text arrived."""

    message: protocol.PrefillProgressed | protocol.SummaryProgressed | protocol.TokensGenerated


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """Event: a turn ended well (`finished`), or failed (`error`, partial text stays valid).

    `context_full` says that it failed for that reason, before anything was answered; then the
    prompt has so many `tokens`.
    """

    turn: int
    finished: protocol.TurnFinished | None = None
    error: AppError | None = None
    context_full: bool = False
    tokens: int = 0


EngineEvent = EngineStateChanged | ModelLoaded | SafetyApplied | TurnProgressed | TurnEnded
