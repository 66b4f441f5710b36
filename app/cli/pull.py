"""`pull`, `verify` and `rm`: bring a model here, check it, delete it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import queue
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from app import paths, units
from app.catalog import entries, hub, names, repository
from app.catalog.hub import Address
from app.download import preflight, requests, text, verify
from app.download.disk import disk_error
from app.download.manager import DownloadManager
from app.download.model import (
    HALTED,
    Download,
    DownloadEvent,
    DownloadFile,
    DownloadProgressed,
    DownloadRequest,
    DownloadState,
    DownloadStateChanged,
    FileVerified,
    Progress,
    UpdateFound,
)
from app.download.records import Records
from app.download.set_run import only_writer
from app.download.transfer import DEFAULT_CONNECTIONS
from app.errors import AppError, ErrorKind
from app.gguf.header import shard_names

MAX_CONNECTIONS = 16
MODEL = "a known model such as nemotron-ultra-253b:Q4_K_M, hf:owner/repo:Q4_K_M, or hf:owner/repo/file.gguf"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?(?:/s)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """`pull`, `verify` and `rm` with their options."""
    bring = add(
        "pull", "download a model; Ctrl+C pauses, again resumes", "pull hf:owner/repo:Q4_K_M"
    )
    bring.add_argument("model", help=MODEL)
    bring.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER",
        help="copy from a folder, disk or share instead of a download, and check it all the same",
    )  # fmt: skip
    bring.add_argument("--limit", type=_rate, metavar="RATE", help="bytes per second: 20MB")
    bring.add_argument(
        "--connections", type=_connections, default=DEFAULT_CONNECTIONS, metavar="N",
        help=f"for each file, {DEFAULT_CONNECTIONS} by default",
    )  # fmt: skip
    check = add("verify", "hash a model's files again", "verify hf:owner/repo:Q4_K_M")
    check.add_argument("model", help=f"{MODEL}, or a file that was downloaded")
    delete = add("rm", "delete a model's files", "rm hf:owner/repo:Q4_K_M --yes")
    delete.add_argument("model", help=f"{MODEL}, finished or not")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    for command in (bring, check, delete):
        command.add_argument("--to", type=Path, metavar="FOLDER", help="another folder of models")


def run(options: argparse.Namespace) -> int:
    """Run one of the three; returns the exit code."""
    match options.command:
        case "pull":
            return pull(options)
        case "verify":
            return verify_model(options)
        case _:
            return remove(options)


def _rate(words: str) -> int:
    match = _SIZE.fullmatch(words)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{words} is not a size such as 20MB")
    return max(1, round(float(match[1]) * _FACTORS[match[2].lower()]))


def _connections(words: str) -> int:
    value = int(words) if words.isdigit() else 0
    if not 1 <= value <= MAX_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"choose 1 to {MAX_CONNECTIONS} connections")
    return value


def records() -> Records:
    """What the app remembers about downloads."""
    return Records(paths.folders().data / "downloads")


def _folder(options: argparse.Namespace) -> Path:
    folder: Path = options.to or paths.folders().models
    return folder.expanduser().absolute()


def _addresses(name: str) -> tuple[Address, ...]:
    """Where on the Hub a MODEL argument may be.

    Raises:
        AppError: It means nothing on the Hub.
    """
    if hub.is_address(name):
        return (hub.parse(name),)
    entry = entries.find(name)
    found = entries.addresses(entry, names.quantization(name.partition(":")[2])) if entry else ()
    if not found:
        raise AppError(
            f"“{name}” names nothing on the Hub.",
            hint=f"Name {MODEL}; `models search WORDS` looks for one.",
            kind=ErrorKind.USAGE,
        )
    return found


# --- pull -------------------------------------------------------------------


def pull(options: argparse.Namespace) -> int:
    """Bring a model here; Ctrl+C pauses, and the same command goes on."""
    addresses, folder = _addresses(options.model), _folder(options)
    request = requests.unfinished(addresses, folder, records())
    if request is None:
        request = requests.ask(addresses, folder)
    if options.source is not None:
        request = _from(request, options.source)
    events: queue.SimpleQueue[DownloadEvent] = queue.SimpleQueue()
    manager = DownloadManager(
        paths.folders().data / "downloads",
        events.put,
        restore=False,
        connections=options.connections,
        bytes_per_s=options.limit,
        latest_commit=lambda repo, revision: repository.read_snapshot(repo, revision).commit,
    )
    try:
        id_ = manager.add(request)
        show = _JsonFace() if options.json else _Face(request)
        with show:
            try:
                last = _follow(events, show)
            except KeyboardInterrupt:
                manager.pause(id_)
                last = _follow(events, show)
    finally:
        manager.close()
    if last.error is not None:
        raise last.error
    if last.state is DownloadState.DONE:
        show.end(f"{request.target(request.files[0])}")
        return 0
    show.end(f"Paused at {text.figures(last.progress)}. The same command goes on from there.")
    return 130


def _from(request: DownloadRequest, source: Path) -> DownloadRequest:
    return dataclasses.replace(request, source=source.expanduser().absolute())


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


class _Face:
    """A bar for each file and one for all."""

    def __init__(self, request: DownloadRequest) -> None:
        """Bars for the files of a request."""
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            refresh_per_second=4,
        )
        self._words = ""
        self._files = [
            self._bars.add_task(
                file.path.rpartition("/")[2], total=file.size_bytes or 1, figures=""
            )
            for file in request.files
        ]
        self._all = self._bars.add_task("all", total=request.size_bytes or 1, figures="")

    def __enter__(self) -> None:
        """Show the bars."""
        self._bars.start()

    def __exit__(self, *_: object) -> None:
        """Leave them as they are."""
        self._bars.stop()

    def tell(self, event: DownloadEvent) -> None:
        """Move the bars."""
        match event:
            case DownloadProgressed(progress=progress):
                self._draw(progress)
            case DownloadStateChanged(download=download):
                self._words = text.describe(download)
                self._draw(download.progress)
            case UpdateFound(commit=commit):
                self._bars.print(
                    f"The branch has moved to {commit[:12]}; this goes on with the commit it began "
                    "with. Pull again afterwards for the new one."
                )
            case FileVerified(path=path):
                if not self._bars.console.is_terminal:
                    self._bars.print(f"{path.name}: verified")
            case _:
                pass

    def _draw(self, progress: Progress) -> None:
        for task, file in zip(self._files, progress.files, strict=True):
            done = file.written_bytes / file.size_bytes if file.size_bytes else float(file.verified)
            figures = "verified" if file.verified else units.format_percent(done)
            completed = file.written_bytes if file.size_bytes else int(file.verified)
            self._bars.update(task, completed=completed, figures=figures)
        words = f"{text.figures(progress)}  {self._words}"
        self._bars.update(self._all, completed=progress.written_bytes, figures=words)

    def end(self, words: str) -> None:
        """Say how it ended."""
        print(words)


_Shown = _JsonFace | _Face


# --- verify and rm ----------------------------------------------------------


def verify_model(options: argparse.Namespace) -> int:
    """Hash all files of a model again; the exit code says whether they are right."""
    known, wrong = records(), 0
    for path, file in _expected(options, known):
        face = None if options.json or not sys.stderr.isatty() else _counter(path, file)
        try:
            right = verify.is_right(
                path, file, known.verified, afresh=True, progress=face or (lambda _count: None)
            )
        except OSError as error:
            raise disk_error(error, path) from error
        state = "verified" if right else "damaged" if path.exists() else "missing"
        if file.digest is None and path.exists():
            state = "not checked: the Hub publishes no digest"
        wrong += not right
        if options.json:
            print(
                json.dumps({"type": "file_checked", "path": str(path), "state": state}), flush=True
            )
        else:
            print(f"{path}: {state}")
    if wrong and not options.json:
        print("`pull` mends it: only what is damaged is fetched again.", file=sys.stderr)
    return 3 if wrong else 0


def _counter(path: Path, file: DownloadFile) -> Callable[[int], None]:
    def count(done: int) -> None:
        part = units.format_percent(done / max(1, file.size_bytes))
        print(f"\r{path.name}: {part} ", end="", file=sys.stderr, flush=True)

    return count


def _expected(options: argparse.Namespace, known: Records) -> Sequence[tuple[Path, DownloadFile]]:
    """Files with what they should be: as remembered from the download, else as the Hub says."""
    path = Path(options.model).expanduser()
    if path.is_dir():
        raise AppError(
            f"{path.absolute()} is a folder.",
            hint="Name a model file, or hf:owner/repo/file.gguf.",
            kind=ErrorKind.USAGE,
        )
    if path.exists():
        shards = [path.absolute().with_name(name) for name in shard_names(path.name)]
        found = [(shard, known.verified.last(shard)) for shard in shards]
        if any(file is None for _, file in found):
            raise AppError(
                f"The checksum of {path.name} is not known: this app did not download it.",
                hint="Name it as hf:owner/repo/file.gguf, so that the Hub can be asked.",
                kind=ErrorKind.USAGE,
            )
        return [(shard, file) for shard, file in found if file is not None]
    addresses, folder = _addresses(options.model), _folder(options)
    for address in addresses:
        chosen = requests.here(address, folder)
        targets = requests.local_files(chosen, folder) if chosen else ()
        remembered = [(target, known.verified.last(target)) for target in targets]
        if targets and all(file for _, file in remembered):
            return [(target, file) for target, file in remembered if file is not None]
    request = requests.ask(addresses, folder)
    return [(request.target(file), file) for file in request.files]


def remove(options: argparse.Namespace) -> int:
    """Delete a model's files, finished or not."""
    folder, known = _folder(options), records()
    chosen = None
    for address in _addresses(options.model):
        chosen = chosen or requests.here(address, folder)
    if chosen is None:
        raise AppError(
            f"Nothing of {options.model} is in {folder}.",
            hint="`models` lists what is here.",
            kind=ErrorKind.MODEL_FILE,
        )
    targets = requests.local_files(chosen, folder)
    if not options.yes and not _agreed(targets):
        return 130
    try:
        freed = 0
        for target in targets:
            with only_writer(known, target):
                freed += requests.delete([target], known)
    except OSError as error:
        raise disk_error(error, targets[0]) from error
    requests.forget(targets, folder, known)
    if options.json:
        print(json.dumps({"type": "removed", "paths": [str(t) for t in targets], "freed": freed}))
    else:
        print(f"Deleted {units.format_files(len(targets))}, {units.format_file_size(freed)}.")
    return 0


def _agreed(targets: Sequence[Path]) -> bool:
    for target in targets:
        print(target if target.exists() else preflight.part_of(target), file=sys.stderr)
    if not sys.stdin.isatty():
        raise AppError(
            "Nobody can be asked whether to delete these.", hint="Add --yes.", kind=ErrorKind.USAGE
        )
    print("Delete them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
