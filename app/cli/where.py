"""What a MODEL argument means, and the folders in which it may lie."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from app import paths
from app.catalog import entries, hub, names
from app.catalog.hub import Address
from app.catalog.repository import FileSet
from app.download import requests
from app.download.records import Records
from app.errors import AppError, ErrorKind
from app.settings.model import Settings
from app.settings.store import SettingsStore

MODEL = "a known model such as nemotron-ultra-253b:Q4_K_M, hf:owner/repo:Q4_K_M, or hf:owner/repo/file.gguf"


def add_folder(command: argparse.ArgumentParser) -> None:
    """The option that names one folder of models."""
    command.add_argument("--to", type=Path, metavar="FOLDER", help="another folder of models")


def records() -> Records:
    """What the app remembers about downloads."""
    return Records(paths.folders().data / "downloads")


def folders(options: argparse.Namespace, settings: Settings) -> tuple[Path, ...]:
    """The one that `--to` names; else as in the window: the next download's first, then others."""
    if options.to is not None:
        to: Path = options.to
        return (to.expanduser().absolute(),)
    used, added = settings.download_folders, settings.model_folders
    found = (*map(Path, used), paths.folders().models, *map(Path, added))
    return tuple(dict.fromkeys(folder.expanduser().absolute() for folder in found))


def remember(folder: Path, settings: Settings) -> None:
    """Let the window and later commands look for models there, too."""
    known = (str(paths.folders().models), *settings.download_folders, *settings.model_folders)
    if str(folder) in known:
        return
    store = SettingsStore(paths.folders().config / "settings.json")
    stored, _ = store.load()
    with contextlib.suppress(AppError):  # the download is worth more than the reminder
        store.save(
            stored.model_copy(update={"model_folders": (*stored.model_folders, str(folder))})
        )


def check_there(folder: Path, settings: Settings) -> None:
    """Make sure that a folder chosen in the window has not gone with its disk.

    Raises:
        AppError: It has.
    """
    if str(folder) in settings.download_folders and not folder.is_dir():
        raise AppError(
            f"{folder}, which takes downloads, is not there.",
            hint="Connect its disk, or name another folder with --to.",
            kind=ErrorKind.DISK,
        )


def check_takes(folder: Path) -> None:
    """Make sure that models can be put into a folder, before it is remembered for good.

    Raises:
        AppError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise AppError(
            f"{folder} cannot take models.",
            detail=f"{error.strerror}.",
            hint="Name another folder with --to.",
            kind=ErrorKind.DISK,
        ) from error


def addresses(name: str) -> tuple[Address, ...]:
    """Where on the Hub a MODEL argument may be.

    Raises:
        AppError: It means nothing on the Hub.
    """
    if hub.is_address(name):
        return (hub.parse(name),)
    entry = entries.find(name)
    found = entries.addresses(entry, names.quantization(name.partition(":")[2])) if entry else ()
    if not found:
        path = Path(name).expanduser()
        if path.suffix == ".gguf" and not path.exists():
            raise AppError(
                f"There is no file {path.absolute()}.",
                hint=f"Check its path, or name {MODEL}.",
                kind=ErrorKind.USAGE,
            )
        if path.is_file():
            raise AppError(
                f"{name} is a file, and not named by where it is on the Hub.",
                hint=f"Name {MODEL}.",
                kind=ErrorKind.USAGE,
            )
        raise AppError(
            f"“{name}” names nothing on the Hub.",
            hint=f"Name {MODEL}; `models search WORDS` looks for one.",
            kind=ErrorKind.USAGE,
        )
    return found


def on_this_machine(name: str) -> Path:
    """The file to open of a downloaded model, which the catalog's name or a Hub's address means.

    Raises:
        AppError: It is not here, or not all of it, or several are meant.
    """
    stored, _ = SettingsStore(paths.folders().config / "settings.json").load()
    places = folders(argparse.Namespace(to=None), stored)
    begun = False
    for _address, folder, chosen in here(addresses(name), places, strict=True):
        files = requests.local_files(chosen, folder)
        if all(file.is_file() for file in files):
            return files[0]
        begun = True
    raise AppError(
        f"{name} is {'only partly' if begun else 'not'} on this machine.",
        hint=f"`ultra-launcher pull {name}` {'goes on with it' if begun else 'downloads it'}.",
        kind=ErrorKind.MODEL_FILE,
    )


def here(
    wanted: Sequence[Address], places: Sequence[Path], *, strict: bool = False
) -> Iterator[tuple[Address, Path, FileSet]]:
    """The sets in folders of models that a MODEL argument means, whole or not.

    Raises:
        AppError: Several would do, and `strict`.
    """
    for address in wanted:
        for folder in places:
            try:
                chosen = requests.here(address, folder)
            except AppError as error:
                if strict and error.kind is ErrorKind.USAGE:
                    raise
                continue  # others of the same repository
            if chosen is not None:
                yield address, folder, chosen
