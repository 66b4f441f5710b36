"""What is made sure before the first byte: names that stay in the folder, and a disk that takes the files."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from app import units
from app.catalog import names
from app.download.disk import disk_error, no_follow
from app.download.model import DownloadError, DownloadFile, DownloadRequest, Reason

MARGIN_BYTES = units.GIB
"""Left free on the target's disk."""
MAX_FILE_BYTES = 2**43
MAX_FILES = 10_000
FAT_LIMIT_BYTES = 4 * units.GIB - 1
_FAT = ("vfat", "msdos", "fat", "fat32")
_REPO_PART = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def part_of(target: Path) -> Path:
    """Where a file grows before it has its name."""
    return target.with_name(target.name + ".part")


def check_names(request: DownloadRequest) -> None:
    """Make sure that nothing is written outside the model's folder, whatever a server says.

    Raises:
        DownloadError: A name or size is one that no honest repository has, or a link leads outside.
    """
    check_request(request)
    for file in request.files:
        _check_inside(request.folder, request.target(file))


def check_request(request: DownloadRequest) -> None:
    """Make sure of what a request says, whatever is on the disk now.

    Raises:
        DownloadError: A name or size is one that no honest repository has.
    """
    owner, _, name = request.repo.partition("/")
    if not (_safe_part(owner) and _safe_part(name)):
        raise _unsafe(request.repo)
    if not request.files or len(request.files) > MAX_FILES:
        raise _unsafe(f"{request.repo} with {len(request.files)} files")
    _check_longest(request)
    seen = set()
    for file in request.files:
        for path in (file.path, f"{file.path}.part"):
            if not names.safe_path(file.path) or path.casefold() in seen:
                raise _unsafe(file.path)
            seen.add(path.casefold())
        if not 0 <= file.size_bytes <= MAX_FILE_BYTES:
            raise _unsafe(f"{file.path} with {file.size_bytes:,} bytes")


def _safe_part(text: str) -> bool:
    return bool(_REPO_PART.fullmatch(text)) and names.safe_path(text)


def _check_inside(folder: Path, target: Path) -> None:
    """No symbolic link on the way leads out of the folder."""
    root = os.path.realpath(folder)  # `resolve` stumbles over links that lead to themselves
    for place in (target.parent, target, part_of(target)):
        if not Path(os.path.realpath(place)).is_relative_to(root):
            raise DownloadError(
                Reason.UNSAFE_NAME,
                f"{place} is not written: a link on the way leads out of {folder}.",
                detail=f"It leads to {os.path.realpath(place)}.",
                hint="Remove the link, or choose the folder that it leads to for downloads.",
            )


def _unsafe(name: str) -> DownloadError:
    return DownloadError(
        Reason.UNSAFE_NAME,
        f"“{ascii(name)[1:-1][:200]}” is not downloaded: its name or size is not safe.",
        hint="Choose another repository.",
    )


def check_disk(request: DownloadRequest, files: Sequence[DownloadFile]) -> None:
    """Make sure that the disk takes `files` of the request, and leaves a margin.

    Raises:
        DownloadError: It does not.
    """
    missing = sum(_missing(request.target(file), file) for file in files)
    place = request.target(request.files[0]).parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        _check_free(request, files)
        free = shutil.disk_usage(place).free
        if missing and missing + MARGIN_BYTES > free:
            raise DownloadError(
                Reason.NO_SPACE,
                f"The disk of {request.folder} lacks space for {request.repo}.",
                detail=f"{units.format_file_size(missing)} are missing, with "
                f"{units.format_file_size(MARGIN_BYTES)} to spare; "
                f"{units.format_file_size(free)} are free.",
                hint="Free some space or choose another folder, then resume.",
            )
        _check_fat(place, files)
        _probe(place)
    except OSError as error:
        raise disk_error(error, place) from error


def _check_free(request: DownloadRequest, files: Sequence[DownloadFile]) -> None:
    """No folder has the place of a file, which would come out only when the file gets its name."""
    for file in files:
        for path in (request.target(file), part_of(request.target(file))):
            if path.is_dir():
                raise disk_error(OSError(errno.EISDIR, os.strerror(errno.EISDIR)), path)


def free_bytes(folder: Path) -> int | None:
    """What is free on the disk of `folder`, or of what it will be made in."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def volume(folder: Path) -> int:
    """Names the disk of `folder`, which need not exist yet."""
    for place in (folder, *folder.parents):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return 0


def _missing(target: Path, file: DownloadFile) -> int:
    """Bytes that the disk must still find for a file."""
    try:
        status = part_of(target).stat()
    except OSError:
        return file.size_bytes
    # Where blocks are not told, the space of a part is taken when it is made.
    taken = status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return max(0, file.size_bytes - taken)


def _check_longest(request: DownloadRequest) -> None:
    longest = max(
        (part_of(request.target(file)) for file in request.files), key=lambda p: len(str(p))
    )
    limit = 259 if os.name == "nt" else os.pathconf("/", "PC_PATH_MAX") - 1
    if len(os.fsencode(longest.absolute())) > limit:
        raise DownloadError(
            Reason.DISK,
            f"The path {longest} is too long for this system.",
            hint="Choose a folder with a shorter path.",
        )


def _check_fat(place: Path, files: Sequence[DownloadFile]) -> None:
    largest = max((file.size_bytes for file in files), default=0)
    if largest <= FAT_LIMIT_BYTES:
        return
    mounts = [p for p in psutil.disk_partitions(all=True) if place.is_relative_to(p.mountpoint)]
    kind = max(mounts, key=lambda p: len(p.mountpoint)).fstype.lower() if mounts else ""
    if kind in _FAT:
        raise DownloadError(
            Reason.DISK,
            f"The disk of {place} takes no file above 4 GiB: it is formatted as FAT.",
            detail=f"The largest has {units.format_file_size(largest)}.",
            hint="Choose another folder, a repository with smaller shards, or format it as exFAT.",
        )


def _probe(place: Path) -> None:
    """Write and rename once; some network shares let one do the first only."""
    # Names that nobody can foresee: whoever else writes here could lay a link in their place.
    first = place / f".write-probe-{secrets.token_hex(8)}"
    second = first.with_name(f"{first.name}-renamed")
    try:
        with io.FileIO(first, "x", opener=no_follow) as stream:
            stream.write(b"x" * 4096)
        first.replace(second)
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
