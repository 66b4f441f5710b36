"""The settings file: written atomically, unknown keys kept, a bad value reset alone.

What cannot be used is told, and kept in a copy beside the file, before anything is written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pydantic

from app import jsonfile
from app.engine.protocol import Sampling
from app.errors import AppError, ErrorKind
from app.settings.model import Settings

_Key = str | int


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
                content = self._path.read_bytes()
            except FileNotFoundError:
                return Settings(), ()
            except OSError as error:
                return Settings(), (f"The settings could not be read: {error.strerror}.",)
            try:
                values = _object(content)
            except ValueError:
                told = self._keep_copy(content)
                return Settings(), (f"The settings file is damaged; defaults are in use.{told}",)
            notices: list[str] = []
            while True:
                try:
                    settings = Settings.model_validate(values)
                except pydantic.ValidationError as error:
                    notices.append(_drop(values, error.errors()[0]["loc"]))
                else:
                    if notices:
                        notices[-1] += self._keep_copy(content)
                    return settings, tuple(notices)

    def save(self, settings: Settings) -> None:
        """Write all settings.

        Raises:
            AppError: The folder or the disk cannot take them; the old file is intact.
        """
        with self._lock:
            try:
                values = self._unknown() | settings.model_dump(mode="json")
                jsonfile.write(self._path, values)
            except OSError as error:
                raise AppError(
                    f"The settings could not be saved to {self._path}.",
                    detail=f"{error.strerror or error}.",
                    hint="Free some space there or change its permissions; they hold until you close.",
                    kind=ErrorKind.SETTINGS,
                ) from error

    def _unknown(self) -> dict[str, Any]:
        """Keys of a newer version, which must survive.

        Raises:
            OSError: The file is there and cannot be read, so it must not be replaced.
        """
        with contextlib.suppress(FileNotFoundError, ValueError):
            return _object(self._path.read_bytes())
        return {}

    def _keep_copy(self, content: bytes) -> str:
        """Keep the file as it is now, once; says where."""
        for count in itertools.count(1):
            name = f"{self._path.name}.broken" + (f"-{count}" if count > 1 else "")
            kept = self._path.with_name(name)
            try:
                if kept.exists() and kept.read_bytes() != content:
                    continue
                kept.write_bytes(content)
            except OSError:
                return ""
            return f" The file as it was is kept as {name}."
        return ""


def _object(content: bytes) -> dict[str, Any]:
    """A JSON file's content.

    Raises:
        ValueError: It is none, or no object.
    """
    try:
        values = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not an object")  # noqa: TRY004 - handled as damage
    sampling = values.get("sampling")
    if isinstance(sampling, dict) and len(sampling) == len(Sampling.model_fields):
        # Earlier versions stored every option; those that are not the defaults were set.
        plain = Sampling().model_dump(mode="json")
        values["sampling"] = {n: v for n, v in sampling.items() if v != plain.get(n)}
    return values


def _drop(values: dict[str, Any], place: tuple[_Key, ...]) -> str:
    """Remove what is not valid, with as little around it as possible; says what it was."""
    name = str(place[0])
    field = Settings.model_fields[name]
    title = field.title or name
    inner = values[name]
    key = place[1] if len(place) > 1 else None
    held = isinstance(inner, dict) and key in inner
    held = held or (isinstance(inner, list) and isinstance(key, int) and key < len(inner))
    if not held or key is None:
        del values[name]
        return f"The setting “{title}” was not valid and is back to its default."
    removed = inner.pop(key)
    option = Sampling.model_fields.get(str(key)) if name == "sampling" else None
    if name == "sampling":
        title = (option.title if option else None) or str(key)
        return f"The setting “{title}” was not valid and is back to its default."
    what = removed if isinstance(inner, list) else key
    return f"In the setting “{title}”, {what} was not valid and was left out."
