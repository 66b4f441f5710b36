"""`ModelService`: the catalog, what is on this machine, what the Hub has, and a model's page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from app.catalog import api, entries, library, repository, tokens
from app.catalog.cache import Answer
from app.catalog.hub_errors import AbsentError
from app.catalog.library import Library, LocalModel, State
from app.catalog.places import Place, places
from app.catalog.repository import FileSet, Snapshot, file_sets, named_sets
from app.catalog.search import HubLookUps
from app.download.model import Download
from app.errors import AppError, ErrorKind
from app.events import (
    CatalogListed,
    ChoicePlanned,
    HardwareFound,
    HubSearched,
    LibraryScanned,
    ModelExplained,
    ModelStudied,
    NoticeRaised,
    Related,
    RepositoriesRead,
)
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.paths import Folders
from app.plan import catalog_answers, least, overview, recommend
from app.plan.model import PlanRequest
from app.plan.overview import Fit, Machine, Overview
from app.plan.recommend import Choice
from app.service.jobs import Emit, Worker, close_soon
from app.service.subjects import Offer, Subject, offer

SAME_SIZE = 0.002
"""Files whose sizes differ by less have the same layers; a header is some MB."""
LayoutOf = Callable[[str], ModelLayout]


class ModelService:
    """Methods return at once; answers come as events. Only the newest search and page are worked on."""

    def __init__(
        self,
        folders: Folders,
        emit: Emit,
        machine: Callable[[], Machine | None],
        extra: Callable[[], tuple[str, ...]],
        targets: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """Nothing runs yet.

        Args:
            folders: The app's.
            emit: Told of everything.
            machine: What models are planned for; None while it is not known.
            extra: Folders that a person added.
            targets: Other folders that downloads went to.
        """
        self.lookups = HubLookUps(folders.cache)
        self._folders = folders
        self._emit = emit
        self._machine = machine
        self._extra = extra
        self._targets = targets
        self._lists = Worker("models", emit)
        self._hub = Worker("hub", emit)
        self._pages = Worker("pages", emit)
        self._lock = threading.Lock()
        self._searched = ""
        self._subject: Subject | None = None
        self._choice: Choice | None = None
        self._layouts: dict[tuple[str, str], ModelLayout] = {}
        self._local_fits: dict[str, Fit] = {}
        self._sets: dict[str, Mapping[str, FileSet]] = {}
        self._answers: dict[str, tuple[Answer[Snapshot], ...]] = {}
        self.library = Library(models=())

    # --- the list -------------------------------------------------------------

    def list_all(self) -> None:
        """Tell the catalog at once, then how all of it, and the page that is open, suit the machine."""
        self._emit(CatalogListed(entries=entries.entries(), fits={}))
        self._lists.submit(self._list_catalog)
        self.scan()
        with self._lock:
            subject = self._subject
        if subject is not None:
            self._study_soon(subject)

    def scan(self) -> None:
        """Look at the folders of models again."""
        self._lists.submit(self._scan)

    def look(self) -> Library:
        """What is on this machine; where nobody looked yet, that is done now and may take seconds."""
        if not self.library.models:
            self.library = library.scan(self._places(), self._folders.cache)
        return self.library

    def _list_catalog(self) -> None:
        machine = self._machine()
        if machine is None:
            return
        fits: dict[str, Fit] = {}
        for entry in entries.entries():
            layouts = [entries.layout(entry, kind) for kind in entries.quantizations(entry)]
            if layouts:
                fits[entry.id] = overview.fit(layouts, machine)
            else:
                fits[entry.id] = overview.likely(entry.parameters.value, machine)
        self._emit(CatalogListed(entries=entries.entries(), fits=fits))

    def _scan(self) -> None:
        self.library = library.scan(self._places(), self._folders.cache)
        self._emit(LibraryScanned(library=self.library, fits=dict(self._local_fits)))
        machine = self._machine()
        if machine is None:
            return
        fits = {}
        for model in self.library.models:
            if model.state is State.COMPLETE:
                fits[str(model.files[0])] = overview.fit([read_layout(model.files[0])], machine)
        self._local_fits = fits
        self._emit(LibraryScanned(library=self.library, fits=fits))

    def _places(self) -> list[Place]:
        targets = map(Path, self._targets())
        return list(places(self._folders.models, extra=map(Path, self._extra()), targets=targets))

    def search(self, words: str, *, refresh: bool = False) -> None:
        """Look for GGUF repositories on the Hub; an older search that still waits is dropped."""
        self._searched = words

        def job() -> None:
            if self._searched != words:
                return
            answer = self.lookups.search(words, refresh=refresh)
            machine = self._machine()
            fits = {
                found.repo: overview.likely(found.parameters, machine)
                for found in answer.value
                if found.parameters and machine
            }
            self._emit(HubSearched(words=words, answer=answer, fits=fits))

        def failed(error: AppError) -> None:
            self._emit(HubSearched(words=words, answer=None, fits={}, error=error))

        self._hub.submit(job, failed)

    def log_in(self, token: str, then: Callable[[], None] = lambda: None) -> None:
        """Let the system's keyring keep a token that the Hub knows, then do `then`."""

        def job() -> None:
            tokens.check(token)
            name = api.owner(token)
            tokens.keep(token)
            self._emit(NoticeRaised(sentence=f"The token of {name} is kept in the keyring."))
            then()

        self._hub.submit(job)

    # --- a model's page ---------------------------------------------------------

    def open(self, subject: Subject) -> None:
        """Work on a model's page: its files on the Hub, how it suits the machine, what is asked often."""
        with self._lock:
            self._subject = subject
        if subject.repos:
            self._hub.submit(
                lambda: self._read(subject),
                lambda error: self._tell_sets(subject, (), {}, error),
            )
        self._study_soon(subject)

    def _study_soon(self, subject: Subject) -> None:
        if subject.local is None and subject.repos and not self._known(subject):
            self._hub.submit(lambda: self._study_remote(subject))
        else:
            self._pages.submit(lambda: self._study_known(subject))
        if subject.entry is not None:
            self._pages.submit(lambda: self._explain(subject))

    def leave(self) -> None:
        """No page is shown any more; what is not worked out yet is dropped."""
        with self._lock:
            self._subject = None

    def _left(self, subject: Subject) -> bool:
        with self._lock:
            return self._subject is not subject

    @staticmethod
    def _known(subject: Subject) -> bool:
        """True if the app knows the layers without the Hub."""
        entry = subject.entry
        return entry is not None and entry.id == subject.key and bool(entries.quantizations(entry))

    def sets_of(self, key: str) -> Mapping[str, FileSet]:
        """What was found on the Hub for a page, by the row's name."""
        return self._sets.get(key, {})

    def projector_of(self, key: str, name: str) -> FileSet | None:
        """The projector that goes with what a row of a page offers; None if there is none."""
        found = self.sets_of(key).get(name)
        for answer in self._answers.get(key, ()):
            if found is not None and answer.value.repo == found.repo:
                return repository.projector(file_sets(answer.value), found)
        return None

    def offer(
        self,
        subject: Subject,
        quantization: str,
        downloads: Iterable[Download],
        loaded: Path | None,
        absent: str,
    ) -> Offer:
        """What can be done with a quantization now, as `app.service.subjects.offer`."""
        return offer(
            subject,
            quantization,
            found=self.sets_of(subject.key).get(quantization),
            models=self.library.models,
            downloads=downloads,
            loaded=loaded,
            absent=absent,
        )

    def _read(self, subject: Subject) -> None:
        """The repositories of a subject; the first that answers has to, the others may fail."""
        answers: list[Answer[Snapshot]] = []
        sets: dict[str, FileSet] = {}
        error: AppError | None = None
        for repo in subject.repos:
            if self._left(subject):
                return
            try:
                answer = self.lookups.snapshot(repo)
            except AppError as problem:
                error = error or problem
                # To a name that it does not know, the Hub answers as to a private one.
                if problem.kind is ErrorKind.NETWORK and not isinstance(problem, AbsentError):
                    break
                continue
            answers.append(answer)
            for name, found in named_sets(answer.value).items():
                sets.setdefault(name, found)
        self._tell_sets(subject, tuple(answers), sets, None if answers else error)

    def _tell_sets(
        self,
        subject: Subject,
        answers: tuple[Answer[Snapshot], ...],
        sets: Mapping[str, FileSet],
        error: AppError | None,
    ) -> None:
        self._sets[subject.key], self._answers[subject.key] = sets, answers
        self._emit(RepositoriesRead(key=subject.key, answers=answers, sets=sets, error=error))

    def _study_known(self, subject: Subject) -> None:
        entry, local = subject.entry, subject.local
        if local is not None:
            name = local.quantization or local.name
            self._study(subject, [name], lambda _: read_layout(local.files[0]))
        elif entry is not None:
            kinds = sorted(
                entries.quantizations(entry), key=lambda k: entries.layout(entry, k).size_bytes
            )
            self._study(subject, kinds, lambda kind: entries.layout(entry, kind))

    def _study_remote(self, subject: Subject) -> None:
        """Read the headers of each set, the usual one first."""
        sets = self._sets.get(subject.key, {})
        entry = subject.entry
        known = set(entries.quantizations(entry)) if entry is not None else set()

        def layout(name: str) -> ModelLayout:
            if entry is not None and name in known:
                usual = entries.layout(entry, name)
                # Others may quantize otherwise under the same name; then the headers are read.
                if abs(usual.size_bytes / sets[name].size_bytes - 1) < SAME_SIZE:
                    return usual
            return self.lookups.layout(sets[name])

        names = [name for name, found in sets.items() if found.complete]
        usual = [name for name in names if name == entries.DEFAULT_QUANTIZATION]
        self._study(subject, usual + [n for n in names if n not in usual], layout)

    def _study(self, subject: Subject, names: list[str], layout_of: LayoutOf) -> None:
        machine = self._machine()
        if machine is None:
            return
        rows: list[overview.Row] = []
        problem: AppError | None = None
        for number, name in enumerate(names):
            if self._left(subject):
                return
            pending = tuple(names[number:])
            self._emit(
                ModelStudied(
                    key=subject.key,
                    overview=_overview(machine, rows, pending),
                    reading=f"Reading layers, {number + 1} of {len(names)}",
                )
            )
            try:
                layout = layout_of(name)
            except AppError as error:
                problem = problem or error
                if error.kind is ErrorKind.NETWORK:
                    break
                continue
            self._layouts[subject.key, name] = layout
            rows.append(overview.row(name, layout, machine))
        done = _overview(machine, rows, ())
        self._emit(ModelStudied(key=subject.key, overview=done, error=problem))

    def plan_choice(self, subject: Subject, name: str, choice: Choice) -> None:
        """Plan one cell to the byte, and find which hardware holds it; an older question is dropped."""
        self._choice = choice

        def job() -> None:
            machine = self._machine()
            if machine is None or self._choice is not choice or self._left(subject):
                return
            exact = recommend.exactly(choice, machine.devices, machine.host)
            self._emit(
                ChoicePlanned(key=subject.key, name=name, layout=exact.layout, plan=exact.plan)
            )

        def hardware() -> None:
            if self._choice is not choice or self._left(subject):
                return
            request = PlanRequest(
                context=choice.plan.context, kv_type_k=choice.kv_type, kv_type_v=choice.kv_type
            )
            found = least.machines(choice.layout, request)
            self._emit(
                HardwareFound(
                    key=subject.key, name=name, context=choice.plan.context, machines=found
                )
            )

        self._pages.submit(job)
        self._pages.submit(hardware)

    def _explain(self, subject: Subject) -> None:
        entry = subject.entry
        if entry is None or self._left(subject):
            return
        machine = self._machine()
        self._emit(
            ModelExplained(
                key=subject.key,
                answers=catalog_answers.answers(entry),
                related=tuple(self._related(entry.id, machine)),
            )
        )

    @staticmethod
    def _related(entry_id: str, machine: Machine | None) -> Iterator[Related]:
        entry = entries.find(entry_id)
        if entry is None:
            return
        for relation, other, words in catalog_answers.relations(entry):
            layouts = [entries.layout(other, kind) for kind in entries.quantizations(other)]
            fit = None
            if machine is not None:
                fit = (
                    overview.fit(layouts, machine)
                    if layouts
                    else overview.likely(other.parameters.value, machine)
                )
            note = f"{words} {relation.note}".strip()
            yield Related(entry=other, relation=str(relation.kind), note=note, fit=fit)

    def local(self, path: str) -> LocalModel | None:
        """The model on this machine whose first file is `path`."""
        return next((m for m in self.library.models if m.files and str(m.files[0]) == path), None)

    def close(self) -> None:
        """End all threads."""
        self.leave()
        self._searched = ""
        close_soon(self._hub, self._pages, self._lists)


def _overview(machine: Machine, rows: list[overview.Row], pending: tuple[str, ...]) -> Overview:
    ordered = tuple(sorted(rows, key=lambda row: row.size_bytes))
    return Overview(machine=machine, rows=ordered, pending=pending)
