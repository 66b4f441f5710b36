"""The files of a loaded model: whether they are still what they were."""

from __future__ import annotations

import re
import stat
from pathlib import Path

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

Fingerprint = dict[Path, tuple[int, int, int]]
"""Size in bytes, time of the last change and inode, by path."""


def shards(first: Path) -> list[Path]:
    """The files of a model, those that are there."""
    split = _SHARD.search(first.name)
    if split is None:
        return [first] if _stat(first) is not None else []
    names = (
        f"{first.name[: split.start()]}-{index:05d}-of-{split[2]}.gguf"
        for index in range(1, int(split[2]) + 1)
    )
    return [path for path in map(first.with_name, names) if _stat(path) is not None]


def fingerprint(first: Path) -> Fingerprint:
    """What the model's files are now."""
    return {path: now for path in shards(first) if (now := _stat(path)) is not None}


def changed(before: Fingerprint) -> bool:
    """True if a file is not what it was, or gone."""
    return any(_stat(path) != then for path, then in before.items())


def overwritten(before: Fingerprint) -> bool:
    """True if something was written into one of the very files: what is mapped of them is that, or gone."""
    for path, then in before.items():
        now = _stat(path)
        if now is not None and now[2] == then[2] and now != then:
            return True
    return False


def _stat(path: Path) -> tuple[int, int, int] | None:
    """None if it is no file, or cannot be asked."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
