"""One set of files on its way: each one checked, fetched, checked and given its name, then the whole."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from app.download import journal as journals
from app.download import preflight, verify
from app.download.disk import disk_error, is_at, own, records_error
from app.download.hub_source import HubSource
from app.download.limiter import Limiter
from app.download.meter import Meter
from app.download.model import (
    DownloadError,
    DownloadFile,
    DownloadRequest,
    DownloadState,
    FileProgress,
    Progress,
    Reason,
)
from app.download.records import Records
from app.download.source import FolderSource, Source, Timing, copy_of
from app.download.transfer import DEFAULT_CONNECTIONS, Transfer
from app.errors import Cancelled

log = logging.getLogger("app.download.set_run")


@contextlib.contextmanager
def only_writer(records: Records, target: Path) -> Iterator[None]:
    """Be the only one who writes `target`, over all processes.

    Raises:
        DownloadError: Another process is.
    """
    try:
        lock = filelock.FileLock(records.lock(target)).acquire(timeout=0)
    except filelock.Timeout:
        raise DownloadError(
            Reason.OTHER_PROCESS,
            f"{target.name} is being downloaded by another process of this app.",
            hint="Wait for it, or stop it there.",
        ) from None
    except OSError as error:
        raise records_error(error, Path(error.filename or records.jobs)) from error
    with lock:
        yield


def _taken(target: Path) -> DownloadError:
    return DownloadError(
        Reason.OTHER_PROCESS,
        f"{target.name} was touched by another process while it was downloaded.",
        hint="Close whatever else writes there, then resume.",
    )


@dataclasses.dataclass(slots=True)
class _File:
    """What is known about one file; the figures only grow."""

    file: DownloadFile
    written: int = 0
    hashed: int = 0
    verified: bool = False

    def grow(self, written: int, hashed: int) -> None:
        self.written = max(self.written, written)
        self.hashed = max(self.hashed, min(hashed, self.written))

    def frozen(self) -> FileProgress:
        return FileProgress(
            path=self.file.path,
            size_bytes=self.file.size_bytes,
            written_bytes=self.written,
            hashed_bytes=self.hashed,
            verified=self.verified,
        )


class SetRun:
    """Runs a request once, on the caller's thread; other threads may read, and `halt` it."""

    def __init__(
        self,
        request: DownloadRequest,
        records: Records,
        *,
        connections: int = DEFAULT_CONNECTIONS,
        limiter: Limiter | None = None,
        timing: Timing | None = None,
        on_verified: Callable[[Path], None] = lambda _path: None,
        floor: Progress | None = None,
    ) -> None:
        """Look up how far it is already; nothing is read or fetched before `run`.

        Args:
            request: What to bring.
            records: Crash records and what is known about files.
            connections: How many at once.
            limiter: The limit in bytes per second.
            timing: How long to wait for what.
            on_verified: Told of each file that is whole and has its name.
            floor: What was told before; no figure falls below it.
        """
        self._request = request
        self._records = records
        self._connections = connections
        self._limiter = limiter or Limiter()
        self._timing = timing or Timing()
        self._on_verified = on_verified
        self._files = [self._look_up(file) for file in request.files]
        for state, before in zip(self._files, floor.files if floor else (), strict=False):
            state.grow(before.written_bytes, before.hashed_bytes)
        self._stop = threading.Event()
        self._transfer: Transfer | None = None
        self._current: _File | None = None
        self._checking = False
        self._lock = threading.Lock()
        self._received = 0
        self._refetched = 0
        self._retries = 0
        self._meter = Meter()

    # --- for other threads --------------------------------------------------

    def halt(self) -> None:
        """End it soon; `run` raises `Cancelled`."""
        self._stop.set()
        with self._lock:
            transfer = self._transfer
        if transfer is not None:
            transfer.halt()

    def phase(self) -> tuple[DownloadState, Reason, float | None]:
        """State, reason and seconds until the next attempt."""
        with self._lock:
            transfer, checking = self._transfer, self._checking
        if checking:
            return DownloadState.VERIFYING, Reason.NONE, None
        if transfer is None:
            return DownloadState.RESOLVING, Reason.NONE, None
        if transfer.fetched:
            return DownloadState.VERIFYING, Reason.NONE, None
        wait_s = transfer.retry.retry_in_s
        if wait_s and not transfer.open_connections:
            return DownloadState.WAITING, transfer.retry.reason, wait_s
        if not transfer.received_bytes and not transfer.open_connections:
            return DownloadState.RESOLVING, Reason.NONE, None
        return DownloadState.DOWNLOADING, Reason.NONE, None

    def progress(self) -> Progress:
        """The figures now; takes a sample for speed and remaining time."""
        with self._lock:
            received, refetched, retries = self._received, self._refetched, self._retries
            transfer = self._transfer
            if transfer is not None:
                received += transfer.received_bytes
                refetched += transfer.refetched_bytes
                retries += transfer.retry.count
                if self._current is not None:
                    self._current.grow(transfer.written_bytes, transfer.hashed_bytes)
            files = tuple(file.frozen() for file in self._files)
            self._meter.add(time.monotonic(), received)
            missing = sum(file.size_bytes - file.written_bytes for file in files)
            return Progress(
                files=files,
                bytes_per_s=self._meter.bytes_per_s(),
                remaining_s=self._meter.remaining_s(missing),
                connections=transfer.open_connections if transfer else 0,
                retries=retries,
                refetched_bytes=refetched,
                free_bytes=preflight.free_bytes(self._request.folder),
            )

    # --- the run ------------------------------------------------------------

    def run(self) -> None:
        """Bring all files; afterwards each has its name and the right content.

        Raises:
            Cancelled: `halt` was called.
            DownloadError: It cannot go on by itself.
        """
        request = self._request
        preflight.check_names(request)
        missing = [state for state in self._files if not self._found(state)]
        # Whatever else has their names stays until they are whole, so all of them need room.
        if missing:
            preflight.check_disk(request, [state.file for state in missing])
        replaces = any(os.path.lexists(request.target(state.file)) for state in missing)
        replaced: list[tuple[_File, os.stat_result]] = []
        for state in missing:
            if self._stop.is_set():
                raise Cancelled
            target = request.target(state.file)
            with only_writer(self._records, target), self._fetch(state, target) as part:
                if replaces:
                    replaced.append((state, os.fstat(part.fileno())))
                else:
                    self._name(state, target, part)
        # Where one is of an earlier commit all get their names together: the set is never a mix.
        for state, fetched in replaced:
            self._replace(state, fetched)
        verify.check_model(request.target(file) for file in request.files)

    def _look_up(self, file: DownloadFile) -> _File:
        """How far a file is, by the records alone."""
        target = self._request.target(file)
        state = _File(file)
        if self._records.verified.knows(target, file):
            state.grow(file.size_bytes, file.size_bytes)
            state.verified = True
        elif os.path.exists(preflight.part_of(target)):  # noqa: PTH110 - of any length
            record = journals.read(self._records.journal(target), self._request.commit, file)
            if record is not None:
                state.grow(record.written_bytes(file.size_bytes), 0)
        return state

    def _found(self, state: _File) -> bool:
        if self._stop.is_set():
            raise Cancelled
        target = self._request.target(state.file)
        with only_writer(self._records, target):
            return self._is_here(state, target)

    def _is_here(self, state: _File, target: Path) -> bool:
        """True if the right file has its name already; a damaged one becomes a part again."""
        file = state.file
        if not target.is_file() or target.stat().st_size != file.size_bytes:
            return False
        self._checking = True
        try:
            right = verify.is_right(
                target,
                file,
                self._records.verified,
                progress=lambda count: state.grow(file.size_bytes, count),
                stop=self._stop,
            )
        except OSError as error:
            raise disk_error(error, target) from error
        finally:
            self._checking = False
        if right:
            self._done(state, target)
            return True
        record = journals.read(self._records.journal(target), self._request.commit, file)
        if record is not None and not preflight.part_of(target).exists():
            log.info("%s is checked by its crash record, and mended", target)
            target.replace(preflight.part_of(target))
        else:
            # It was another file: the only case in which figures fall.
            state.written = state.hashed = 0
        return False

    def _fetch(self, state: _File, target: Path) -> io.FileIO:
        """Bring one file into its part; the handle keeps others from it."""
        request, file = self._request, state.file
        preflight.check_disk(request, [file])
        source = self._source(file)
        transfer = Transfer(
            file,
            preflight.part_of(target),
            self._records.journal(target),
            request.commit,
            source,
            connections=self._connections,
            limiter=self._limiter,
            timing=self._timing,
        )
        with self._lock:
            self._transfer, self._current = transfer, state
        if self._stop.is_set():
            transfer.halt()
        try:
            transfer.run()
            state.file = self._proven(transfer.file, source, target)
        except BaseException:
            transfer.handle.close()
            raise
        finally:
            with self._lock:
                state.grow(transfer.written_bytes, transfer.hashed_bytes)
                self._received += transfer.received_bytes
                self._refetched += transfer.refetched_bytes
                self._retries += transfer.retry.count
                self._transfer = self._current = None
        return transfer.handle

    def _proven(self, file: DownloadFile, source: Source, target: Path) -> DownloadFile:
        """A whole file with the git id that its ETag told, where no list told a digest of it."""
        if file.digest is not None or source.git_oid is None:
            return file
        known = dataclasses.replace(file, git_oid=source.git_oid)
        if not verify.matches(preflight.part_of(target), known, stop=self._stop):
            self._records.journal(target).unlink(missing_ok=True)  # nothing of it is of use
            raise verify.damaged(known)
        return known

    def _source(self, file: DownloadFile) -> Source:
        request = self._request
        if request.source is not None:
            return FolderSource(copy_of(request.source, request, file), file)
        return HubSource(request.repo, request.commit, file, timing=self._timing)

    def _replace(self, state: _File, fetched: os.stat_result) -> None:
        """Give a finished part its name, unless somebody has touched it since it was finished."""
        target = self._request.target(state.file)
        with only_writer(self._records, target), own(preflight.part_of(target)) as part:
            now = os.fstat(part.fileno())
            same = os.path.samestat(now, fetched) and now.st_mtime_ns == fetched.st_mtime_ns
            if not same:
                raise _taken(target)
            self._name(state, target, part)

    def _name(self, state: _File, target: Path, part: io.FileIO) -> None:
        """Give a finished part its name. Its crash record stays: it finds damage later."""
        try:
            if not is_at(part, preflight.part_of(target)):
                raise _taken(target)
            if os.name == "nt":
                part.close()  # Windows renames no open file
            preflight.part_of(target).replace(target)
            if state.file.digest is None:
                self._records.verified.drop(target)
            else:
                self._records.verified.keep(target, state.file)
        except OSError as error:
            raise disk_error(error, target) from error
        self._done(state, target)

    def _done(self, state: _File, target: Path) -> None:
        with self._lock:
            state.grow(state.file.size_bytes, state.file.size_bytes)
            state.verified = state.file.digest is not None
        if state.verified:
            self._on_verified(target)
