"""KV caches of chats, kept on disk: which belongs to what, and how much they may take."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import psutil

from app import jsonfile, units
from app.engine import files, protocol
from app.errors import AppError, ErrorKind

MOST_PID = 2**31
ROOM_LEFT_BYTES = 2 * units.GIB
"""No snapshot makes the disk fuller than this."""


class SnapshotStore:
    """One file a chat, beside it what it was made with; the oldest go where there are too many.

    Attributes:
        limit_bytes: What all of them may take.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """`folder` need not exist."""
        self._folder, self.limit_bytes = folder, limit_bytes

    def path(self, chat: str) -> Path:
        """Where the snapshot of `chat` lies, or would lie."""
        return self._folder / f"{hashlib.sha256(chat.encode()).hexdigest()[:24]}.kv"

    def make_room(self, chat: str, size_bytes: int) -> Path:
        """Where to write a snapshot of that size; older ones make room for it.

        Raises:
            AppError: It is larger than all that snapshots may take, or than what the disk has.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        size = units.format_file_size(size_bytes)
        if size_bytes > self.limit_bytes:
            limit = units.format_file_size(self.limit_bytes)
            raise AppError(
                f"The chat's KV cache takes {size}, and saved ones may take {limit} in all.",
                hint="Allow them more room in the settings.",
                kind=ErrorKind.DISK,
            )
        free = shutil.disk_usage(self._folder).free
        if size_bytes + ROOM_LEFT_BYTES > free:
            raise AppError(
                f"The chat's KV cache takes {size}, and the disk has {units.format_file_size(free)}.",
                hint="Make room on the disk; the chat itself is safe.",
                kind=ErrorKind.DISK,
            )
        target = self.path(chat)
        others = sorted(
            (stat.st_mtime, stat.st_size, path) for path, stat in self._files() if path != target
        )
        while others and size_bytes + sum(size for _, size, _ in others) > self.limit_bytes:
            self._remove(others.pop(0)[2])
        self._remove(target)
        _note(target, {})
        return target

    def keep(self, chat: str, command: protocol.Load, version: str) -> None:
        """The snapshot is complete: note its size and time, and what it was made with."""
        path = self.path(chat)
        try:
            written = path.stat()
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        _note(path, _made_with(command, version, written))

    def usable(self, chat: str, command: protocol.Load, version: str) -> Path | None:
        """The snapshot of `chat` if it fits this load; one that does not is thrown away."""
        path = self.path(chat)
        made_with, _ = _noted(path)
        # llama.cpp aborts on a file that ends early, and takes what another program wrote there for true.
        if path.is_file() and made_with == _made_with(command, version, path.stat()):
            return path
        self._remove(path)
        return None

    def free_bytes(self) -> int:
        """What the disk has."""
        there = next(p for p in (self._folder, *self._folder.parents) if p.is_dir())
        return shutil.disk_usage(there).free

    def clean(self) -> None:
        """Throw away those whose program has ended: their chats ended with it."""
        for path, _ in self._files():
            _, owner = _noted(path)
            if owner is None or not psutil.pid_exists(owner):
                self._remove(path)

    def forget(self, chat: str) -> None:
        """The chat is gone."""
        self._remove(self.path(chat))

    def total_bytes(self) -> int:
        """What all snapshots take."""
        return sum(stat.st_size for _, stat in self._files())

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Those that are there; another program may take some away meanwhile."""
        found = []
        for path in self._folder.glob("*.kv"):
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
        return found

    def _remove(self, path: Path) -> None:
        for each in (path.with_suffix(".json"), path):
            with contextlib.suppress(OSError):
                each.unlink()


def _note(path: Path, made_with: dict[str, object]) -> None:
    """Beside a snapshot: what it was made with, and the process whose chat it is."""
    noted = {"made_with": made_with, "owner": os.getpid()}
    try:
        jsonfile.write(path.with_suffix(".json"), noted)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> AppError:
    return AppError(
        f"The chat's KV cache could not be saved in {folder}.",
        detail=f"{error.strerror}.",
        hint="Make room on the disk; the chat itself is safe.",
        kind=ErrorKind.DISK,
    )


def _noted(path: Path) -> tuple[dict[str, object], int | None]:
    """What stands there; nothing if it cannot be read."""
    noted = jsonfile.read(path.with_suffix(".json"))
    made_with, owner = noted.get("made_with"), noted.get("owner")
    plausible = isinstance(owner, int) and 0 < owner < MOST_PID
    return made_with if isinstance(made_with, dict) else {}, owner if plausible else None


def _made_with(command: protocol.Load, version: str, written: os.stat_result) -> dict[str, object]:
    first = Path(command.model_path)
    shards = [[path.name, *stat[:2]] for path, stat in sorted(files.fingerprint(first).items())]
    return {
        "size_bytes": written.st_size,
        "written_ns": written.st_mtime_ns,
        "engine": version,
        "model": shards,
        "kv_types": [command.kv_type_k, command.kv_type_v],
        "flash_attention": command.flash_attention,
    }
