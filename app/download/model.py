"""What is downloaded, how far it is, and what is told about it: frozen values and events."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from pathlib import Path

from app.errors import AppError, ErrorKind


class DownloadState(enum.StrEnum):
    """Where a set of files is on its way."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    NEEDS_LOGIN = "needs_login"
    NO_SPACE = "no_space"
    DOWNLOADING = "downloading"
    PAUSED = "paused"
    WAITING = "waiting"
    """The network or server is away; tried again at `retry_in_s`, for as long as nobody stops it."""
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"


ENDED = (DownloadState.DONE, DownloadState.FAILED)
HALTED = (DownloadState.NEEDS_LOGIN, DownloadState.NO_SPACE, DownloadState.PAUSED, *ENDED)
"""Nothing happens any more unless a person asks for it."""


class Reason(enum.StrEnum):
    """Why a download stands still or failed."""

    NONE = ""
    ASKED = "asked"
    """A person paused it."""
    SCHEDULE = "schedule"
    """Outside the hours in which downloads run."""
    OTHER_PROCESS = "other_process"
    """Another process writes the same files."""
    NETWORK = "network"
    BUSY_SERVER = "busy_server"
    """429 or 5xx."""
    NEEDS_LOGIN = "needs_login"
    NOT_FOUND = "not_found"
    CHANGED = "changed"
    """Size, ETag or commit are not those of the request."""
    BAD_SERVER = "bad_server"
    """What the server sends is not what was asked for, again and again."""
    NO_SPACE = "no_space"
    DISK = "disk"
    UNSAFE_NAME = "unsafe_name"
    DAMAGED = "damaged"
    """The checksum was wrong twice."""
    INCOMPLETE = "incomplete"
    """All files are here and right, yet they are no whole model."""


_KINDS = {
    Reason.NO_SPACE: ErrorKind.DISK,
    Reason.DISK: ErrorKind.DISK,
    Reason.OTHER_PROCESS: ErrorKind.DISK,
    Reason.NOT_FOUND: ErrorKind.MODEL_FILE,
    Reason.DAMAGED: ErrorKind.MODEL_FILE,
    Reason.INCOMPLETE: ErrorKind.MODEL_FILE,
    Reason.UNSAFE_NAME: ErrorKind.MODEL_FILE,
}


class DownloadError(AppError):
    """A download that cannot go on by itself."""

    def __init__(self, reason: Reason, title: str, *, detail: str = "", hint: str = "") -> None:
        """`reason` decides the state and the exit code."""
        kind = _KINDS.get(reason, ErrorKind.NETWORK)
        super().__init__(title, detail=detail, hint=hint, kind=kind)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DownloadFile:
    """One file of a commit.

    Attributes:
        path: In the repository, with slashes.
        sha256: Of the content (its LFS oid); None for a small file that git itself keeps.
        git_oid: The git blob's id, which proves a file without `sha256`.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    git_oid: str | None = None

    def hasher(self) -> hashlib._Hash:
        """A new hash whose hex digest is to be `digest`."""
        if self.sha256 is not None or self.git_oid is None:
            return hashlib.sha256()
        # What git calls a blob; no security depends on SHA-1 here, the file comes over TLS.
        new = hashlib.sha256() if len(self.git_oid) == 64 else hashlib.sha1(usedforsecurity=False)
        new.update(f"blob {self.size_bytes}\0".encode())
        return new

    @property
    def digest(self) -> str | None:
        """The hex digest that the content must have; None if none was published."""
        return self.sha256 or self.git_oid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """Files of one commit that belong together, such as the shards of a model.

    Attributes:
        repo: Owner and name.
        revision: What was asked for, a branch for example.
        commit: What that was when the files were listed; all is read from it.
        folder: The folder of models; files go to `folder/owner/name/path`.
        priority: Higher ones run first; equal ones in their order.
        source: A folder with the same files to copy instead of a download, or None.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[DownloadFile, ...]
    folder: Path
    priority: int = 0
    source: Path | None = None

    @property
    def id(self) -> str:
        """Names the download; the same for the same files of the same commit in the same folder."""
        parts = [self.repo, self.commit, str(self.folder), *sorted(f.path for f in self.files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    def target(self, file: DownloadFile) -> Path:
        """Where `file` goes."""
        return self.folder.joinpath(*self.repo.split("/"), *file.path.split("/"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """How far one file is; the figures never become smaller.

    Attributes:
        written_bytes: On disk and in the crash record.
        hashed_bytes: Of those, how many went into the checksum.
        verified: True once the checksum is right and the file has its name.
    """

    path: str
    size_bytes: int
    written_bytes: int
    hashed_bytes: int
    verified: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a set is.

    Attributes:
        bytes_per_s: Received, over the last five seconds.
        remaining_s: From the average of the last minute; None in the first ten seconds.
        connections: Open now.
        retries: Requests repeated since the start of this run.
        refetched_bytes: Received in vain in this run.
        free_bytes: Left on the target's disk now.
    """

    files: tuple[FileProgress, ...]
    bytes_per_s: float = 0.0
    remaining_s: float | None = None
    connections: int = 0
    retries: int = 0
    refetched_bytes: int = 0
    free_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def written_bytes(self) -> int:
        """On disk, of all files together."""
        return sum(file.written_bytes for file in self.files)

    @property
    def hashed_bytes(self) -> int:
        """In the checksums, of all files together."""
        return sum(file.hashed_bytes for file in self.files)

    @property
    def verified_files(self) -> int:
        """How many files are whole and right."""
        return sum(file.verified for file in self.files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One entry of the queue as it is now."""

    request: DownloadRequest
    state: DownloadState
    progress: Progress
    reason: Reason = Reason.NONE
    error: DownloadError | None = None
    retry_in_s: float | None = None

    @property
    def id(self) -> str:
        """The request's."""
        return self.request.id


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStateChanged:
    """A download has another state or reason."""

    download: Download


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgressed:
    """New figures, a few times a second at most."""

    id: str
    progress: Progress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileVerified:
    """A file of a set is whole and right, under its name."""

    id: str
    path: Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFound:
    """The branch has moved since the set's files were listed; the download goes on as it was."""

    id: str
    commit: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRemoved:
    """A download is no longer in the queue."""

    id: str


DownloadEvent = (
    DownloadStateChanged | DownloadProgressed | FileVerified | UpdateFound | DownloadRemoved
)
