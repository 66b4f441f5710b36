"""One entry of the queue: what is wanted of it, what it does now, and its file on disk."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pydantic

from app.download import preflight
from app.download.disk import own
from app.download.model import (
    Download,
    DownloadError,
    DownloadEvent,
    DownloadFile,
    DownloadProgressed,
    DownloadRequest,
    DownloadState,
    DownloadStateChanged,
    Progress,
    Reason,
)
from app.download.records import Records, new_of, write_json
from app.download.set_run import SetRun, only_writer

log = logging.getLogger("app.download.jobs")


class Wish(enum.StrEnum):
    """What a person wants of a download."""

    RUN = "run"
    PAUSE = "pause"
    DISCARD = "discard"


_STATES = {
    Reason.NEEDS_LOGIN: DownloadState.NEEDS_LOGIN,
    Reason.NO_SPACE: DownloadState.NO_SPACE,
    Reason.OTHER_PROCESS: DownloadState.PAUSED,
}


class Job:
    """A download of the queue; all but `start`'s work happens under the manager's lock."""

    def __init__(
        self, request: DownloadRequest, records: Records, *, order: int, wish: Wish = Wish.RUN
    ) -> None:
        """Not saved yet."""
        self.request = request
        self.order = order
        self.wish = wish
        self.asked_for_update = False
        self.run: SetRun | None = None
        self.state = DownloadState.QUEUED
        self._records = records
        self._thread: threading.Thread | None = None
        self._reason = Reason.NONE
        self._error: DownloadError | None = None
        self._retry_in_s: float | None = None
        self._progress = SetRun(request, records).progress()
        self._told: tuple[object, ...] = ()
        self._told_progress: Progress | None = None

    @property
    def id(self) -> str:
        """The request's."""
        return self.request.id

    @property
    def download(self) -> Download:
        """As it is now."""
        return Download(
            request=self.request,
            state=self.state,
            progress=self._progress,
            reason=self._reason,
            error=self._error,
            retry_in_s=self._retry_in_s,
        )

    # --- its life -----------------------------------------------------------

    def start(self, run: SetRun, work: Callable[[], None]) -> None:
        """Run on a thread of its own."""
        self.run = run
        self.change(DownloadState.RESOLVING)
        self._thread = threading.Thread(target=work, name=f"download-{self.id}", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """End its run soon."""
        if self.run is not None:
            self.run.halt()

    def join(self, timeout_s: float) -> None:
        """Wait for its thread."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def ended(self, done: bool, error: DownloadError | None) -> None:
        """Its run is over."""
        if self.run is not None:
            self._progress = self.run.progress()
        self.run = None
        if done:
            self.forget()
            self.change(DownloadState.DONE)
        elif error is not None:
            state = _STATES.get(error.reason, DownloadState.FAILED)
            self.change(state, error.reason, error)
        elif self.wish is Wish.PAUSE:
            self.change(DownloadState.PAUSED, Reason.ASKED)
        else:
            self.change(DownloadState.QUEUED)

    def change(
        self,
        state: DownloadState,
        reason: Reason = Reason.NONE,
        error: DownloadError | None = None,
        retry_in_s: float | None = None,
    ) -> None:
        """Another state; told with the next `news`."""
        self.state, self._reason, self._error = state, reason, error
        self._retry_in_s = retry_in_s

    def news(self) -> list[DownloadEvent]:
        """What has changed since the last call."""
        events: list[DownloadEvent] = []
        if self.run is not None:
            self._progress = self.run.progress()
            if self.wish is Wish.PAUSE:
                self.change(DownloadState.PAUSED, Reason.ASKED)
            else:
                state, reason, retry_in_s = self.run.phase()
                self.change(state, reason, None, retry_in_s)
        told = (self.state, self._reason, round(self._retry_in_s or 0))
        if self._progress != self._told_progress:
            self._told_progress = self._progress
            events.append(DownloadProgressed(id=self.id, progress=self._progress))
        if told != self._told:
            self._told = told
            events.append(DownloadStateChanged(download=self.download))
        return events

    # --- its file -----------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self._records.jobs / f"{self.id}.json"

    def save(self) -> None:
        """Let the next process know of it."""
        stored = _Stored(
            wish=self.wish,
            order=self.order,
            repo=self.request.repo,
            revision=self.request.revision,
            commit=self.request.commit,
            files=self.request.files,
            folder=self.request.folder,
            priority=self.request.priority,
            source=self.request.source,
        )
        try:
            write_json(self._path, stored.model_dump(mode="json"))
        except OSError as error:
            # The download itself can go on, and tells if the disk is full.
            log.warning("the queue cannot be saved: %s", error)

    def forget(self) -> None:
        """The next process need not know of it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            new_of(self._path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget it and delete what is unfinished of it."""
        self.forget()
        for file in self.request.files:
            target = self.request.target(file)
            with contextlib.suppress(OSError, DownloadError), only_writer(self._records, target):
                part = preflight.part_of(target)
                if part.exists():
                    own(part).close()  # raises if another process writes it
                    part.unlink()
                if not target.exists():
                    self._records.forget(target)
                    remove_empty(target.parent, self.request.folder)


def remove_empty(folder: Path, top: Path) -> None:
    """Delete `folder` and those above it as long as they are empty, but not `top`."""
    while (
        folder != top
        and folder.is_relative_to(top)
        and folder.is_dir()
        and not any(folder.iterdir())
    ):
        folder.rmdir()
        folder = folder.parent


class _Stored(pydantic.BaseModel):
    """A job's file. Later versions may add fields, with defaults."""

    model_config = pydantic.ConfigDict(extra="ignore")

    version: int = 1
    wish: Wish
    order: int
    repo: str
    revision: str
    commit: str
    files: tuple[DownloadFile, ...]
    folder: Path
    priority: int = 0
    source: Path | None = None


def load(records: Records) -> list[Job]:
    """The downloads that earlier processes left; a file that makes no sense is set aside."""
    found = []
    for path in sorted(records.jobs.glob("*.json")):
        try:
            stored = _Stored.model_validate(json.loads(path.read_text(encoding="utf-8")))
            request = DownloadRequest(
                repo=stored.repo,
                revision=stored.revision,
                commit=stored.commit,
                files=stored.files,
                folder=stored.folder,
                priority=stored.priority,
                source=stored.source,
            )
            preflight.check_request(request)
        except (OSError, ValueError, DownloadError) as error:
            log.warning("the job %s makes no sense and is set aside: %s", path.name, error)
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".broken"))
            continue
        job = Job(request, records, order=stored.order, wish=stored.wish)
        if stored.wish is Wish.PAUSE:
            job.change(DownloadState.PAUSED, Reason.ASKED)
        found.append(job)
    return found
