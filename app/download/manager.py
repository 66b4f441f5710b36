"""`DownloadManager`: the queue, its one thread, and what is told about it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.download import jobs, preflight
from app.download.disk import disk_error
from app.download.jobs import Job, Wish
from app.download.limiter import Limiter
from app.download.model import (
    ENDED,
    HALTED,
    Download,
    DownloadError,
    DownloadEvent,
    DownloadRemoved,
    DownloadRequest,
    DownloadState,
    FileVerified,
    Reason,
    UpdateFound,
)
from app.download.records import Records
from app.download.set_run import SetRun
from app.download.source import Timing
from app.download.transfer import DEFAULT_CONNECTIONS
from app.errors import AppError, Cancelled, ErrorKind

TICK_S = 0.2
CLOSE_S = 20.0
ASK_S = 1.0
"""A question for an update that takes longer is left to itself when the manager closes."""

Listener = Callable[[DownloadEvent], None]
log = logging.getLogger("app.download.manager")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """When downloads run, by this machine's clock; over midnight if `start` is after `end`."""

    start: datetime.time
    end: datetime.time

    def include(self, moment: datetime.datetime) -> bool:
        """True if downloads run at `moment`."""
        now = moment.time()
        if self.start <= self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


@contextlib.contextmanager
def _guarded(job: Job) -> Iterator[None]:
    try:
        yield
    except Exception:
        log.exception("the queue cannot handle the download of %s", job.request.repo)


def _of_the_app(error: AppError) -> DownloadError:
    """An error of another package: that of a token asks for another one."""
    reason = Reason.NEEDS_LOGIN if error.kind is ErrorKind.SETTINGS else Reason.BAD_SERVER
    return DownloadError(reason, error.title, detail=error.detail, hint=error.hint)


class DownloadManager:
    """Brings sets of files, one at a time on each disk; the queue outlives the process.

    Methods return at once. Events come on the manager's own threads, those of one download in order.
    """

    def __init__(
        self,
        folder: Path,
        listener: Listener,
        *,
        restore: bool = True,
        connections: int = DEFAULT_CONNECTIONS,
        bytes_per_s: int | None = None,
        hours: Hours | None = None,
        timing: Timing | None = None,
        latest_commit: Callable[[str, str], str] | None = None,
        clock: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        """Start the queue's thread.

        Args:
            folder: Where queue, crash records and locks are kept.
            listener: Told of everything.
            restore: Take on the downloads of earlier processes; those that ran go on.
            connections: For each file.
            bytes_per_s: Limit over all downloads, None for none.
            hours: When downloads run, None for always.
            timing: How long to wait for what.
            latest_commit: What commit a repository's branch is at now; asked once for each download.
            clock: The time of day.
        """
        self.records = Records(folder)
        self._listener = listener
        self._connections = connections
        self._limiter = Limiter(bytes_per_s)
        self._hours = hours
        self._timing = timing
        self._latest_commit = latest_commit
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._condition = threading.Condition(threading.RLock())
        self._closed = False
        self._asking: list[threading.Thread] = []
        if restore:
            for job in jobs.load(self.records):
                self._jobs[job.id] = job
        self._thread = threading.Thread(target=self._run, name="download-queue", daemon=True)
        self._thread.start()

    # --- what a person asks for ---------------------------------------------

    def add(self, request: DownloadRequest) -> str:
        """Put a set into the queue, or go on with it if it is there already; returns its id.

        Raises:
            DownloadError: A name or size in it is not safe.
        """
        preflight.check_names(request)
        with self._condition:
            job = self._jobs.get(request.id)
            if job is None or job.state is DownloadState.DONE:
                order = 1 + max((j.order for j in self._jobs.values()), default=0)
                job = self._jobs[request.id] = Job(request, self.records, order=order)
            job.request = request
            self._wish(job, Wish.RUN)
        return request.id

    def pause(self, id: str) -> None:
        """Halt a download; what is on disk stays."""
        with self._condition:
            self._wish(self._jobs[id], Wish.PAUSE)

    def resume(self, id: str) -> None:
        """Go on with a download that is paused, failed, or lacks space or a login."""
        with self._condition:
            self._wish(self._jobs[id], Wish.RUN)

    def prioritize(self, id: str, priority: int) -> None:
        """Run a download before those of lower priority; one of them that runs makes way."""
        with self._condition:
            job = self._jobs[id]
            job.request = dataclasses.replace(job.request, priority=priority)
            job.save()
            self._condition.notify_all()

    def discard(self, id: str) -> None:
        """Take a download out of the queue, and delete what is unfinished of it."""
        with self._condition:
            self._wish(self._jobs[id], Wish.DISCARD)

    def remove(self, id: str) -> None:
        """Take a finished download out of the list; its files stay."""
        removed = False
        with self._condition:
            if self._jobs[id].state in ENDED:
                self._jobs[id].forget()
                del self._jobs[id]
                removed = True
        if removed:
            self._tell(DownloadRemoved(id=id))

    def change_limit(self, bytes_per_s: int | None) -> None:
        """Another limit over all downloads, from now on."""
        self._limiter.change(bytes_per_s)

    def change_hours(self, hours: Hours | None) -> None:
        """Other hours in which downloads run."""
        with self._condition:
            self._hours = hours
            self._condition.notify_all()

    def downloads(self) -> tuple[Download, ...]:
        """The queue, in the order in which it is worked off."""
        with self._condition:
            return tuple(job.download for job in self._ordered())

    def close(self) -> None:
        """Halt everything and end all threads; the next process goes on with it."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            running = [job for job in self._jobs.values() if job.run is not None]
            for job in running:
                job.halt()
        self._thread.join()
        for job in running:
            job.join(CLOSE_S)
        until = time.monotonic() + ASK_S
        for thread in self._asking:
            thread.join(max(0.0, until - time.monotonic()))

    # --- the queue's thread -------------------------------------------------

    def _wish(self, job: Job, wish: Wish) -> None:
        job.wish = wish
        if wish is not Wish.RUN:
            job.halt()
        elif job.state in HALTED:
            job.change(DownloadState.QUEUED)
        job.save()  # last: a slow disk holds up neither pause nor resume
        self._condition.notify_all()

    def _ordered(self) -> list[Job]:
        return sorted(self._jobs.values(), key=lambda job: (-job.request.priority, job.order))

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._closed:
                    return
                events = self._step()
                idle = not events and all(job.run is None for job in self._jobs.values())
                if idle and not self._closed:
                    self._condition.wait(1.0 if self._hours else None)
                elif not events:
                    self._condition.wait(TICK_S)
            for event in events:
                self._tell(event)
            if events:
                # Figures are never twice the same: without this they would be told without a break.
                with self._condition:
                    if not self._closed:
                        self._condition.wait(TICK_S)

    def _step(self) -> list[DownloadEvent]:
        """Start and halt what is due; returns what there is to tell.

        What goes wrong with one download leaves the others alone.
        """
        allowed = self._hours is None or self._hours.include(self._clock())
        busy: set[int] = set()
        for job in self._ordered():
            with _guarded(job):
                self._move(job, allowed, busy)
        events: list[DownloadEvent] = []
        for job in self._ordered():
            with _guarded(job):
                if job.wish is Wish.DISCARD and job.run is None:
                    job.discard()
                    del self._jobs[job.id]
                    events.append(DownloadRemoved(id=job.id))
                else:
                    events += job.news()
        return events

    def _move(self, job: Job, allowed: bool, busy: set[int]) -> None:
        """Start or halt one download; `busy` are the disks that those before it use."""
        if job.wish is Wish.DISCARD and job.run is None:
            return
        volume = preflight.volume(job.request.folder)
        wanted = job.wish is Wish.RUN and job.state not in HALTED
        if wanted and allowed and volume not in busy:
            busy.add(volume)
            if job.run is None and not self._occupied(volume):
                self._start(job)
        elif job.run is not None:
            job.halt()
        elif job.wish is Wish.PAUSE and job.state not in ENDED:
            job.change(DownloadState.PAUSED, Reason.ASKED)
        elif wanted:
            job.change(DownloadState.QUEUED, Reason.NONE if allowed else Reason.SCHEDULE)

    def _occupied(self, volume: int) -> bool:
        return any(
            job.run is not None and preflight.volume(job.request.folder) == volume
            for job in self._jobs.values()
        )

    def _start(self, job: Job) -> None:
        run = SetRun(
            job.request,
            self.records,
            connections=self._connections,
            limiter=self._limiter,
            timing=self._timing,
            on_verified=lambda path: self._tell(FileVerified(id=job.id, path=path)),
            floor=job.download.progress,
        )
        job.start(run, lambda: self._work(job, run))

    def _work(self, job: Job, run: SetRun) -> None:
        """A download's own thread."""
        error: DownloadError | None = None
        done = False
        try:
            self._ask_for_update(job)
            run.run()
            done = True
        except Cancelled:
            pass
        except DownloadError as problem:
            error = problem
        except OSError as problem:
            error = disk_error(problem, job.request.folder)
        except AppError as problem:
            error = _of_the_app(problem)
        except Exception as problem:
            log.exception("download of %s", job.request.repo)
            error = DownloadError(
                Reason.DISK,
                f"The download of {job.request.repo} stopped on an error of the app.",
                detail=repr(problem),
                hint="Resume it; if it stops again, `doctor` shows what a report needs.",
            )
        with self._condition:
            job.ended(done, error)
            self._condition.notify_all()

    def _ask_for_update(self, job: Job) -> None:
        """Look for an update once, beside the download: a Hub may take long to answer."""
        ask = self._latest_commit
        if ask is None or job.asked_for_update or job.request.source is not None:
            return
        job.asked_for_update = True
        thread = threading.Thread(
            target=self._look_for_update, args=(job, ask), name="download-update", daemon=True
        )
        self._asking = [t for t in self._asking if t.is_alive()] + [thread]
        thread.start()

    def _look_for_update(self, job: Job, ask: Callable[[str, str], str]) -> None:
        """Tell if the branch has moved; the download goes on with its own commit."""
        try:
            commit = ask(job.request.repo, job.request.revision)
        except Exception as error:  # noqa: BLE001 - it is only to tell
            log.info("no news of %s: %s", job.request.repo, error)
            return
        if commit != job.request.commit and not self._closed:
            self._tell(UpdateFound(id=job.id, commit=commit))

    def _tell(self, event: DownloadEvent) -> None:
        try:
            self._listener(event)
        except Exception:
            log.exception("a listener failed on %s", type(event).__name__)
