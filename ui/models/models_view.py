"""The list of models: the catalog, what is on this machine, what the Hub has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app import units
from app.catalog import entries as catalog
from app.catalog.library import Library, LocalModel, State
from app.catalog.model import ModelEntry
from app.catalog.search import FoundRepository
from app.events import HubSearched
from app.plan.model import Verdict
from app.plan.overview import Fit
from ui import theme
from ui.models import words
from ui.models.row import ColumnHeads, ModelRow, RowValues
from ui.widgets.labels import button, label, set_state
from ui.widgets.timers import after_rest

TYPING_MS = 400
"""After so long without a key the Hub is asked."""
SHORTEST = 2
"""Letters that are worth a search."""
_STATES = {
    State.INCOMPLETE: ("Incomplete", "warn"),
    State.DAMAGED: ("Damaged", "error"),
    State.UNCHECKED: ("Not looked into yet", ""),
}


class _Section(QWidget):
    """A heading, a note beside it, and a card of rows."""

    def __init__(self, title: str, heads: tuple[str, str, str, str, str], more: str = "") -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 8)
        column.setSpacing(6)
        head = QHBoxLayout()
        head.addWidget(label(title, "strong"))
        head.addSpacing(4)
        self.note = label("", "muted", elide=True)
        head.addWidget(self.note, 1)
        self.more = button(more, "link")
        self.more.setVisible(bool(more))
        head.addWidget(self.more)
        column.addLayout(head)
        self.empty = label("", "body-muted", wrap=True)
        column.addWidget(self.empty)
        self._card = QFrame()
        self._card.setProperty("kind", "card")
        self._rows = QVBoxLayout(self._card)
        self._rows.setContentsMargins(0, 4, 0, 4)
        self._rows.setSpacing(0)
        self._heads = ColumnHeads(heads)
        self._rows.addWidget(self._heads)
        column.addWidget(self._card)
        self.rows: list[ModelRow] = []

    def set_rows(self, values: Sequence[RowValues]) -> list[ModelRow]:
        """Show these; rows that say the same as before stay, and keep the focus."""
        if [row.values for row in self.rows] == list(values):
            return []
        focused = next((row.values.key for row in self.rows if row.hasFocus()), None)
        for row in self.rows:
            self._rows.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.rows = [ModelRow(v, last=i + 1 == len(values)) for i, v in enumerate(values)]
        for row in self.rows:
            self._rows.addWidget(row)
            if row.values.key == focused:
                row.setFocus()
        self._card.setVisible(bool(values))
        self.empty.setVisible(not values and bool(self.empty.text()))
        return list(self.rows)

    def set_empty(self, sentence: str) -> None:
        """What is said where there are no rows."""
        self.empty.setText(sentence)
        self.empty.setVisible(not self.rows and bool(sentence))


class ModelsView(QWidget):
    """Signals: opened(str), the key of a model; searched(str, bool), words and whether to ask anew.

    verify_clicked(str) and delete_clicked(str): of a model on this machine.
    """

    opened = Signal(str)
    searched = Signal(str, bool)
    folder_clicked = Signal()
    verify_clicked = Signal(str)
    delete_clicked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._entries: tuple[ModelEntry, ...] = ()
        self._fits: Mapping[str, Fit] = {}
        self._library = Library(models=())
        self._local_fits: Mapping[str, Fit] = {}
        self._scanned = False
        self._found: HubSearched | None = None
        self._asked = ""
        self._typing = after_rest(self, TYPING_MS, self._ask)
        page = QVBoxLayout(self)
        page.setContentsMargins(0, 24, 0, 0)
        page.setSpacing(12)
        self._build_head(page)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        content = QWidget()
        scroll.setWidget(content)
        self._scroll = scroll
        column = QVBoxLayout(content)
        column.setContentsMargins(32, 4, 32, 24)
        column.setSpacing(12)
        self.catalog = _Section("Catalog", ("", "Weights", "Best here", "Licence", "This machine"))
        self.local = _Section(
            "On this machine", ("", "Weights", "Size", "Where", "This machine"), "Add a folder"
        )
        self.hub = _Section(
            "Hugging Face Hub", ("", "Weights", "Downloads", "Licence", "This machine"), "Ask again"
        )
        self.local.more.clicked.connect(self.folder_clicked)
        self.hub.more.clicked.connect(lambda: self.searched.emit(self.words, True))
        for section in (self.catalog, self.local, self.hub):
            column.addWidget(section)
        column.addStretch(1)
        page.addWidget(scroll, 1)
        self._show()

    def _build_head(self, page: QVBoxLayout) -> None:
        head = QVBoxLayout()
        head.setContentsMargins(32, 0, 32, 0)
        head.setSpacing(12)
        head.addWidget(label("Models", "title"))
        self.field = QLineEdit()
        self.field.setPlaceholderText("Search the catalog, this machine and the Hugging Face Hub")
        self.field.setAccessibleName("Search models")
        self.field.setClearButtonEnabled(True)
        self._glass = self.field.addAction(QIcon(), QLineEdit.ActionPosition.LeadingPosition)
        self.field.textChanged.connect(self._typed)
        self.field.returnPressed.connect(self._ask)
        head.addWidget(self.field)
        page.addLayout(head)
        theme.manager().changed.connect(self._draw_glass)
        self._draw_glass()

    def _draw_glass(self) -> None:
        self._glass.setIcon(theme.icon("search", theme.current().muted))

    @property
    def words(self) -> str:
        """What is looked for."""
        return " ".join(self.field.text().split())

    def _typed(self) -> None:
        self._show()
        self._typing.start()

    def _ask(self) -> None:
        self._typing.stop()
        words = self.words
        if len(words) >= SHORTEST and words != self._asked:
            self._asked = words
            self.searched.emit(words, False)
            self._show()

    # --- values -----------------------------------------------------------------

    def set_catalog(self, entries: tuple[ModelEntry, ...], fits: Mapping[str, Fit]) -> None:
        """Show the catalog; how it suits the machine may follow."""
        self._entries = entries
        self._fits = fits or self._fits
        self._show()

    def set_library(self, library: Library, fits: Mapping[str, Fit]) -> None:
        """Show what is on this machine."""
        self._library, self._local_fits, self._scanned = library, fits, True
        self._show()

    def set_found(self, event: HubSearched) -> None:
        """Show what the Hub has; an answer to another question is dropped."""
        if event.words == self.words:
            self._found = event
            self._asked = event.words if event.error is None else ""
            self._show()

    # --- drawing ------------------------------------------------------------------

    def _show(self) -> None:
        wanted = self.words.lower().split()
        rows = [self._catalog_row(entry) for entry in self._entries if _named(entry, wanted)]
        fresh = self.catalog.set_rows(rows)
        self.catalog.setVisible(bool(rows) or not wanted)
        self.catalog.set_empty("" if self._entries else "Reading the catalog.")
        models = [m for m in self._library.models if m.files and _holds(_local_text(m), wanted)]
        fresh += self.local.set_rows([self._local_row(model) for model in models])
        nothing = "No model lies on this machine yet." if self._scanned else "Looking into folders."
        for row in self.local.rows:
            row.set_menu(self._local_menu)
        self.local.set_empty("Nothing here has that name." if wanted else nothing)
        self.local.note.setText(" ".join(self._library.notices))
        fresh += self._show_hub()
        for row in fresh:
            row.clicked.connect(lambda _on=False, key=row.values.key: self.opened.emit(key))
            row.moved.connect(lambda step, row=row: self._move(row, step))

    def _show_hub(self) -> list[ModelRow]:
        words = self.words
        self.hub.setVisible(len(words) >= SHORTEST)
        found = self._found if self._found and self._found.words == words else None
        answer = found.answer if found else None
        rows = [self._hub_row(one, found) for one in answer.value] if answer and found else []
        fresh = self.hub.set_rows(rows)
        note, empty, state = "", f"Asking the Hub for “{words}”.", ""
        if found is not None and found.error is not None:
            empty, state = str(found.error), "error"
        elif answer is not None:
            note = f"Asked {words_age(answer.age_s)}."
            note = f"{answer.notice} {note}" if answer.notice else note
            empty = f"The Hub has no GGUF repository with “{words}” in its name."
        self.hub.note.setText(note)
        self.hub.set_empty(empty)
        set_state(self.hub.empty, state)
        self.hub.more.setVisible(found is not None)
        return fresh

    def _local_menu(self, key: str) -> QMenu:
        """What can be done with a model on disk beside opening its page."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for text, signal in (
            ("Open", self.opened), ("Verify", self.verify_clicked), ("Delete…", self.delete_clicked),
        ):  # fmt: skip
            menu.addAction(text).triggered.connect(lambda _on=False, s=signal: s.emit(key))
        return menu

    def _move(self, row: ModelRow, step: int) -> None:
        """Focus the row above or below, across sections."""
        rows = [r for section in (self.catalog, self.local, self.hub) for r in section.rows]
        index = rows.index(row) + step
        if 0 <= index < len(rows):
            rows[index].setFocus()
            self._scroll.ensureWidgetVisible(rows[index])
        elif index < 0:
            self.field.setFocus()

    def _catalog_row(self, entry: ModelEntry) -> RowValues:
        fit = self._fits.get(entry.id)
        verdict, state = words.fit(fit)
        size = ""
        if fit is not None and fit.size_bytes:
            size = units.format_file_size(fit.size_bytes)
            if fit.likely:
                size = f"about {size}"
            elif fit.verdict is Verdict.TOO_LARGE:
                size = f"from {size}"
            else:
                size = f"{fit.quantization}, {size}"
        return RowValues(
            key=entry.id,
            name=entry.name,
            detail=entry.vendor if entry.vendor not in entry.name else "",
            weights=words.weights(entry.parameters.value),
            size=size,
            licence=entry.licence.name,
            verdict=verdict,
            state=state,
        )

    def _local_row(self, model: LocalModel) -> RowValues:
        verdict, state = words.fit(self._local_fits.get(str(model.files[0])))
        with_projector = "with projector" if model.projectors else ""
        if model.state is not State.COMPLETE:
            verdict, state = _STATES[model.state]
        return RowValues(
            key=str(model.files[0]),
            name=model.name,
            detail=", ".join(p for p in (model.quantization, with_projector) if p),
            pinned=True,
            weights=words.weights(model.parameter_count),
            size=units.format_file_size(model.size_bytes) if model.size_bytes else "",
            licence=_ORIGINS.get(str(model.origin), str(model.files[0].parent)),
            verdict=verdict,
            state=state,
        )

    def _hub_row(self, found: FoundRepository, event: HubSearched) -> RowValues:
        entry = catalog.find(found.repo)
        verdict, state = words.fit(event.fits.get(found.repo))
        terms = entry.licence.name if entry else "see its page"
        return RowValues(
            key=f"hf:{found.repo}",
            name=found.repo,
            detail=", ".join(
                w for w, on in (("gated", found.gated), ("private", found.private)) if on
            ),
            pinned=True,
            weights=words.weights(found.parameters or 0),
            size=f"{found.downloads:,} a month",
            licence=terms,
            verdict=verdict,
            state=state,
        )


_ORIGINS = {
    "app": "This app",
    "hugging face": "Hugging Face cache",
    "lm studio": "LM Studio",
    "ollama": "Ollama",
    "llama.cpp": "llama.cpp",
}
words_age = words.age


def _named(entry: ModelEntry, wanted: Sequence[str]) -> bool:
    text = " ".join((entry.id, entry.name, entry.vendor, *entry.aliases))
    return _holds(text, wanted)


def _local_text(model: LocalModel) -> str:
    return f"{model.name} {model.repo} {model.files[0].name}"


def _holds(text: str, wanted: Sequence[str]) -> bool:
    lower = text.lower()
    return all(word in lower for word in wanted)
