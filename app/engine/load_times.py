"""How long loads took, so that the next one can say what to expect."""

from __future__ import annotations

import contextlib
from pathlib import Path

from app import jsonfile
from app.engine import protocol

MOST_ENTRIES = 200
MOST_S = 1e6
"""What is said to have taken longer was not written here."""


class LoadTimes:
    """Remembers the last duration of each kind of load, in one small file."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist; a broken file counts as empty."""
        self._path = path

    def expected_s(self, command: protocol.Load) -> float | None:
        """Seconds that the same load took last time; None if there was none."""
        found = jsonfile.read(self._path).get(_key(command))
        if isinstance(found, int | float) and 0 < found < MOST_S:
            return float(found)
        return None

    def put(self, command: protocol.Load, duration_s: float) -> None:
        """Remember a load; a disk that cannot take it costs an estimate, no more."""
        values = jsonfile.read(self._path)
        values.pop(_key(command), None)
        values[_key(command)] = round(duration_s, 3)
        kept = dict(list(values.items())[-MOST_ENTRIES:])
        with contextlib.suppress(OSError):
            jsonfile.write(self._path, kept)


def _key(command: protocol.Load) -> str:
    devices = ",".join(command.devices) or "CPU"
    return f"{command.model_path} on {devices}, {command.load_mode}"
