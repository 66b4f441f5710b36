"""Joins what a page says of files on disk to the service: targets, import, verify, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from app import units
from app.catalog.library import LocalModel
from app.catalog.repository import DEFAULT_REVISION, FileSet
from app.download.model import Download
from app.errors import AppError, ErrorKind
from app.events import FileEvent, FoldersMeasured, ModelDeleted, ModelVerified
from app.service import AppService
from app.service.files import with_projectors
from app.service.subjects import Offer, OfferKind
from ui.models.model_page import ModelPage

AskFolder = Callable[[QWidget, str], str]
"""Asks for a folder under a title; empty if none was chosen."""
Agree = Callable[[QWidget, str, str], bool]
"""Asks whether to do what a title and a text say."""
MOST_NAMES = 12


def ask_folder(parent: QWidget, title: str) -> str:
    """The system's own dialog."""
    return QFileDialog.getExistingDirectory(parent, title)


def agree(parent: QWidget, title: str, text: str) -> bool:
    """Delete or not; Cancel is what Return means."""
    box = QMessageBox(QMessageBox.Icon.Warning, title, text, parent=parent)
    yes = box.addButton("Delete", QMessageBox.ButtonRole.DestructiveRole)
    no = box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(no)
    box.exec()
    return box.clickedButton() is yes


class FilesController(QObject):
    """Signals: download_shown(str), something was put into the queue; gone, the page's model is."""

    download_shown = Signal(str)
    gone = Signal()

    def __init__(
        self, service: AppService, page: ModelPage, ask: AskFolder, agree: Agree, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._service, self._page = service, page
        self._ask, self._agree = ask, agree
        self._places: tuple[tuple[Path, int | None], ...] = ()
        self._verified: ModelVerified | None = None
        self._deleted: tuple[str, str] = ("", "")
        self._offer = page.offer
        page.place.folder_chosen.connect(service.files.use_folder)
        page.place.other_clicked.connect(self._other_folder)
        page.place.import_clicked.connect(self._import)
        page.place.hub_clicked.connect(lambda: self._continue(None))
        page.place.update_clicked.connect(self._update)
        page.place.verify_clicked.connect(self._verify_shown)
        page.place.delete_clicked.connect(self._delete_shown)
        page.projector.get_clicked.connect(self._get_projector)
        page.check.stop_clicked.connect(service.files.stop)
        page.check.mend_clicked.connect(self._mend)

    # --- where it goes ---------------------------------------------------------------

    def download(self, found: FileSet, source: Path | None = None) -> None:
        """Bring a set to the folder that was chosen; from `source` instead of the Hub."""
        folder = self._service.files.folders[0]
        if (folder, None) in self._places:
            self._page.show_error(
                AppError(
                    f"{folder} is not there.",
                    hint="Connect its disk, or choose another folder below the button.",
                    kind=ErrorKind.DISK,
                )
            )
            self._service.files.measure()
            return
        projector = self._projector() if self._page.projector.wanted else None
        self._service.downloads.enqueue(
            found, DEFAULT_REVISION, folder=folder, source=source, projector=projector
        )
        self.download_shown.emit("")

    def _projector(self) -> FileSet | None:
        """The one that the repository has for what is chosen on the page."""
        subject = self._page.subject
        if subject is None:
            return None
        return self._service.models.projector_of(subject.key, self._page.matrix.chosen_name)

    def _found(self) -> FileSet | None:
        """What the repository has now of what is chosen on the page."""
        subject = self._page.subject
        sets = self._service.models.sets_of(subject.key) if subject is not None else {}
        return sets.get(self._page.matrix.chosen_name)

    def _update(self) -> None:
        """Bring the newer files of a model that is here, in its place."""
        local, found = self._local(), self._found()
        if local is not None and found is not None:
            folder = folder_of(local, self._service.files.folders)
            projector = self._projector() if local.projectors else None
            self._service.downloads.enqueue(
                found, DEFAULT_REVISION, folder=folder, projector=projector
            )
            self.download_shown.emit("")

    def _get_projector(self) -> None:
        """Bring a projector to the model that is here already."""
        local, projector = self._local(), self._projector()
        if local is not None and projector is not None:
            folder = folder_of(local, self._service.files.folders)
            self._service.downloads.enqueue(projector, DEFAULT_REVISION, folder=folder)
            self.download_shown.emit("")

    def _other_folder(self) -> None:
        folder = self._ask(self._page, "Where models go")
        if folder:
            self._service.files.use_folder(Path(folder))

    def _import(self) -> None:
        source = self._ask(self._page, "The folder with its files, on a disk or share")
        if not source:
            return
        page = self._page
        if self._offer.kind is OfferKind.RESUME:
            self._continue(Path(source))
            return
        found = self._service.models.sets_of(page.subject.key if page.subject else "")
        if page.matrix.chosen_name in found:
            self.download(found[page.matrix.chosen_name], Path(source))

    def _continue(self, source: Path | None) -> None:
        self._service.downloads.continue_from(self._offer.download_id, source)
        self.download_shown.emit(self._offer.download_id)

    # --- what is on disk -------------------------------------------------------------

    def _local(self) -> LocalModel | None:
        """The model on disk that the page shows, whole or not."""
        subject, path = self._page.subject, self._offer.path
        if path is None and subject is not None and subject.local is not None:
            path = subject.local.files[0]
        return None if path is None else self._service.models.local(str(path))

    def _verify_shown(self) -> None:
        local = self._local()
        if local is not None:
            self._service.files.verify(local)

    def verify(self, key: str) -> None:
        """Verify a model of the list, whose page is open already."""
        local = self._service.models.local(key)
        if local is not None:
            self._service.files.verify(local)

    def _mend(self) -> None:
        local = self._local()
        if local is not None:
            self._verified = None
            self._service.files.mend(local)
            self.download_shown.emit("")

    def _delete_shown(self) -> None:
        local = self._local()
        if local is not None:
            self.delete(str(local.files[0]))

    def delete(self, key: str) -> None:
        """Delete a model, if the person agrees once more."""
        local = self._service.models.local(key)
        if local is None:
            return
        reason = self._service.files.kept_because(local)
        if reason:
            self._page.show_error(
                AppError(f"{local.name} is not deleted.", hint=reason, kind=ErrorKind.USAGE)
            )
        elif self._agree(self._page.window(), "Delete the model", self._delete_words(local)):
            self._deleted = (self._page.subject.key if self._page.subject else "", "")
            self._service.files.delete(local)

    def _delete_words(self, model: LocalModel) -> str:
        return delete_words(model, with_projectors(model, self._service.models.library.models))

    # --- what the service says ----------------------------------------------------------

    def receive(self, event: FileEvent) -> None:
        """One event."""
        match event:
            case FoldersMeasured(folders=folders):
                self._places = folders
            case ModelVerified():
                self._verified = event
            case ModelDeleted(key=key, files=count, freed_bytes=freed):
                size = units.format_file_size(freed)
                words = f"Deleted {units.format_files(count)}, {size}."
                self._deleted = (self._deleted[0], words)
                if self._verified is not None and self._verified.key == key:
                    self._verified = None
                self._service.files.measure()
                if self._page.subject is not None and self._page.subject.key == key:
                    self.gone.emit()
        self.show(self._offer)

    def forget(self) -> None:
        """Another page is opened."""
        self._deleted = ("", "")
        self._service.files.measure()

    def show(self, offer: Offer) -> None:
        """Let the lines below the button fit it."""
        self._offer = offer
        page, verified = self._page, self._verified
        begun = self._begun(offer)
        if begun is None:
            page.place.show_place(offer.kind, self._places)
        else:
            free = begun.progress.free_bytes
            place = (begun.request.folder, free)
            copied = begun.request.source is not None
            page.place.show_place(offer.kind, (place,), copied=copied)
        local, projector = self._local(), self._projector()
        here = local.projectors if local is not None else ()
        size = projector.size_bytes if projector is not None else None
        page.projector.show_projector(offer.kind, size, here)
        key = str(local.files[0]) if local is not None else ""
        same = verified is not None and verified.key == key
        reason = self._service.files.kept_because(local) if local is not None else ""
        busy = verified is not None and same and not verified.ended
        page.place.show_disk(
            here=local is not None,
            kept_because=reason,
            busy=busy,
            outdated=self._is_outdated(local),
        )
        if verified is not None and same:
            page.check.show_verified(verified)
        elif self._deleted[1] and page.subject and page.subject.key == self._deleted[0]:
            page.check.say(self._deleted[1])
        else:
            page.check.hide()

    def _is_outdated(self, local: LocalModel | None) -> bool:
        """True for one whose repository has newer files, which are not on their way."""
        found = self._found()
        return (
            local is not None
            and found is not None
            and self._service.files.is_outdated(local, found)
        )

    def _begun(self, offer: Offer) -> Download | None:
        if offer.kind is not OfferKind.RESUME:
            return None
        queue = self._service.downloads.all()
        return next((d for d in queue if d.id == offer.download_id), None)


def folder_of(model: LocalModel, folders: Sequence[Path]) -> Path:
    """The folder of models that a model lies in; the first where it is another program's."""
    return next((f for f in folders if model.files[0].is_relative_to(f)), folders[0])


def delete_words(model: LocalModel, paths: Sequence[Path]) -> str:
    """What is asked before the files of a model are deleted, each by its name."""
    names = [path.name for path in paths]
    shown = names[:MOST_NAMES]
    more = len(names) - len(shown)
    lines = [*shown, f"and {more} more"] if more else shown
    size = units.format_file_size(model.size_bytes + _size(set(paths) & set(model.projectors)))
    what = f"{units.format_files(len(names))}, {size}, in {model.files[0].parent}"
    return f"Delete {model.name}? {what} will be gone:\n\n" + "\n".join(lines)


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())
