"""The folders of the app. `ULTRA_LAUNCHER_HOME` moves every one of them at once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import platformdirs

APP_NAME = "ultra-launcher"
HOME_VARIABLE = "ULTRA_LAUNCHER_HOME"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where the app keeps things; nothing is created until something is written.

    Attributes:
        config: The settings file.
        data: Chats and what was learned about this machine.
        models: Model files.
        cache: What can be made again.
        logs: Log files.
    """

    config: Path
    data: Path
    models: Path
    cache: Path
    logs: Path


def folders() -> Folders:
    """The app's folders: below `ULTRA_LAUNCHER_HOME` where that is set, else the platform's own."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        root = Path(home).expanduser().absolute()
        return Folders(
            config=root / "config",
            data=root / "data",
            models=root / "models",
            cache=root / "cache",
            logs=root / "logs",
        )
    platform = platformdirs.PlatformDirs(APP_NAME, appauthor=False)
    data = Path(platform.user_data_dir)
    return Folders(
        config=Path(platform.user_config_dir),
        data=data,
        models=data / "models",
        cache=Path(platform.user_cache_dir),
        logs=Path(platform.user_log_dir),
    )


def resources() -> Path:
    """The folder of bundled data (icons, fonts, tables), beside the package `app`."""
    return Path(__file__).resolve().parent.parent / "resources"
