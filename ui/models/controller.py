"""Joins the list and the page to the service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import constants
from PySide6.QtCore import QObject, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QStackedWidget

from app.catalog import entries, hub
from app.catalog.repository import FileSet
from app.events import (
    CatalogListed,
    ChoicePlanned,
    HardwareFound,
    HubSearched,
    LibraryScanned,
    ModelEvent,
    ModelExplained,
    ModelStudied,
    RepositoriesRead,
)
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.plan.overview import Cell
from app.service import AppService
from app.service.subjects import OfferKind, Subject, of_entry, of_local, of_repository
from ui.models.files import Agree, AskFolder, FilesController, agree, ask_folder
from ui.models.model_page import ModelPage
from ui.models.models_view import ModelsView
from ui.widgets.token_dialog import ask_token

MOST_KINDS = 12
"""Quantizations that a sentence names."""


class ModelsController(QObject):
    """Signals: loading, a model is being loaded; download_shown(str); chat_wanted."""

    loading = Signal()
    download_shown = Signal(str)
    chat_wanted = Signal()

    def __init__(
        self,
        service: AppService,
        parent: QObject | None = None,
        *,
        ask: AskFolder = ask_folder,
        agree: Agree = agree,
    ) -> None:
        super().__init__(parent)
        self._service = service
        self._absent, self._others = "Asking the Hub for its files.", ""
        self.view, self.page = ModelsView(), ModelPage()
        self.pages = QStackedWidget()
        self.pages.addWidget(self.view)
        self.pages.addWidget(self.page)
        self._ask = ask
        self.files = FilesController(service, self.page, ask, agree, self)
        self.files.download_shown.connect(self.download_shown)
        self.files.gone.connect(self.back)
        self.view.verify_clicked.connect(self._verify)
        self.view.delete_clicked.connect(self._delete)
        models = service.models
        self.view.opened.connect(lambda key: self.open(key))
        self.view.searched.connect(lambda words, again: models.search(words, refresh=again))
        self.view.folder_clicked.connect(self._add_folder)
        self.page.back_clicked.connect(self.back)
        self.page.related_clicked.connect(lambda key: self.open(key))
        self.page.cell_chosen.connect(self._cell_chosen)
        self.page.primary_clicked.connect(self._primary)
        self.page.card_clicked.connect(self._open_card)
        self.page.reason.login_clicked.connect(self._log_in)

    # --- what the person does -------------------------------------------------------

    def open_way(self, quantization: str, model: ModelLayout) -> None:
        """Where a way out begins with a download: the page that has it.

        `quantization` is one of `model`, or of a relative, as `Remedy` names it; of a model that
        nobody knows the list is shown.
        """
        relative, _, kind = quantization.rpartition(" at ")
        entry = entries.find(relative or bundled.name_of(model) or "")
        if entry is not None:
            self.open(entry.id, kind)

    def open(self, key: str, quantization: str = "") -> None:
        """The page of a model, named by its key; `quantization` is chosen there, else the best."""
        subject = self._subject(key)
        if subject is None:
            return
        self._absent = "Asking the Hub for its files." if subject.repos else "Nowhere to be had."
        self.page.set_subject(subject, quantization)
        self.files.forget()
        self.pages.setCurrentWidget(self.page)
        self.show_offer()
        self._service.models.open(subject)
        self.page.matrix.setFocus()

    def _subject(self, key: str) -> Subject | None:
        local = self._service.models.local(key)
        if local is not None:
            return of_local(local)
        if key.startswith(hub.PREFIX):
            return of_repository(key.removeprefix(hub.PREFIX))
        entry = entries.find(key)
        return of_entry(entry) if entry is not None else None

    def back(self) -> None:
        """To the list."""
        self._service.models.leave()
        self.pages.setCurrentWidget(self.view)
        self.view.field.setFocus()

    def focus_main(self) -> None:
        """Put the focus where a person goes on."""
        on_page = self.pages.currentWidget() is self.page
        (self.page.matrix if on_page else self.view.field).setFocus()

    def _cell_chosen(self, name: str, cell: Cell) -> None:
        if self.page.subject is not None:
            self._service.models.plan_choice(self.page.subject, name, cell.choice)
        self.show_offer()

    def _primary(self) -> None:
        offer, service, page = self.page.offer, self._service, self.page
        match offer.kind:
            case OfferKind.DOWNLOAD:
                subject = page.subject
                found = service.models.sets_of(subject.key if subject else "")
                if page.matrix.chosen_name in found:
                    self.files.download(found[page.matrix.chosen_name])
            case OfferKind.RESUME:
                service.downloads.resume(offer.download_id)
                self.download_shown.emit(offer.download_id)
            case OfferKind.SHOW_DOWNLOAD:
                self.download_shown.emit(offer.download_id)
            case OfferKind.LOAD if offer.path is not None:
                self._load(offer.path)
            case OfferKind.OPEN_CHAT:
                self.chat_wanted.emit()
            case _:
                pass

    def _verify(self, key: str) -> None:
        """A model of the list: its page shows how it goes."""
        self.open(key)
        self.files.verify(key)

    def _delete(self, key: str) -> None:
        """A model of the list; where it cannot be, its page says why."""
        local = self._service.models.local(key)
        if local is not None and self._service.files.kept_because(local):
            self.open(key)
        self.files.delete(key)

    def _load(self, path: Path) -> None:
        cell = self.page.matrix.chosen
        if cell is None:
            self._service.choose_model(path, load=True)
        else:
            self._service.open_model(path, context=cell.context, kv_type=cell.choice.kv_type)
        self.loading.emit()

    def _log_in(self) -> None:
        """With a token the page is read again."""
        subject, token = self.page.subject, ask_token(self.page)
        if subject is not None and token:
            models = self._service.models
            models.log_in(token, lambda: models.open(subject))

    def _open_card(self, repo: str) -> None:
        QDesktopServices.openUrl(QUrl(f"{constants.ENDPOINT}/{repo}"))

    def _add_folder(self) -> None:
        folder = self._ask(self.view, "Add a folder of models")
        if folder:
            self._service.add_model_folder(folder)

    # --- what the service says --------------------------------------------------------

    def receive(self, event: ModelEvent) -> None:
        """One event; those of another page than the one shown are dropped."""
        match event:
            case CatalogListed(entries=found, fits=fits):
                self.view.set_catalog(found, fits)
                return
            case LibraryScanned(library=library, fits=fits):
                self.view.set_library(library, fits)
                self.show_offer()
                return
            case HubSearched():
                self.view.set_found(event)
                return
            case _:
                pass
        subject = self.page.subject
        if subject is None or subject.key != event.key:
            return
        match event:
            case RepositoriesRead(error=error, sets=sets):
                self._absent = str(error) if error else _unusable(sets)
                self._others = _others(sets)
                self.page.set_repositories(event)
                self.show_offer()
            case ModelStudied():
                self.page.set_studied(event)
            case ChoicePlanned():
                self.page.set_plan(event)
            case HardwareFound():
                self.page.set_hardware(event)
            case ModelExplained():
                self.page.set_explained(event)

    def show_offer(self) -> None:
        """Let the one button say what can be done now."""
        page = self.page
        if page.subject is not None:
            name = page.matrix.chosen_name
            absent = self._absent or (self._others if name else "")
            page.set_offer(self._service.offer(page.subject, name, absent))
            self.files.show(page.offer)


def _unusable(sets: Mapping[str, FileSet]) -> str:
    """Why nothing of a repository can be had; empty if something can."""
    if any(found.complete for found in sets.values()):
        return ""
    first = next(iter(sets.values()), None)
    return f"{first.name}: {first.reason}" if first else "It holds no GGUF model."


def _others(sets: Mapping[str, FileSet]) -> str:
    """What can be had where one quantization cannot."""
    kinds = [name for name, found in sets.items() if found.complete]
    more = f" and {len(kinds) - MOST_KINDS} more" if len(kinds) > MOST_KINDS else ""
    return f"The repositories known here have {', '.join(kinds[:MOST_KINDS])}{more}."
