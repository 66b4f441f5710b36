"""How long loads took, so that the next one can say what to expect."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from app.engine import protocol

MOST_ENTRIES = 200


class LoadTimes:
    """Remembers the last duration of each kind of load, in one small file."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist; a broken file counts as empty."""
        self._path = path

    def expected_s(self, command: protocol.Load) -> float | None:
        """Seconds that the same load took last time; None if there was none."""
        found = self._read().get(_key(command))
        return float(found) if isinstance(found, int | float) else None

    def put(self, command: protocol.Load, duration_s: float) -> None:
        """Remember a load; a disk that cannot take it costs an estimate, no more."""
        values = self._read()
        values.pop(_key(command), None)
        values[_key(command)] = round(duration_s, 3)
        kept = dict(list(values.items())[-MOST_ENTRIES:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            Path(name).replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def _key(command: protocol.Load) -> str:
    devices = ",".join(command.devices) or "CPU"
    return f"{command.model_path} on {devices}, {command.load_mode}"
