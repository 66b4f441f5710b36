"""`ModelFiles`: where models go, whether those on disk are right, and how they are deleted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from app.catalog.library import LocalModel
from app.catalog.places import Origin
from app.catalog.repository import DEFAULT_REVISION, FileSet, file_sets, projector
from app.download import preflight, requests, verify
from app.download.disk import disk_error
from app.download.model import ENDED, Download, DownloadFile
from app.download.records import Records
from app.errors import AppError, Cancelled, ErrorKind
from app.events import FoldersMeasured, ModelDeleted, ModelVerified
from app.gguf.header import shard_names
from app.service.downloads import DownloadService
from app.service.jobs import Emit, Worker, close_soon
from app.service.models import ModelService
from app.settings.model import Settings

OWN = (Origin.APP, Origin.FOLDER)
"""Whose files may be deleted here; other programs keep lists of theirs."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ModelFiles:
    """Methods return at once unless they say otherwise; what comes of them arrives as events."""

    def __init__(
        self,
        records: Path,
        models: ModelService,
        downloads: DownloadService,
        emit: Emit,
        *,
        app_folder: Path,
        settings: Callable[[], Settings],
        keep: Callable[..., None],
        in_use: Callable[[], Path | None],
    ) -> None:
        """Nothing runs yet.

        Args:
            records: Where checksums and crash records are kept.
            models: Told to look again, and knows the Hub.
            downloads: Mends, and knows what is on its way.
            emit: Told of everything.
            app_folder: The app's folder of models.
            settings: Those in force.
            keep: Changes and stores some of them.
            in_use: The first file of the model that the engine holds, or None.
        """
        self._records = Records(records)
        self._models = models
        self._downloads = downloads
        self._emit = emit
        self._app_folder = app_folder
        self._settings = settings
        self._keep = keep
        self._in_use = in_use
        self._verifying: tuple[str, threading.Event] = ("", threading.Event())
        # Hashing takes minutes, which nothing else waits for.
        self._checks, self._disk = Worker("verify", emit), Worker("files", emit)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that take downloads: the one of the next download, then others used before."""
        used = map(Path, self._settings().download_folders)
        return tuple(dict.fromkeys((*used, self._app_folder)))

    def use_folder(self, folder: Path) -> None:
        """Downloads go there from now on."""
        folders = dict.fromkeys((str(folder), *map(str, self.folders)))
        self._keep(download_folders=tuple(folders))
        self.measure()

    def measure(self) -> None:
        """Tell what is free in the folders that take downloads."""

        def free(folder: Path, first: bool) -> int | None:
            # An absent disk's folder must not be taken for one on the disk it is mounted on.
            return preflight.free_bytes(folder) if first or folder.is_dir() else None

        def job() -> None:
            own, folders = self._app_folder, self.folders
            self._emit(FoldersMeasured(folders=tuple((f, free(f, f == own)) for f in folders)))

        self._disk.submit(job)

    # --- verify -----------------------------------------------------------------

    def verify(self, model: LocalModel) -> None:
        """Hash all files of a model again; one that is hashed already makes way."""
        self.stop()
        key, stop = str(model.files[0]), threading.Event()
        self._verifying = (key, stop)
        self._emit(ModelVerified(key=key, size_bytes=model.size_bytes))

        def job() -> None:
            try:
                self._verify(model, key, stop)
            except Cancelled:
                self._emit(ModelVerified(key=key, ended=True, stopped=True))
            except OSError as error:
                raise disk_error(error, model.files[0]) from error

        self._checks.submit(
            job, lambda error: self._emit(ModelVerified(key=key, ended=True, error=error))
        )

    def stop(self) -> None:
        """Hash no further."""
        self._verifying[1].set()

    def _verify(self, model: LocalModel, key: str, stop: threading.Event) -> None:
        if stop.is_set():
            raise Cancelled
        expected, against = self._expected(model)
        size = sum(file.size_bytes for _, file in expected)
        wrong: list[Path] = []
        begun = told = 0

        def progress(count: int) -> None:
            nonlocal told
            percent = 100 * (begun + count) // max(1, size)
            if percent > told:
                told = percent
                self._emit(ModelVerified(key=key, done_bytes=begun + count, size_bytes=size))

        for path, file in expected:
            if file.digest is None:
                right = path.is_file() and path.stat().st_size == file.size_bytes
            else:
                right = verify.is_right(
                    path, file, self._records.verified, progress=progress, stop=stop, afresh=True
                )
            begun += file.size_bytes
            wrong += [] if right else [path]
        self._emit(
            ModelVerified(
                key=key,
                done_bytes=size,
                size_bytes=size,
                ended=True,
                files=len(expected),
                wrong=tuple(wrong),
                unchecked=sum(file.digest is None for _, file in expected),
                against=against,
                can_mend=bool(wrong and model.repo) and model.origin is Origin.APP,
            )
        )

    def _expected(self, model: LocalModel) -> tuple[list[tuple[Path, DownloadFile]], str]:
        """Files with what they should be, and the repository that says so now; empty if it was kept.

        Raises:
            AppError: Nobody knows.
        """
        paths = targets(model)
        kept = [(path, self._records.verified.last(path) or _blob(path)) for path in paths]
        known = [(path, file) for path, file in kept if file is not None]
        if len(known) == len(paths):
            beside = [(path, self._records.verified.last(path)) for path in model.projectors]
            return [*known, *((path, file) for path, file in beside if file is not None)], ""
        found = self._on_hub(model)
        if found is None:
            raise AppError(
                f"What {model.files[0].name} should be is not known: this app did not download it.",
                hint="Get it again from the Hub to be sure of it.",
                kind=ErrorKind.MODEL_FILE,
            )
        request = requests.of_set(found, DEFAULT_REVISION, paths[0].parent)
        return list(zip(paths, request.files, strict=True)), found.repo

    def _on_hub(self, model: LocalModel) -> FileSet | None:
        """The set of its repository that lies at these paths, if its repository is known."""
        if not model.repo:
            return None
        paths = targets(model)
        snapshot = self._models.lookups.snapshot(model.repo).value
        for found in file_sets(snapshot):
            ends = [f"/{file.path}" for file in found.files]
            if len(ends) == len(paths) and paths[0].as_posix().endswith(ends[0]):
                return found
        return None

    def is_outdated(self, model: LocalModel, found: FileSet) -> bool:
        """True if its repository has other files now than those that were downloaded."""
        paths = targets(model)
        if model.repo != found.repo or [p.name for p in paths] != [
            file.path.rpartition("/")[2] for file in found.files
        ]:
            return False
        if any(download.state not in ENDED for download in self._queued(set(paths))):
            return False  # they are on their way
        kept = [self._records.verified.last(path) for path in paths]
        new = requests.of_set(found, DEFAULT_REVISION, paths[0].parent).files
        return any(
            old is not None and file.digest is not None and old.digest != file.digest
            for old, file in zip(kept, new, strict=True)
        )

    def mend(self, model: LocalModel) -> None:
        """Fetch again what is damaged or missing, as a download of its own."""

        def job() -> None:
            found = self._on_hub(model)
            if found is None:
                raise AppError(
                    f"{model.repo or model.name} no longer has these files.",
                    hint="Choose another quantization on the model's page.",
                    kind=ErrorKind.MODEL_FILE,
                )
            above = len(Path(found.repo, found.files[0].path).parts) - 1
            folder = targets(model)[0].parents[above]
            sets = file_sets(self._models.lookups.snapshot(model.repo).value)
            beside = projector(sets, found) if model.projectors else None
            self._downloads.enqueue(found, DEFAULT_REVISION, folder=folder, projector=beside)

        self._disk.submit(job)

    # --- delete -----------------------------------------------------------------

    def kept_because(self, model: LocalModel) -> str:
        """Why a model cannot be deleted now, as a sentence; empty if it can. Answers at once."""
        paths = set(targets(model))
        if model.origin not in OWN:
            return f"It belongs to {model.origin.title()}: delete it there."
        if self._in_use() in paths:
            return "It is loaded: load another model first, then it can be deleted."
        if any(download.state not in ENDED for download in self._queued(paths)):
            return "Its download is not finished: discard it on the page of downloads first."
        return ""

    def _queued(self, paths: set[Path]) -> list[Download]:
        return [
            download
            for download in self._downloads.all()
            if paths & {download.request.target(file) for file in download.request.files}
        ]

    def delete(self, model: LocalModel) -> None:
        """Delete a model's files, whole or not, and what is remembered of them."""
        self._disk.submit(lambda: self._delete(model))

    def _delete(self, model: LocalModel) -> None:
        reason = self.kept_because(model)
        if reason:
            raise AppError(f"{model.name} is not deleted.", hint=reason, kind=ErrorKind.USAGE)
        key, paths = str(model.files[0]), with_projectors(model, self._models.library.models)
        if self._verifying[0] == key:
            self.stop()
        top = next((f for f in self.folders if paths[0].is_relative_to(f)), paths[0].parent)
        there = sum(1 for path in paths for p in (path, preflight.part_of(path)) if p.is_file())
        try:
            freed = requests.delete(paths, self._records)
        except OSError as error:
            raise disk_error(error, paths[0]) from error
        finally:
            self._models.scan()
        requests.forget(paths, top, self._records)
        for download in self._queued(set(paths)):
            self._downloads.remove(download.id)
        chosen = self._settings().model_path
        if chosen and Path(chosen) in paths:
            self._keep(model_path=None)  # the next start does not look for what is gone
        self._emit(ModelDeleted(key=key, files=there, freed_bytes=freed))

    def close(self) -> None:
        """End all threads."""
        self.stop()
        close_soon(self._checks, self._disk)


def targets(model: LocalModel) -> tuple[Path, ...]:
    """All files of a model under their last names, there or not."""
    first = model.files[0]
    name = first.name.removesuffix(".part")
    return tuple(first.with_name(shard) for shard in shard_names(name))


def with_projectors(model: LocalModel, models: Iterable[LocalModel]) -> tuple[Path, ...]:
    """All that goes with a model that is deleted: projectors, too, unless another one needs them."""
    others = {p for other in models if other.files != model.files for p in other.projectors}
    return (*targets(model), *(p for p in model.projectors if p not in others))


def _blob(path: Path) -> DownloadFile | None:
    """What a file of the Hugging Face cache should be: its blob is named by its SHA-256."""
    blob = path.resolve()
    if blob.parent.name != "blobs" or not _SHA256.fullmatch(blob.name):
        return None
    return DownloadFile(path=path.name, size_bytes=blob.stat().st_size, sha256=blob.name)
