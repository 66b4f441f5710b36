"""The file system below a download: room, writing, and what its errors mean."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

from app.download.model import DownloadError, Reason

if sys.platform == "win32":
    import ctypes
    import msvcrt
else:
    import fcntl

_LOCKED_BYTE = 2**62
"""Windows keeps others from reading what is locked, so it is a byte that no file has."""


def no_follow(path: str, flags: int) -> int:
    """An opener for files that only this app makes: a link in their place is an error."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)


def own(part: Path) -> io.FileIO:
    """Make or open `part`, and be the only one who writes it until the handle is closed.

    The lock is the file's own, for whoever reaches it by whatever path and whatever records.

    Raises:
        DownloadError: Another process has it.
        OSError: It cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    handle = io.FileIO(no_follow(str(part), flags), "r+b")
    # Whoever held it may have given it its name after it was opened here.
    if not _locked(handle.fileno()) or not is_at(handle, part):
        handle.close()
        raise DownloadError(
            Reason.OTHER_PROCESS,
            f"{part.stem} is being downloaded by another process of this app.",
            hint="Wait for it, or stop it there.",
        )
    return handle


def is_at(handle: io.FileIO, path: Path) -> bool:
    """True if the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _locked(handle: int) -> bool:
    """False if another handle has the lock."""
    if sys.platform == "win32":
        return bool(
            ctypes.windll.kernel32.LockFile(
                msvcrt.get_osfhandle(handle), 0, _LOCKED_BYTE >> 32, 1, 0
            )
        )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise  # else the disk knows no locks, and that of the records has to do
    return True


def write(out: io.FileIO, data: bytes) -> None:
    """Write all of `data` where `out` is."""
    written = out.write(data) or 0
    while written < len(data):
        written += out.write(memoryview(data)[written:]) or 0


def allocate(handle: int, size_bytes: int) -> None:
    """Room for the whole file, so that a full disk is seen before the first byte."""
    if os.fstat(handle).st_size > size_bytes:
        os.ftruncate(handle, size_bytes)
    if not size_bytes:
        return
    try:
        os.posix_fallocate(handle, 0, size_bytes)
    except (AttributeError, OSError) as error:
        unknown = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
        if isinstance(error, OSError) and error.errno not in unknown:
            raise
        os.ftruncate(handle, size_bytes)


def disk_error(error: OSError, path: Path) -> DownloadError:
    """What an error of the file system means for a download."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DownloadError(
            Reason.NO_SPACE,
            f"The disk of {path.parent} is full.",
            detail=f"{error.strerror}.",
            hint="Free some space or choose another folder, then resume; what is there is kept.",
        )
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP):
        return DownloadError(
            Reason.DISK,
            f"{path} cannot be written: something else is in its place.",
            detail=f"{error.strerror}.",
            hint="Move that away, or choose another folder, then resume.",
        )
    return DownloadError(
        Reason.DISK,
        f"{path} cannot be written or read.",
        detail=f"{error.strerror or error}.",
        hint="Check the disk and its permissions, then resume; what is there is kept.",
    )


def records_error(error: OSError, path: Path) -> DownloadError:
    """What it means that the app's own record at `path` cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DownloadError(
        Reason.NO_SPACE if full else Reason.DISK,
        f"The app cannot write down in {path.parent} how far the download is.",
        detail=f"{error.strerror or error}.",
        hint=f"{'Free some space there' if full else 'Check its permissions'}, then resume; "
        "what is there is kept.",
    )
