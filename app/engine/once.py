"""One load in a worker of its own, waited for: a self-test, or a dry run."""

from __future__ import annotations

import queue
from pathlib import Path

from app.engine import protocol
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, ModelLoaded
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, ErrorKind


def load_once(command: protocol.Load, data: Path) -> protocol.Loaded:
    """What the worker says once the model is loaded; it is unloaded again.

    Args:
        command: With `dry_run`, nothing is allocated, and a model larger than the machine will do.
        data: The folder in which safer settings are remembered.

    Raises:
        AppError: The load failed.
    """
    ended: queue.Queue[ModelLoaded | AppError] = queue.Queue()

    def listen(event: EngineEvent) -> None:
        if isinstance(event, ModelLoaded):
            ended.put(event)
        elif isinstance(event, EngineStateChanged):
            stopped = event.state in (EngineState.STOPPED, EngineState.CRASHED)
            if stopped and event.error is not None:
                ended.put(event.error)
            elif stopped:
                ended.put(
                    AppError("The engine ended before it said anything.", kind=ErrorKind.ENGINE)
                )

    supervisor = EngineSupervisor(listen, store=SafetyStore(data / "safety.json", engine_version()))
    try:
        supervisor.load(command)
        outcome = ended.get()
    finally:
        supervisor.close()
    if isinstance(outcome, AppError):
        raise outcome
    return outcome.loaded
