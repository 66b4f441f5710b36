"""One line that counts while a file is hashed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from app import units
from app.download.model import DownloadFile


@contextlib.contextmanager
def counter(path: Path, file: DownloadFile, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Told the bytes that are done, it says so on a terminal, unless `quiet`; then the line is free."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done: None
        return

    def count(done: int) -> None:
        part = units.format_percent(done / max(1, file.size_bytes))
        print(f"\r{path.name}: {part} ", end="", file=sys.stderr, flush=True)

    try:
        yield count
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
