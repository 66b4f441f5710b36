"""Logging: one rotating file, one logger name per package."""

from __future__ import annotations

import logging
import logging.handlers

from app import paths

MAX_BYTES = 2_000_000


def configure(*, verbose: bool = False) -> None:
    """Send records to the log file, and to stderr too where `verbose`.

    A folder that cannot be written is no reason to fail: then there is no file.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        folder = paths.folders().logs
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.handlers.RotatingFileHandler(
            folder / "ultra-launcher.log",
            maxBytes=MAX_BYTES,
            backupCount=2,
            encoding="utf-8",
            delay=True,
        )
        file.setFormatter(formatter)
        root.addHandler(file)
    except OSError:
        verbose = True
    if verbose:
        stream = logging.StreamHandler()
        stream.setFormatter(formatter)
        root.addHandler(stream)
