"""The file system below a download: room, writing, and what its errors mean."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

from app.download.model import DownloadError, Reason


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
    return DownloadError(
        Reason.DISK,
        f"{path} cannot be written or read.",
        detail=f"{error.strerror or error}.",
        hint="Check the disk and its permissions, then resume; what is there is kept.",
    )
