"""Where the bytes of one file come from: the Hub, or a folder with a copy.

A source gives ranges and nothing else than what was asked for; what passes by itself is told as
`TransientError`, all else as `DownloadError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

from app.download.model import DownloadError, DownloadFile, DownloadRequest, Reason

MAX_SEARCHED = 20_000
"""Names of files and folders among which a copy is looked for."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for what, in seconds.

    Attributes:
        connect_s: For a connection.
        stall_s: For the next byte; then the connection is replaced.
        first_retry_s: Before the second attempt without progress; each further wait is twice as long.
        longest_retry_s: Where that ends.
        url_age_s: After this a signed address is asked for anew.
    """

    connect_s: float = 15.0
    stall_s: float = 15.0
    first_retry_s: float = 1.0
    longest_retry_s: float = 60.0
    url_age_s: float = 45 * 60.0


class TransientError(Exception):
    """It may work if it is tried again.

    Attributes:
        reason: Whose fault it is.
        wait_s: What the server asks to wait, or None.
        strange: True for an answer that no working server gives; too many of those are the end.
    """

    def __init__(
        self, words: str, *, reason: Reason = Reason.NETWORK, wait_s: float | None = None,
        strange: bool = False,
    ) -> None:  # fmt: skip
        """`words` go to the log."""
        super().__init__(words)
        self.reason = reason
        self.wait_s = wait_s
        self.strange = strange


class Reply(Protocol):
    """A range on its way."""

    skipped_bytes: int
    """Received before the range began, from a server that only sends whole files."""

    def read(self, most: int) -> bytes:
        """What has arrived, at most `most` bytes; empty at the end.

        Raises:
            TransientError: The connection broke or stalled.
        """

    def close(self) -> None:
        """No more is wanted."""


class Source(Protocol):
    """Gives ranges of one file; thread-safe."""

    ranged: bool
    """False once it is known to send whole files only."""
    git_oid: str | None
    """Of the whole file, where its owner was asked and published no SHA-256."""
    blame: str
    """What may be damaged if the checksum stays wrong, and the way out."""

    def open(self, start: int, end: int) -> Reply:
        """The bytes from `start` to before `end`.

        Raises:
            TransientError: Not now.
            DownloadError: Not at all.
        """

    def sha256(self) -> str | None:
        """Of the whole file, as its owner publishes it; None if it is not published.

        Raises:
            TransientError: Not known now.
            DownloadError: It cannot be asked for.
        """

    def abort(self) -> None:
        """Let every read end at once, now and later."""


class FolderSource:
    """A copy of the file on a disk or network share."""

    ranged = True
    git_oid: str | None = None

    def __init__(self, path: Path, file: DownloadFile) -> None:
        """`path` is the copy of `file`."""
        self._path = path
        self._size = file.size_bytes
        self._stopped = threading.Event()
        self.blame = (
            f"{path}, or this machine's disk or memory, is damaged: "
            "choose another copy, or download what is not right."
        )

    def open(self, start: int, end: int) -> Reply:
        """The bytes from `start` to before `end`."""
        try:
            if not self._path.is_file():  # nor a pipe, which would keep its reader waiting
                raise FileNotFoundError
            stream = self._path.open("rb", buffering=0)
            if self._path.stat().st_size != self._size:
                stream.close()
                raise DownloadError(
                    Reason.CHANGED,
                    f"{self._path} is not the file of this model.",
                    detail=f"It has {self._path.stat().st_size:,} bytes, not {self._size:,}.",
                    hint="Choose a folder with the same files, or download them.",
                )
            stream.seek(start)
        except FileNotFoundError:
            raise DownloadError(
                Reason.NOT_FOUND,
                f"There is no {self._path}.",
                hint="Choose a folder that holds all files of the model.",
            ) from None
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return _FolderReply(stream, end - start, self._stopped)

    def sha256(self) -> str | None:
        """Nobody publishes one of a copy."""
        return None

    def abort(self) -> None:
        """Let every read end."""
        self._stopped.set()


def _unreadable(path: Path, error: OSError) -> Exception:
    """A network share may come back; what is not allowed or not there stays so."""
    if error.errno in (errno.ESTALE, errno.ETIMEDOUT, errno.EIO):
        return TransientError(f"{path}: {error}")
    return DownloadError(
        Reason.DISK,
        f"{path} cannot be read.",
        detail=f"{error.strerror or error}.",
        hint="Check its permissions, or choose another folder, then resume.",
    )


class _FolderReply:
    skipped_bytes = 0

    def __init__(self, stream: BinaryIO, left: int, stopped: threading.Event) -> None:
        self._stream = stream
        self._left = left
        self._stopped = stopped

    def read(self, most: int) -> bytes:
        """What is next."""
        if self._stopped.is_set():
            return b""
        try:
            data = self._stream.read(min(most, self._left))
        except OSError as error:
            raise _unreadable(Path(self._stream.name), error) from error
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the copy."""
        self._stream.close()


def copy_of(folder: Path, request: DownloadRequest, file: DownloadFile) -> Path:
    """Where in `folder` a copy of `file` is: as the app or a Hugging Face cache lays it, or by name.

    A folder of models, of one repository, or of the files alone can be named, or one above those.
    """
    parts = file.path.split("/")
    cached = Path(f"models--{request.repo.replace('/', '--')}", "snapshots", request.commit, *parts)
    places = [
        folder.joinpath(*request.repo.split("/"), *parts),
        folder.joinpath(*parts),
        folder / parts[-1],
        folder / cached,
        folder / "hub" / cached,
    ]
    found = (place for place in places if place.is_file())
    return next(found, None) or _below(folder, parts[-1], file.size_bytes) or places[2]


def _below(folder: Path, name: str, size_bytes: int) -> Path | None:
    """A file of that name and size somewhere below `folder`, if that does not hold too much."""
    seen = 0
    for place, folders, names in os.walk(folder):
        seen += len(folders) + len(names)
        if seen > MAX_SEARCHED:
            break
        path = Path(place, name)
        with contextlib.suppress(OSError):
            if name in names and path.is_file() and path.stat().st_size == size_bytes:
                return path
    return None
