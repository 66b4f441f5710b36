"""What reaches the supervisor's thread besides commands for the worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from app.engine import protocol
from app.engine.process import WorkerProcess
from app.errors import AppError

SnapshotListener = Callable[[protocol.SnapshotDone | AppError], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Close:
    """End the process and the thread."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unload:
    """End the process."""


@dataclasses.dataclass(frozen=True, slots=True)
class IdleLimit:
    """Unload by itself after this many seconds without use."""

    after_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Send the command, and tell `done` of its end."""

    command: protocol.Snapshot
    done: SnapshotListener


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """The process `child` closed its output."""

    child: WorkerProcess


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """The process `child` sent a line."""

    child: WorkerProcess
    line: str


Item = protocol.Command | Unload | IdleLimit | TakeSnapshot | Ended | Said
