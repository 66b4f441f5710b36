"""`DownloadService`: the queue of downloads, asked from any thread."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from app.catalog.repository import FileSet
from app.catalog.search import HubLookUps
from app.download import requests
from app.download.manager import DownloadManager, Hours
from app.download.model import (
    Download,
    DownloadEvent,
    DownloadProgressed,
    DownloadRemoved,
    DownloadState,
    DownloadStateChanged,
)
from app.download.source import Timing
from app.service.jobs import Emit, Worker, close_soon


class DownloadService:
    """Methods return at once; what comes of them arrives as events."""

    def __init__(
        self,
        records: Path,
        models: Path,
        emit: Emit,
        lookups: HubLookUps,
        *,
        on_done: Callable[[Download], None],
        timing: Timing | None = None,
    ) -> None:
        """Nothing runs before `start`.

        Args:
            records: Where the queue and the crash records are kept.
            models: Where the files go.
            emit: Told of everything.
            lookups: Tells whether a branch has moved.
            on_done: Told of each download that is whole and right.
            timing: How long to wait for what.
        """
        self._records = records
        self._folder = models
        self._emit = emit
        self._lookups = lookups
        self._on_done = on_done
        self._timing = timing
        self._manager: DownloadManager | None = None
        self._known: dict[str, Download] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._jobs = Worker("downloads", emit)

    def start(self, bytes_per_s: int | None = None, hours: Hours | None = None) -> None:
        """Go on with the downloads of earlier runs."""

        def job() -> None:
            if self._manager is None:
                made = DownloadManager(
                    self._records,
                    self._told,
                    bytes_per_s=bytes_per_s,
                    hours=hours,
                    timing=self._timing,
                    latest_commit=lambda repo, revision: (
                        self._lookups.snapshot(repo, revision).value.commit
                    ),
                )
                with self._lock:
                    self._manager, late = made, self._closed
                if late:
                    made.close()

        self._jobs.submit(job)

    def _told(self, event: DownloadEvent) -> None:
        with self._lock:
            self._learn(event)
        self._emit(event)
        if isinstance(event, DownloadStateChanged) and event.download.state is DownloadState.DONE:
            self._on_done(event.download)

    def _learn(self, event: DownloadEvent) -> None:
        match event:
            case DownloadStateChanged(download=download):
                self._known[download.id] = download
            case DownloadProgressed(id=id, progress=progress) if id in self._known:
                self._known[id] = dataclasses.replace(self._known[id], progress=progress)
            case DownloadRemoved(id=id):
                self._known.pop(id, None)
            case _:
                pass

    def all(self) -> tuple[Download, ...]:
        """The queue as it was told last; never waits for the disk, as the queue itself may."""
        with self._lock:
            return tuple(self._known.values())

    def _ask(self, what: Callable[[DownloadManager], object]) -> None:
        def job() -> None:
            if self._manager is not None:
                what(self._manager)

        self._jobs.submit(job)

    def enqueue(
        self,
        found: FileSet,
        revision: str,
        *,
        folder: Path | None = None,
        source: Path | None = None,
        projector: FileSet | None = None,
    ) -> None:
        """Download a set of files of the Hub, or go on with it.

        Args:
            found: The set.
            revision: What was asked for when it was found.
            folder: The folder of models that takes it; None for the app's.
            source: A folder to copy from instead; what comes from it is checked all the same.
            projector: What is to come along for pictures or sound.
        """
        wanted = requests.of_set(found, revision, folder or self._folder, projector=projector)
        request = dataclasses.replace(wanted, source=source)
        self._ask(lambda manager: manager.add(request))

    def pause(self, id: str) -> None:
        """Halt a download; what is on disk stays."""
        self._ask(lambda manager: manager.pause(id))

    def resume(self, id: str) -> None:
        """Go on with a download, or try again."""
        self._ask(lambda manager: manager.resume(id))

    def continue_from(self, id: str, source: Path | None) -> None:
        """Bring the rest of a download from a folder; None: from the Hub."""

        def job(manager: DownloadManager) -> None:
            request = next((d.request for d in manager.downloads() if d.id == id), None)
            if request is not None:
                manager.add(dataclasses.replace(request, source=source))

        self._ask(job)

    def start_first(self, id: str) -> None:
        """Run a download before all others."""

        def job(manager: DownloadManager) -> None:
            highest = max((d.request.priority for d in manager.downloads()), default=0)
            manager.prioritize(id, highest + 1)
            manager.resume(id)

        self._ask(job)

    def discard(self, id: str) -> None:
        """Take a download out of the queue and delete what is unfinished of it."""
        self._ask(lambda manager: manager.discard(id))

    def remove(self, id: str) -> None:
        """Take a finished download out of the list; its files stay."""
        self._ask(lambda manager: manager.remove(id))

    def change_limit(self, bytes_per_s: int | None) -> None:
        """Another limit over all downloads, from now on."""
        self._ask(lambda manager: manager.change_limit(bytes_per_s))

    def change_hours(self, hours: Hours | None) -> None:
        """Other hours in which downloads run."""
        self._ask(lambda manager: manager.change_hours(hours))

    def close(self) -> None:
        """Halt everything and end all threads; the next start goes on with it."""
        with self._lock:
            self._closed = True  # one that is just being made ends itself
        if self._manager is not None:
            self._manager.close()
        close_soon(self._jobs)
