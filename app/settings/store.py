"""The settings file: written atomically, unknown keys kept, a bad value reset alone."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pydantic

from app.errors import AppError, ErrorKind
from app.settings.model import Settings


class SettingsStore:
    """Reads and writes one file; thread-safe."""

    def __init__(self, path: Path) -> None:
        """`path` need not exist."""
        self._path = path
        self._lock = threading.Lock()

    def load(self) -> tuple[Settings, tuple[str, ...]]:
        """The settings, and a sentence for everything that had to be reset."""
        with self._lock:
            try:
                values = json.loads(self._path.read_text(encoding="utf-8"))
                if not isinstance(values, dict):
                    raise ValueError("not an object")  # noqa: TRY004 - handled as damage
            except FileNotFoundError:
                return Settings(), ()
            except OSError as error:
                return Settings(), (f"The settings could not be read: {error.strerror}.",)
            except ValueError:
                return Settings(), (self._set_aside(),)
        notices: list[str] = []
        while True:
            try:
                return Settings.model_validate(values), tuple(notices)
            except pydantic.ValidationError as error:
                name = str(error.errors()[0]["loc"][0])
                del values[name]
                title = Settings.model_fields[name].title or name
                notices.append(f"The setting “{title}” was not valid and is back to its default.")

    def save(self, settings: Settings) -> None:
        """Write all settings.

        Raises:
            AppError: The folder or the disk cannot take them; the old file is intact.
        """
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                merged = self._unknown() | settings.model_dump(mode="json")
                handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".settings-")
                try:
                    with os.fdopen(handle, "w", encoding="utf-8") as file:
                        json.dump(merged, file, indent=1)
                        file.flush()
                        os.fsync(file.fileno())
                    Path(name).replace(self._path)
                finally:
                    Path(name).unlink(missing_ok=True)
            except OSError as error:
                raise AppError(
                    f"The settings could not be saved to {self._path}.",
                    detail=f"{error.strerror or error}.",
                    hint="Free some space there or change its permissions; they hold until you close.",
                    kind=ErrorKind.SETTINGS,
                ) from error

    def _unknown(self) -> dict[str, Any]:
        """Keys of a newer version, which must survive."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _set_aside(self) -> str:
        kept = self._path.with_name(f"{self._path.name}.broken")
        try:
            self._path.replace(kept)
        except OSError:
            return "The settings file is damaged; defaults are in use."
        return f"The settings file was damaged; it was kept as {kept.name}, defaults are in use."
