"""Logging: one rotating file, one logger name per package."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from app import paths

MAX_BYTES = 2_000_000
_ours: list[logging.Handler] = []


def path() -> Path:
    """The log file."""
    return paths.folders().logs / "ultra-launcher.log"


def configure() -> None:
    """Send records to the log file; to stderr where its folder cannot be written.

    A record that cannot be written later (a full disk, a folder that went) is lost without a word:
    a traceback in the midst of a chat in the terminal would not bring it back.
    """
    close()
    logging.raiseExceptions = False
    handler: logging.Handler
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path(),
            maxBytes=MAX_BYTES,
            backupCount=2,
            encoding="utf-8",
            delay=True,
        )
    except OSError:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    _ours.append(handler)


def close() -> None:
    """Close the log that `configure` opened."""
    while _ours:
        handler = _ours.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()
