"""Where model files lie on a machine: this app's folder, and those of other programs."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import constants

MAX_SETTINGS_BYTES = 1024 * 1024


class Origin(enum.StrEnum):
    """Whose folder a model lies in."""

    APP = "app"
    HUGGING_FACE = "hugging face"
    LM_STUDIO = "lm studio"
    OLLAMA = "ollama"
    LLAMA_CPP = "llama.cpp"
    FOLDER = "folder"
    """One that was added by hand."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder to look into; it need not exist."""

    origin: Origin
    folder: Path


def places(
    models: Path,
    *,
    extra: Iterable[Path] = (),
    targets: Iterable[Path] = (),
    home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
) -> tuple[Place, ...]:
    """All places, this app's first, each folder once.

    Args:
        models: This app's folder of models.
        extra: Folders that a person added.
        targets: Folders beside `models` that this app's downloads went to.
        home: The person's home folder, if not the usual one.
        environment: Variables such as `OLLAMA_MODELS`.
        platform: As `sys.platform`.
    """
    home = home or Path.home()
    found = [
        Place(origin=Origin.APP, folder=models),
        *(Place(origin=Origin.APP, folder=folder) for folder in targets),
        *(Place(origin=Origin.FOLDER, folder=Path(folder).expanduser()) for folder in extra),
        Place(origin=Origin.HUGGING_FACE, folder=Path(constants.HF_HUB_CACHE)),
        *(Place(origin=Origin.LM_STUDIO, folder=folder) for folder in _lm_studio(home)),
        *(Place(origin=Origin.OLLAMA, folder=f) for f in _ollama(home, environment, platform)),
        Place(origin=Origin.LLAMA_CPP, folder=_llama_cpp(home, environment, platform)),
    ]
    once = {os.path.normcase(os.path.abspath(place.folder)): place for place in reversed(found)}  # noqa: PTH100
    return tuple(place for place in found if place in once.values())


def _lm_studio(home: Path) -> list[Path]:
    """LM Studio's folders, also one that was chosen in its settings."""
    roots = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    pointer = _text(home / ".lmstudio-home-pointer").strip()
    if pointer:
        roots.insert(0, Path(pointer))
    folders = [root / "models" for root in roots]
    for root in roots:
        try:
            chosen = json.loads(_text(root / "settings.json") or "{}")
        except (ValueError, RecursionError):
            continue
        folder = chosen.get("downloadsFolder") if isinstance(chosen, dict) else None
        if isinstance(folder, str) and folder:
            folders.insert(0, Path(folder))
    return folders


def _text(file: Path) -> str:
    """A small file's text, empty if it cannot be read."""
    try:
        if file.stat().st_size > MAX_SETTINGS_BYTES:
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ollama(home: Path, environment: Mapping[str, str], platform: str) -> list[Path]:
    if environment.get("OLLAMA_MODELS"):
        return [Path(environment["OLLAMA_MODELS"])]
    # As a service on Linux it has a home of its own.
    service = [Path("/usr/share/ollama/.ollama/models")] if platform == "linux" else []
    return [home / ".ollama" / "models", *service]


def _llama_cpp(home: Path, environment: Mapping[str, str], platform: str) -> Path:
    """llama.cpp's `fs_get_cache_directory` (common.cpp)."""
    if environment.get("LLAMA_CACHE"):
        return Path(environment["LLAMA_CACHE"])
    if platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "llama.cpp"
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else home / ".cache") / "llama.cpp"
