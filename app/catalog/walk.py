"""The files below a folder that may be parts of models; however large, slow or odd the folder is."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

MAX_ENTRIES = 200_000
"""Files and folders looked at in one place."""
MAX_DEPTH = 12
GRACE_S = 2.0
"""How much longer than it may a look into a folder takes before the folder is left, in seconds."""

BLOBS = (".incomplete", ".downloadInProgress")
"""Ends of the names of begun downloads in a Hub's cache: huggingface_hub's, llama.cpp's."""
UNFINISHED = re.compile(
    r"(?P<name>.+\.gguf)\.(?:part|partial|incomplete|tmp|download|downloading|crdownload|aria2"
    r"|downloadInProgress)$",
    re.IGNORECASE | re.ASCII,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file as it was found.

    Attributes:
        identity: The same for two names of one file.
        absent: It is a link to a file that is not there, or on a disk that is not there now.
    """

    path: Path
    size_bytes: int
    modified: float
    identity: tuple[int, int]
    absent: bool = False


def walk(
    folder: Path,
    wanted: Callable[[str], bool],
    deadline: float,
    clock: Callable[[], float],
    notices: list[str],
) -> Sequence[FoundFile]:
    """The files below `folder` whose names are `wanted`; linked folders too, each once.

    Args:
        folder: It need not exist. Where the system says nothing of it, as of a share whose server
            is gone, it is left.
        wanted: Whether a name is of interest.
        deadline: When the look at all folders has to end, by `clock`.
        clock: Seconds.
        notices: Takes what could not be looked at, as sentences.
    """
    files: list[FoundFile] = []
    # One huge folder leaves time for the others.
    left_s = max(0.0, deadline - clock()) / 2
    until = deadline - left_s

    def look() -> None:
        files.extend(_files(folder, wanted, lambda: clock() > until, notices))

    # A call of the system that never returns cannot be ended, but be left.
    thread = threading.Thread(target=look, name="library", daemon=True)
    thread.start()
    thread.join(left_s + GRACE_S)
    if not thread.is_alive():
        return files
    notices.append(f"{folder} does not answer; what is in it is not shown.")
    return ()


def _files(
    folder: Path, wanted: Callable[[str], bool], late: Callable[[], bool], notices: list[str]
) -> Iterator[FoundFile]:
    waiting, folders, entries = [(folder, 0)], set(), 0
    while waiting:
        here, depth = waiting.pop()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in folders:
                continue
            folders.add((status.st_dev, status.st_ino))
            with os.scandir(here) as listing:
                for entry in listing:
                    entries += 1
                    if entries > MAX_ENTRIES or late():
                        notices.append(
                            f"{folder} is too large to look at all of it; a folder that "
                            "holds models alone can be added."
                        )
                        return
                    if _is_folder(entry):
                        if depth < MAX_DEPTH:
                            waiting.append((Path(entry.path), depth + 1))
                    elif wanted(entry.name) and (file := _file(entry)) is not None:
                        yield file
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            if not absent or depth:
                notices.append(f"{here} cannot be read: {error.strerror or error}.")


def _file(entry: os.DirEntry[str]) -> FoundFile | None:
    path = Path(entry.path)
    try:
        status = entry.stat()
    except OSError:
        if not path.is_symlink():
            return None
        # Links to one file are one.
        identity = (-1, hash(os.path.realpath(path)))
        return FoundFile(path=path, size_bytes=0, modified=0.0, identity=identity, absent=True)
    if not stat.S_ISREG(status.st_mode):
        return None
    allocated = getattr(status, "st_blocks", None)
    size = status.st_size
    if allocated is not None and (UNFINISHED.fullmatch(entry.name) or entry.name.endswith(BLOBS)):
        size = min(size, allocated * 512)  # room is often taken in advance
    return FoundFile(
        path=path,
        size_bytes=size,
        modified=status.st_mtime,
        identity=(status.st_dev, status.st_ino or hash(entry.path)),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
