"""`verify` and `rm`: check a model's files, delete them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from app import units
from app.cli import where
from app.cli.counter import counter
from app.download import preflight, requests, text, verify
from app.download.disk import disk_error
from app.download.model import DownloadFile, DownloadRequest
from app.download.records import Records
from app.errors import AppError, ErrorKind
from app.gguf.header import shard_names
from app.settings.model import Settings


def add_verify_options(command: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    command.add_argument("model", help=f"{where.MODEL}, or a file that was downloaded")
    where.add_folder(command)


def add_rm_options(command: argparse.ArgumentParser) -> None:
    """The options of `rm`."""
    command.add_argument("model", help=f"{where.MODEL}, finished or not")
    command.add_argument("--yes", action="store_true", help="do not ask")
    where.add_folder(command)


# --- verify -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A file with what it should be, of which commit; `queued` if its download has not ended."""

    path: Path
    file: DownloadFile
    commit: str = ""
    queued: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What came of one file: verified, damaged, missing, not_checked, or incomplete.

    Attributes:
        written_bytes: On disk.
    """

    path: Path
    state: str
    size_bytes: int
    written_bytes: int

    @property
    def words(self) -> str:
        """For a person."""
        if self.state == "incomplete":
            if not self.written_bytes:
                return "not downloaded yet"
            here = units.format_file_size(self.written_bytes)
            return f"half downloaded, {here} of {units.format_file_size(self.size_bytes)}"
        return text.NOT_CHECKED if self.state == "not_checked" else self.state


def verify_model(options: argparse.Namespace, settings: Settings) -> int:
    """Hash all files of a model again; the exit code says whether it is whole and right."""
    known, found = where.records(), []
    for wanted in _expected(options, settings, known):
        one = _check(wanted, known, quiet=options.json)
        found.append(one)
        if options.json:
            told = {"type": "file_checked"} | dataclasses.asdict(one) | {"path": str(one.path)}
            print(json.dumps(told), flush=True)
        else:
            print(f"{one.path}: {one.words}", flush=True)
    _tell_set(found, options)
    return 3 if any(one.state not in ("verified", "not_checked") for one in found) else 0


def _check(wanted: _Wanted, known: Records, *, quiet: bool) -> _Checked:
    path, file = wanted.path, wanted.file
    try:
        with counter(path, file, quiet=quiet) as progress:
            right = verify.is_right(path, file, known.verified, afresh=True, progress=progress)
    except OSError as error:
        raise disk_error(error, path) from error
    begun = requests.written_bytes(path, file, wanted.commit, known)
    there = path.stat().st_size if path.exists() else begun or 0
    if right:
        state = "verified"
    elif begun is not None:
        state, there = "incomplete", begun
    elif not path.exists():
        state = "incomplete" if wanted.queued else "missing"
    elif file.digest is None and there == file.size_bytes:
        state = "not_checked"
    else:
        state = "damaged"
    return _Checked(path=path, state=state, size_bytes=file.size_bytes, written_bytes=there)


def _tell_set(found: Sequence[_Checked], options: argparse.Namespace) -> None:
    """What all files come to, and the way out."""
    worst = ("verified", "not_checked", "missing", "damaged", "incomplete")
    state = max((one.state for one in found), key=worst.index)
    size = sum(one.size_bytes for one in found)
    written = sum(one.written_bytes for one in found)
    again = "" if state in worst[:2] or _is_path(options.model) else f"pull {options.model}"
    if again and options.to is not None:
        again += f" --to {options.to}"
    if options.json:
        told = {"state": state, "written_bytes": written, "size_bytes": size, "command": again}
        print(json.dumps({"type": "model_checked"} | told))
        return
    again = f"`{again}`" if again else "`pull`"
    if state == "incomplete":
        here, whole = units.format_file_size(written), units.format_file_size(size)
        print(f"Half downloaded: {here} of {whole} are here. {again} goes on from there.",
              file=sys.stderr)  # fmt: skip
    elif state in ("missing", "damaged"):
        print(f"{again} mends it: only what is damaged or missing is fetched again.",
              file=sys.stderr)  # fmt: skip


def _is_path(name: str) -> bool:
    path = Path(name).expanduser()
    return path.exists() or preflight.part_of(path).exists()


def _expected(options: argparse.Namespace, settings: Settings, known: Records) -> Sequence[_Wanted]:
    """Files with what they should be: as the queue or a download of before has it, else as the Hub says."""
    path = Path(options.model).expanduser()
    if path.is_dir():
        raise AppError(
            f"{path.absolute()} is a folder.",
            hint="Name a model file, or hf:owner/repo/file.gguf.",
            kind=ErrorKind.USAGE,
        )
    if _is_path(options.model):
        return _of_path(path.absolute().with_name(path.name.removesuffix(".part")), known)
    addresses, folders = where.addresses(options.model), where.folders(options, settings)
    for folder in folders:
        begun = requests.unfinished(addresses, folder, known)
        if begun is not None:
            return _of_request(begun, queued=True)
    place = folders[0]
    for _, folder, chosen in where.here(addresses, folders):
        remembered = list(_remembered(requests.local_files(chosen, folder), known))
        if all(remembered):
            beside = (
                requests.local_files(p, folder) for p in requests.projectors_of(chosen, folder)
            )
            also = (one for files in beside for one in _remembered(files, known))
            return [one for one in (*remembered, *also) if one]
        place = folder
        break
    return _of_request(requests.ask(addresses, place))


def _of_path(path: Path, known: Records) -> Sequence[_Wanted]:
    """Of a file on disk, whole or not, and the shards that belong to it."""
    begun = requests.unfinished_at(path, known)
    if begun is not None:
        return _of_request(begun, queued=True)
    shards = [path.with_name(name) for name in shard_names(path.name)]
    found = [one for one in _remembered(shards, known) if one]
    if len(found) < len(shards):
        raise AppError(
            f"The checksum of {path.name} is not known: this app did not download it.",
            hint="Name it as hf:owner/repo/file.gguf, so that the Hub can be asked.",
            kind=ErrorKind.USAGE,
        )
    return found


def _remembered(files: Iterable[Path], known: Records) -> Iterator[_Wanted | None]:
    for path in files:
        file = known.verified.last(path)
        yield _Wanted(path=path, file=file) if file is not None else None


def _of_request(request: DownloadRequest, *, queued: bool = False) -> Sequence[_Wanted]:
    return [
        _Wanted(path=request.target(file), file=file, commit=request.commit, queued=queued)
        for file in request.files
    ]


# --- rm ---------------------------------------------------------------------


def remove(options: argparse.Namespace, settings: Settings) -> int:
    """Delete a model's files, finished or not; a projector goes with the last model it is for."""
    folders, known = where.folders(options, settings), where.records()
    addresses = where.addresses(options.model)
    found = next(where.here(addresses, folders, strict=True), None)
    if found is None:
        begun = (requests.unfinished(addresses, folder, known) for folder in folders)
        return _forget(options, folders, next((one for one in begun if one is not None), None))
    _, folder, chosen = found
    sets = (chosen, *requests.projectors_of(chosen, folder))
    targets = [path for one in sets for path in requests.local_files(one, folder)]
    there = [p for p in targets if p.exists() or preflight.part_of(p).exists()]
    if not options.yes and not _agreed(there):
        return 130
    try:
        freed = requests.delete(targets, known)
    except OSError as error:
        raise disk_error(error, targets[0]) from error
    requests.forget(targets, folder, known)
    if options.json:
        print(json.dumps({"type": "removed", "paths": [str(t) for t in there], "freed": freed}))
    else:
        print(f"Deleted {units.format_files(len(there))}, {units.format_file_size(freed)}.")
    return 0


def _forget(
    options: argparse.Namespace, folders: Sequence[Path], begun: DownloadRequest | None
) -> int:
    """Take a download of which nothing is on disk out of the queue."""
    if begun is None:
        raise AppError(
            f"Nothing of {options.model} is in {' or '.join(map(str, folders))}.",
            hint="`models` lists what is here.",
            kind=ErrorKind.MODEL_FILE,
        )
    requests.forget([begun.target(file) for file in begun.files], begun.folder, where.records())
    if options.json:
        print(json.dumps({"type": "removed", "paths": [], "freed": 0}))
    else:
        print("Taken out of the queue; nothing of it was on disk.")
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
