"""What a model's page is about, and what the one button of it does."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from pathlib import Path

from app import units
from app.catalog import entries, hub, starter
from app.catalog.library import LocalModel, State
from app.catalog.model import ModelEntry
from app.catalog.repository import FileSet
from app.download.model import HALTED, Download, DownloadState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model of the catalog, a repository of the Hub, or a model on this machine.

    Attributes:
        key: Names it: the entry's id, `hf:owner/repo`, or the path of the first file.
        repos: Where it may be had, the most usual first.
    """

    key: str
    name: str
    entry: ModelEntry | None = None
    repos: tuple[str, ...] = ()
    local: LocalModel | None = None


def of_entry(entry: ModelEntry) -> Subject:
    """A model of the catalog."""
    repos = tuple(known.repo for known in entry.repositories)
    return Subject(key=entry.id, name=entry.name, entry=entry, repos=repos)


def of_repository(repo: str) -> Subject:
    """A repository of the Hub."""
    return Subject(
        key=f"{hub.PREFIX}{repo}",
        name=repo.partition("/")[2],
        entry=entries.find(repo),
        repos=(repo,),
    )


def of_local(model: LocalModel) -> Subject:
    """A model on this machine."""
    entry = entries.find(model.repo) if model.repo else entries.find(model.name)
    return Subject(key=str(model.files[0]), name=model.name, entry=entry, local=model)


class OfferKind(enum.StrEnum):
    """What can be done with a quantization now."""

    NONE = "none"
    DOWNLOAD = "download"
    RESUME = "resume"
    SHOW_DOWNLOAD = "show_download"
    LOAD = "load"
    OPEN_CHAT = "open_chat"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The one thing to do.

    Attributes:
        words: What the button says.
        reason: Why there is nothing to do, or what to know before.
        path: The file to load.
        download_id: The download to go on with, or to show.
    """

    kind: OfferKind
    words: str
    reason: str = ""
    path: Path | None = None
    download_id: str = ""


def on_disk(subject: Subject, quantization: str, models: Iterable[LocalModel]) -> Path | None:
    """The first file of a whole one on this machine; None if there is none."""
    if subject.local is not None:
        return subject.local.files[0] if subject.local.state is State.COMPLETE else None
    entry = subject.entry
    starts = entry is not None and entry.starter and entry.id == subject.key
    for model in models:
        if model.state is not State.COMPLETE:
            continue
        same = model.repo in subject.repos and model.quantization == quantization
        if same or (starts and model.files[0].name == starter.FILE_NAME):
            return model.files[0]
    return None


def offer(
    subject: Subject,
    quantization: str,
    *,
    found: FileSet | None,
    models: Iterable[LocalModel],
    downloads: Iterable[Download],
    loaded: Path | None,
    absent: str,
) -> Offer:
    """What can be done with a quantization.

    Args:
        subject: Whose.
        quantization: Its row's name.
        found: Its files on the Hub, if they are known.
        models: What is on this machine.
        downloads: The queue.
        loaded: The file that is loaded now.
        absent: Why `found` is None, as a sentence.
    """
    path = on_disk(subject, quantization, models)
    running = None if found is None else _download_of(found, downloads)
    if path is None and running is not None and running.state is DownloadState.DONE:
        path = running.request.target(running.request.files[0])
    if path is not None:
        if path == loaded:
            return Offer(kind=OfferKind.OPEN_CHAT, words="Open chat", path=path)
        return Offer(kind=OfferKind.LOAD, words="Load", path=path)
    if running is not None:
        progress = running.progress
        if running.state not in HALTED:
            done = units.format_percent(progress.written_bytes / max(1, progress.size_bytes))
            words, kind = f"Downloading, {done}", OfferKind.SHOW_DOWNLOAD
        else:
            left = units.format_file_size(progress.size_bytes - progress.written_bytes)
            words, kind = f"Resume ({left} left)", OfferKind.RESUME
        reason = str(running.error) if running.error else ""
        return Offer(kind=kind, words=words, reason=reason, download_id=running.id)
    if subject.local is not None:
        return Offer(kind=OfferKind.NONE, words="Load", reason=subject.local.reason)
    if found is None:
        return Offer(kind=OfferKind.NONE, words="Download", reason=absent)
    size = units.format_file_size(found.size_bytes)
    words = f"Download {quantization}, {size}" if len(quantization) < 12 else f"Download {size}"
    return Offer(kind=OfferKind.DOWNLOAD, words=words, reason=found.reason)


def _download_of(found: FileSet, downloads: Iterable[Download]) -> Download | None:
    """The download of the same files, of whatever commit; a projector may come along."""
    paths = {file.path for file in found.files}
    for download in downloads:
        request = download.request
        if request.repo == found.repo and paths <= {file.path for file in request.files}:
            return download
    return None
