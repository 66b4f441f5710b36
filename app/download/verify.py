"""Checksums of files that are already there, and whether they make a whole model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from app import units
from app.catalog import names
from app.download.disk import disk_error
from app.download.model import DownloadError, DownloadFile, Reason
from app.download.records import Verified
from app.errors import AppError, Cancelled
from app.gguf.header import Header, parse

PIECE_BYTES = 256 * units.KIB


def is_right(
    path: Path,
    file: DownloadFile,
    verified: Verified,
    *,
    progress: Callable[[int], None] = lambda _count: None,
    stop: threading.Event | None = None,
    afresh: bool = False,
) -> bool:
    """True if `path` is `file`, byte for byte; what was found out before is not read again.

    Nothing is known to be a file without a digest.

    Args:
        path: The file that may be there.
        file: What it should be.
        verified: What is known, and learns the answer.
        progress: Told how many bytes are hashed so far.
        stop: Ends it.
        afresh: Read it even if it is known.

    Raises:
        Cancelled: `stop` was set.
        OSError: It cannot be read.
    """
    if file.digest is None or not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    known = None if afresh else verified.digest(path)
    if known is not None:
        progress(file.size_bytes)
        return known == file.digest
    right = matches(path, file, progress=progress, stop=stop)
    if right:
        verified.keep(path, file)
    else:
        verified.doubt(path)
    return right


def matches(
    path: Path,
    file: DownloadFile,
    *,
    progress: Callable[[int], None] = lambda _count: None,
    stop: threading.Event | None = None,
) -> bool:
    """True if the content of `path` has the size and digest of `file`; all of it is read.

    Raises:
        Cancelled: `stop` was set.
        OSError: It cannot be read.
    """
    total, done, view = file.hasher(), 0, memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(view):
            if stop is not None and stop.is_set():
                raise Cancelled
            total.update(view[:count])
            done += count
            progress(done)
    return done == file.size_bytes and file.digest == total.hexdigest()


def damaged(file: DownloadFile) -> DownloadError:
    """What arrived is not what was published."""
    return DownloadError(
        Reason.DAMAGED,
        f"{file.path} has a wrong checksum.",
        detail=f"It should be {file.digest}.",
        hint="Try again; if it stays so, the file on the server is damaged.",
    )


def check_model(paths: Iterable[Path]) -> None:
    """Make sure that GGUF files are what their names say, and split ones all of one model.

    Raises:
        DownloadError: They are not, though they arrived as they are on the server.
    """
    sets: dict[tuple[Path, str, int], dict[int, Header]] = {}
    for path in paths:
        if path.suffix != ".gguf":
            continue
        match = names.SHARD.fullmatch(path.name)
        number, count = (int(match["number"]), int(match["count"])) if match else (1, 1)
        header = _header(path, number - 1)
        stem = match["stem"] if match else path.name
        sets.setdefault((path.parent, stem, count), {})[number] = header
    for (_, stem, count), headers in sets.items():
        if count > 1:
            _check_split(stem, count, headers)


def _header(path: Path, shard: int) -> Header:
    try:
        with path.open("rb") as stream:
            return parse(path, stream, path.stat().st_size, shard)
    except OSError as error:
        raise disk_error(error, path) from error
    except AppError as error:
        raise _broken(path.name, str(error)) from error


def _check_split(stem: str, count: int, headers: dict[int, Header]) -> None:
    for number, header in headers.items():
        said = header.metadata.get("split.no"), header.metadata.get("split.count")
        if said != (number - 1, count):
            raise _broken(stem, f"Shard {number} of {count} calls itself {said[0]} of {said[1]}.")
    if set(headers) != set(range(1, count + 1)):
        return  # only some shards were asked for
    total = headers[1].metadata.get("split.tensors.count")
    found = sum(len(header.tensors) for header in headers.values())
    if total not in (None, found):
        raise _broken(stem, f"Its shards hold {found} of {total} tensors.")


def _broken(name: str, detail: str) -> DownloadError:
    return DownloadError(
        Reason.INCOMPLETE,
        f"{name} is broken on the server: it arrived as it is there, but is no whole model.",
        detail=detail,
        hint="Choose another repository, or tell its owner.",
    )
