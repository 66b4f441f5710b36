"""One file, from a source to a verified `.part`: several connections, a crash record, a hash behind.

Threads of one transfer: each connection reads, writes in place and adds to the crash record; one
hashes what is on disk from the beginning on, and compares each segment found there with its digest;
one lets the data reach the disk. The caller's thread waits for them.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from app import units
from app.download import journal as journals
from app.download.disk import allocate, disk_error, no_follow, own, write
from app.download.hashing import Hasher
from app.download.limiter import Limiter
from app.download.model import DownloadError, DownloadFile, Reason
from app.download.retry import Retry
from app.download.segments import Segments
from app.download.source import Reply, Source, Timing, TransientError
from app.errors import Cancelled

DEFAULT_CONNECTIONS = 4
PIECE_BYTES = 512 * units.KIB
SYNC_BYTES = 64 * units.MIB
"""So many bytes at most are written and not known to be on disk yet, or all of the last seconds."""
SYNC_S = 2.0
MAX_PASSES = 4

log = logging.getLogger("app.download.transfer")


@dataclasses.dataclass(slots=True)
class _Run:
    """Bytes that one connection fetches: where it is, and the CRC-32 of the segment so far."""

    position: int
    end: int
    crc: int = 0


class Transfer:
    """Brings one file into `part`; run once.

    Attributes:
        retry: When what failed is tried again.
        open_connections: That bring bytes now.
        handle: Keeps others from writing `part` until it is closed, which is left to the caller.
    """

    def __init__(
        self,
        file: DownloadFile,
        part: Path,
        record: Path,
        commit: str,
        source: Source,
        *,
        connections: int = DEFAULT_CONNECTIONS,
        limiter: Limiter | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Take on what `record` proves of `part`; nothing is fetched before `run`.

        Args:
            file: What the file is to be.
            part: Where it grows; nobody else may write there.
            record: The crash record.
            commit: The file's; a record of another one is of no use.
            source: Gives the bytes.
            connections: How many at once.
            limiter: The limit in bytes per second.
            timing: How long to wait for what.

        Raises:
            DownloadError: The disk does not take the file.
        """
        self._file = file
        self._part = part
        self._source = source
        self._stop = threading.Event()
        self._limiter = limiter or Limiter()
        self._count = connections
        self.retry = Retry(timing or Timing(), self._stop)
        self.open_connections = 0
        self._received = [0] * connections
        self._skipped = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._error: BaseException | None = None
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            self.handle = own(part)
        except OSError as error:
            raise disk_error(error, part) from error
        self._segments, self._journal = self._prepare(record, commit)
        self._hasher = Hasher(file, part, self._segments, self._stop)

    @property
    def written_bytes(self) -> int:
        """On disk and in the crash record."""
        return self._segments.written_bytes

    @property
    def file(self) -> DownloadFile:
        """With the digest that it has proved to have; none if none is published."""
        return self._file

    @property
    def fetched(self) -> bool:
        """True while all is on disk and only the hash is to be finished."""
        return self._segments.written_bytes == self._file.size_bytes

    @property
    def hashed_bytes(self) -> int:
        """In the checksum so far."""
        return self._hasher.hashed_bytes

    @property
    def refetched_bytes(self) -> int:
        """Received in vain in this run: damaged, or not asked for."""
        return self._segments.lost_bytes + self._skipped

    @property
    def received_bytes(self) -> int:
        """From the source in this run."""
        return sum(self._received)

    def halt(self) -> None:
        """End it soon; `run` raises `Cancelled`."""
        self._stop.set()
        self._segments.stop()
        self._source.abort()
        self._limiter.wake()
        self.retry.wake()

    def run(self) -> None:
        """Fetch what is missing and check all of it.

        Raises:
            Cancelled: `halt` was called; what is on disk is kept.
            DownloadError: It cannot go on; what is on disk is kept.
        """
        redone = False
        try:
            for _ in range(MAX_PASSES):
                digest = self._pass()
                if self._file.digest is None:
                    self._file = dataclasses.replace(self._file, sha256=self._published())
                if self._file.digest in (None, digest):
                    return
                lost = self._damaged()
                if not lost and redone:
                    break
                redone = redone or not lost
                log.info("%s: wrong checksum, %d segments damaged", self._file.path, len(lost))
                self._segments.lose(lost or range(self._segments.count))
        finally:
            self._journal.close()
            self._source.abort()
        raise DownloadError(
            Reason.DAMAGED,
            f"{self._file.path} has a wrong checksum, even after it was fetched again.",
            detail=f"It should be {self._file.digest}.",
            hint=self._source.blame,
        )

    def _published(self) -> str | None:
        """The digest that the list of files lacked, if there is one."""
        while not self._stop.is_set():
            try:
                return self._source.sha256()
            except TransientError as error:
                self.retry.wait(0, error)
        raise Cancelled

    # --- the beginning ------------------------------------------------------

    def _prepare(self, path: Path, commit: str) -> tuple[Segments, journals.Journal]:
        """What is proven to be on disk, a new record of it, and room for the rest."""
        try:
            record = journals.read(path, commit, self._file)
            if record is not None:
                record = journals.proven(record, self._part, self._file)
            allocate(self.handle.fileno(), self._file.size_bytes)
            os.fsync(self.handle.fileno())
            written = journals.Journal(path, commit, self._file, record)
        except BaseException as error:
            self.handle.close()
            if isinstance(error, OSError):
                raise disk_error(error, self._part) from error
            raise
        digests = record.digests if record else {}
        return Segments(self._file.size_bytes, written.segment_bytes, digests), written

    def _open(self, mode: str) -> io.FileIO:
        return io.FileIO(self._part, mode, opener=no_follow)

    # --- one pass over the file ---------------------------------------------

    def _pass(self) -> str:
        """Fetch all that is missing while all is hashed; returns the digest."""
        found: list[str] = []
        ended = threading.Event()
        self._segments.begin()
        if self._stop.is_set():
            raise Cancelled
        threads = [self._thread("hash", lambda: found.append(self._hash()))]
        for number in range(self._count):
            work = functools.partial(self._fetch_all, number)
            threads.append(self._thread(f"fetch-{number}", work))
        flusher = self._thread("sync", lambda: self._flush(ended))
        for thread in (*threads, flusher):
            thread.start()
        for thread in threads:
            thread.join()
        ended.set()
        flusher.join()
        # Kept, it would keep this transfer with all its buffers: its traceback leads here.
        error, self._error = self._error, None
        if error is not None and not isinstance(error, Cancelled):
            raise error
        if self._stop.is_set() or not found:
            raise Cancelled
        return found[0]

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except OSError as error:
                self._fail(disk_error(error, self._part))
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                self._fail(error)

        return threading.Thread(target=guarded, name=f"download-{name}", daemon=True)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self.halt()

    # --- connections --------------------------------------------------------

    def _fetch_all(self, number: int) -> None:
        """The life of one connection: runs of segments, until all are hashed."""
        with self._open("r+b") as out:
            while not self._segments.stopped:
                if number and not self._source.ranged:
                    return
                taken = self._segments.take(self._count, to_the_end=not self._source.ranged)
                if taken is None:
                    # The hash may still find a damaged segment.
                    self._segments.wait_missing()
                    continue
                run = _Run(*taken)
                try:
                    self._fetch(number, run, out)
                finally:
                    self._segments.give_back(run.position, run.end)

    def _fetch(self, number: int, run: _Run, out: io.FileIO) -> None:
        """Bring a run, however often its connection breaks."""
        while run.position < run.end and not self._stop.is_set():
            before = run.position
            try:
                reply = self._source.open(run.position, run.end)
                try:
                    self._stream(number, run, reply, out)
                finally:
                    reply.close()
            except TransientError as error:
                if self._stop.is_set():
                    return
                log.info("%s at %d: %s", self._file.path, run.position, error)
                if run.position > before:
                    error.wait_s = error.wait_s or 0.0
                self.retry.wait(number, error)
                if number and not self._source.ranged:
                    return

    def _stream(self, number: int, run: _Run, reply: Reply, out: io.FileIO) -> None:
        """Write a reply in place, each segment into the record once it is whole."""
        segment_bytes, read, take = self._segments.segment_bytes, reply.read, self._limiter.take
        begun = out.seek(run.position)
        with self._lock:
            self.open_connections += 1
        try:
            while run.position < run.end and not self._stop.is_set():
                boundary = min(run.end, (run.position // segment_bytes + 1) * segment_bytes)
                data = read(self._limiter.piece(min(PIECE_BYTES, boundary - run.position)))
                if not data:
                    raise TransientError("it ends too early")
                if run.position == begun:
                    self.retry.worked(number)
                take(len(data), self._stop)
                # One at a time: all that wait for the file inside the kernel would wait busily.
                with self._writing:
                    if self._stop.is_set():
                        return
                    write(out, data)
                self._received[number] += len(data)
                run.crc = zlib.crc32(data, run.crc)
                run.position += len(data)
                if run.position == boundary:
                    index = (boundary - 1) // segment_bytes
                    self._journal.add(index, run.crc)
                    self._segments.written(index, run.crc)
                    run.crc = 0
        finally:
            with self._lock:
                self.open_connections -= 1
                self._skipped += reply.skipped_bytes

    # --- the hash, the disk -------------------------------------------------

    def _hash(self) -> str:
        digest = self._hasher.digest()
        self._segments.stop()
        return digest

    def _damaged(self) -> list[int]:
        try:
            return self._hasher.damaged()
        except OSError as error:
            raise disk_error(error, self._part) from error

    def _flush(self, ended: threading.Event) -> None:
        """Let what is written reach the disk, now and then and at the end, and write that down."""
        synced, since = self._journal.count, time.monotonic()
        limit = SYNC_BYTES // self._segments.segment_bytes
        with self._open("r+b") as stream:
            while True:
                last = ended.wait(0.1)
                count, now = self._journal.count, time.monotonic()
                if count == synced:
                    since = now
                elif last or count - synced >= limit or now - since >= SYNC_S:
                    getattr(os, "fdatasync", os.fsync)(stream.fileno())
                    self._journal.mark_synced(count)
                    synced, since = count, now
                if last:
                    return
