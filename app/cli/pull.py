"""`pull`: bring a model here."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import queue
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from app import paths, units
from app.catalog import names, repository
from app.catalog.hub import Address
from app.catalog.repository import Snapshot
from app.catalog.search import HubLookUps
from app.cli import already, signals, where
from app.download import jobs, preflight, requests, text
from app.download.manager import DownloadManager
from app.download.model import (
    HALTED,
    Download,
    DownloadEvent,
    DownloadProgressed,
    DownloadRequest,
    DownloadState,
    DownloadStateChanged,
    FileVerified,
    Progress,
    UpdateFound,
)
from app.download.transfer import DEFAULT_CONNECTIONS
from app.errors import AppError, ErrorKind
from app.settings.model import Settings

MAX_CONNECTIONS = 16
_LABEL = 32
"""Characters of a file's name beside its bar."""
_OTHER_LINES = 5
"""Of a terminal, for the bar of all, the figures, and what stands above and below."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?(?:/s)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `pull`."""
    command.add_argument("model", help=where.MODEL)
    command.add_argument(
        "--mmproj", action="store_true",
        help="its projector for pictures or sound, too; this app does not run it yet",
    )  # fmt: skip
    command.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER",
        help="copy from a folder, disk or share instead of a download, and check it all the same",
    )  # fmt: skip
    command.add_argument(
        "--limit", type=_rate, metavar="RATE",
        help="bytes per second: 20MB, or none; as in the window if left out",
    )  # fmt: skip
    command.add_argument(
        "--connections", type=_connections, default=DEFAULT_CONNECTIONS, metavar="N",
        help=f"for each file, {DEFAULT_CONNECTIONS} by default",
    )  # fmt: skip
    where.add_folder(command)


def _rate(words: str) -> int:
    """Bytes per second; 0 for no limit."""
    if words.lower() == "none":
        return 0
    match = _SIZE.fullmatch(words)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{words} is not a size such as 20MB, and not none")
    return max(1, round(float(match[1]) * _FACTORS[match[2].lower()]))


def _connections(words: str) -> int:
    value = int(words) if words.isdecimal() else 0
    if not 1 <= value <= MAX_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"choose 1 to {MAX_CONNECTIONS} connections")
    return value


def pull(options: argparse.Namespace, settings: Settings) -> int:
    """Bring a model here; Ctrl+C, SIGTERM and SIGHUP pause, and the same command goes on."""
    with signals.interrupted_by_signals():
        addresses, folders = where.addresses(options.model), where.folders(options, settings)
        try:
            request = _request(options, settings, addresses, folders)
        except AppError as error:
            found = _complete(addresses, folders) if error.kind is ErrorKind.NETWORK else None
            if found is None or options.mmproj:
                raise
            return already.tell(*found, options, error)
        if options.to is not None:
            where.check_takes(request.folder)
        where.remember(request.folder, settings)
        limit = settings.download_limit if options.limit is None else options.limit
        return _run(request, options, limit)


def _complete(
    addresses: Sequence[Address], folders: Sequence[Path]
) -> tuple[Address, Sequence[Path]] | None:
    """The address that a whole set on disk is of, with its files."""
    for address, folder, chosen in where.here(addresses, folders):
        targets = requests.local_files(chosen, folder)
        if all(path.is_file() and not preflight.part_of(path).exists() for path in targets):
            return address, targets
    return None


def _request(
    options: argparse.Namespace,
    settings: Settings,
    addresses: Sequence[Address],
    folders: Sequence[Path],
) -> DownloadRequest:
    """What is to come: what was begun before, else as the Hub has it now."""
    known = where.records()
    begun = (requests.unfinished(addresses, folder, known) for folder in folders)
    request = next((one for one in begun if one is not None), None)
    if request is None:
        here = next((folder for _, folder, _ in where.here(addresses, folders)), folders[0])
        if options.to is None:
            where.check_there(here, settings)
        request = _asked(addresses, here, options)
    elif options.mmproj and not requests.has_projector(request):
        request = _with_projector(request)
    # What was begun from a folder goes on from the Hub, unless that is said again.
    source = options.source and options.source.expanduser().absolute()
    if source is not None and source.is_file():
        source = source.parent  # one of its files was named
    return dataclasses.replace(request, source=source)


def _asked(
    addresses: Sequence[Address], folder: Path, options: argparse.Namespace
) -> DownloadRequest:
    """As the Hub has it; where it is out of reach, a copy is checked by what it said before."""
    if options.source is None:
        return requests.ask(addresses, folder, projector=options.mmproj)

    def read(repo: str, revision: str | None) -> Snapshot:
        answer = HubLookUps(paths.folders().cache).snapshot(repo, revision, refresh=True)
        if answer.notice:
            age = units.format_age(answer.age_s)
            print(f"{answer.notice} Checked by what it said {age} ago.", file=sys.stderr)
        return answer.value

    return requests.ask(addresses, folder, projector=options.mmproj, read=read)


def _with_projector(request: DownloadRequest) -> DownloadRequest:
    """A request that was begun, with the projector of its own commit."""
    address = Address(repo=request.repo, path=request.files[0].path, revision=request.commit)
    both = requests.ask([address], request.folder, projector=True)
    for job in jobs.load(where.records()):
        if job.id == request.id:
            job.forget()  # one entry of the queue for the same files; the bytes are taken on
    return dataclasses.replace(both, revision=request.revision, priority=request.priority)


def _run(request: DownloadRequest, options: argparse.Namespace, limit: int | None) -> int:
    """Bring a request here, and show how."""
    events: queue.SimpleQueue[DownloadEvent] = queue.SimpleQueue()
    manager = DownloadManager(
        paths.folders().data / "downloads",
        events.put,
        restore=False,
        connections=options.connections,
        bytes_per_s=limit,
        latest_commit=lambda repo, revision: repository.read_snapshot(repo, revision).commit,
    )
    code = 0
    try:
        id_ = manager.add(request)
        show = _JsonFace() if options.json else _Face(request)
        with show:
            try:
                last = _follow(events, show)
            except KeyboardInterrupt as stop:
                code = signals.exit_code(stop)
                manager.pause(id_)
                last = _follow(events, show)
    finally:
        manager.close()
    if last.error is not None:
        raise last.error
    if last.state is DownloadState.DONE:
        show.end(text.ended(last))
        return 0
    show.end(f"Paused at {text.figures(last.progress)}. The same command goes on from there.")
    return code or 130


def _follow(events: queue.SimpleQueue[DownloadEvent], show: _Shown) -> Download:
    """Show what is told until the download stands still."""
    while True:
        event = events.get()
        show.tell(event)
        if isinstance(event, DownloadStateChanged) and event.download.state in HALTED:
            return event.download


class _JsonFace:
    """Events one a line."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def tell(self, event: DownloadEvent) -> None:
        """Print the event."""
        print(json.dumps(text.to_json(event)), flush=True)

    def end(self, _words: str) -> None:
        """The last event said it."""


class _Console(Console):
    """Tells a reader that is gone as `print` does."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class _Bars(Bars):
    """Bars, and below them a line that may be longer than they are."""

    words = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """What is drawn."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.words)


class _Face:
    """A bar for each file and one for all."""

    def __init__(self, request: DownloadRequest) -> None:
        """Bars for the files of a request."""
        self._bars = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            refresh_per_second=4,
            console=_Console(),
        )
        self._request = request
        self._files = [
            self._bars.add_task(_label(file.path), total=file.size_bytes or 1, figures="")
            for file in request.files
        ]
        self._all = self._bars.add_task("all", total=request.size_bytes or 1, figures="")
        self._state = ""

    def __enter__(self) -> None:
        """Say what comes where, and show the bars."""
        request = self._request
        first = request.target(request.files[0])
        size = units.format_file_size(request.size_bytes)
        self._say(f"{names.printable(first.name)}, {units.format_files(len(request.files))}, "
                  f"{size}, to {first.parent}")  # fmt: skip
        self._bars.start()

    def __exit__(self, *_: object) -> None:
        """Leave them as they are."""
        self._bars.stop()

    def _say(self, words: str) -> None:
        """A line above the bars."""
        self._bars.console.print(Text(words), soft_wrap=True)

    def tell(self, event: DownloadEvent) -> None:
        """Move the bars."""
        match event:
            case DownloadProgressed(progress=progress):
                self._draw(progress)
            case DownloadStateChanged(download=download):
                self._state = text.describe(download)
                self._draw(download.progress)
            case UpdateFound(commit=commit):
                self._say(
                    f"The branch has moved to {commit[:12]}; this goes on with the commit it began "
                    "with. Pull again afterwards for the new one."
                )
            case FileVerified(path=path):
                if not self._bars.console.is_terminal:
                    self._say(f"{path.name}: verified")
            case _:
                pass

    def _draw(self, progress: Progress) -> None:
        seen = self._seen(progress)
        for index, (task, file) in enumerate(zip(self._files, progress.files, strict=True)):
            done = file.written_bytes / file.size_bytes if file.size_bytes else float(file.verified)
            figures = "verified" if file.verified else units.format_percent(done)
            completed = file.written_bytes if file.size_bytes else int(file.verified)
            self._bars.update(task, completed=completed, figures=figures, visible=index in seen)
        done = progress.written_bytes / progress.size_bytes if progress.size_bytes else 1.0
        self._bars.words = f"{text.figures(progress)}  {self._state}"
        self._bars.update(
            self._all, completed=progress.written_bytes, figures=units.format_percent(done)
        )

    def _seen(self, progress: Progress) -> range:
        """The files for which the terminal has room, with the one that comes now among them."""
        count, console = len(progress.files), self._bars.console
        rows = min(count, max(1, console.height - _OTHER_LINES)) if console.is_terminal else count
        now = next((n for n, file in enumerate(progress.files) if not file.verified), count)
        start = min(max(0, now - 1), count - rows)
        return range(start, start + rows)

    def end(self, words: str) -> None:
        """Say how it ended."""
        print(words)


def _label(path: str) -> str:
    """A file's name, short enough to leave room for its bar: of a shard its number."""
    name = names.printable(path.rpartition("/")[2])
    shard = names.SHARD.fullmatch(name)
    if shard is not None:
        return f"{shard['number']}-of-{shard['count']}"
    return name if len(name) <= _LABEL else f"{name[: _LABEL // 2]}…{name[-_LABEL // 2 + 1 :]}"


_Shown = _JsonFace | _Face
