"""One line that counts while a file is hashed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from app import units
from app.download.model import DownloadFile


def counter(path: Path, file: DownloadFile, *, quiet: bool) -> Callable[[int], None]:
    """Told the bytes that are done, it says so on a terminal, unless `quiet`."""
    if quiet or not sys.stderr.isatty():
        return lambda _done: None

    def count(done: int) -> None:
        part = units.format_percent(done / max(1, file.size_bytes))
        print(f"\r{path.name}: {part} ", end="", file=sys.stderr, flush=True)

    return count
