"""Below the one button of a model's page: where it goes, and what is done with it once it is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QHBoxLayout, QMenu, QWidget

from app import units
from app.download import text
from app.events import ModelVerified
from app.service.subjects import OfferKind
from ui.widgets.labels import button, label
from ui.widgets.switch import Switch
from ui.widgets.verdict import StateWord

Places = Sequence[tuple[Path, int | None]]
"""Folders with their free bytes, the next download's first; None: it is not there."""
PLACE_PX = 380
NOT_RUN = "This app does not run it yet."
FROM_DISK = "Get it from a disk or share…"


class PlaceLine(QWidget):
    """Signals: what the person asks for; folder_chosen(Path)."""

    folder_chosen = Signal(object)
    other_clicked = Signal()
    import_clicked = Signal()
    hub_clicked = Signal()
    update_clicked = Signal()
    verify_clicked = Signal()
    delete_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.place = button("", "link")
        self.menu = QMenu(self.place)
        self.place.setMenu(self.menu)
        self.place.setProperty("menu", "true")
        self.place.setAccessibleDescription("Where the download goes, or where else it may be from")
        self.update_ = button("Update available", "link")
        self.update_.setToolTip(
            "Its repository has newer files. Fetch them; those here stay until all of them are whole"
        )
        self.update_.clicked.connect(self.update_clicked)
        self.verify = button("Verify", "link")
        self.verify.setToolTip("Read all of it again and compare it with its checksum")
        self.verify.clicked.connect(self.verify_clicked)
        self.delete = button("Delete…", "link")
        self.delete.clicked.connect(self.delete_clicked)
        for one in (self.place, self.update_, self.verify, self.delete):
            row.addWidget(one)
            one.hide()
        self._places: Places = ()
        self._drawn: object = None

    def show_place(self, kind: OfferKind, places: Places, *, copied: bool = False) -> None:
        """Where a download goes, or went; `copied`: it comes from a disk and not from the Hub."""
        shown = kind in (OfferKind.DOWNLOAD, OfferKind.RESUME) and bool(places)
        self.place.setVisible(shown)
        wanted = (kind, tuple(places), copied)
        # Figures of a download come all the time; a menu that is open stays as it is.
        if not shown or wanted == self._drawn:
            return
        self._drawn = wanted
        self.place.setText(self._cut(f"to {place_words(*places[0])}"))
        self.place.setToolTip(str(places[0][0]))
        self.menu.clear()
        if kind is OfferKind.DOWNLOAD:
            self._add_places(places)
        if copied:
            self.menu.addAction("Get the rest from the Hub").triggered.connect(self.hub_clicked)
        self.menu.addAction(FROM_DISK).triggered.connect(self.import_clicked)

    def _add_places(self, places: Places) -> None:
        group = QActionGroup(self.menu)
        for folder, free in places:
            action = self.menu.addAction(place_words(folder, free))
            action.setCheckable(True)
            action.setChecked(folder == places[0][0])
            action.setEnabled(free is not None)
            group.addAction(action)
            action.triggered.connect(lambda _on=False, f=folder: self.folder_chosen.emit(f))
        self.menu.addAction("Another folder…").triggered.connect(self.other_clicked)
        self.menu.addSeparator()

    def _cut(self, words: str) -> str:
        return self.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, PLACE_PX)

    def show_disk(self, *, here: bool, kept_because: str, busy: bool, outdated: bool) -> None:
        """What can be done with a model that is on disk; `busy` while it is verified."""
        self.update_.setVisible(here and outdated)
        self.update_.setEnabled(not busy)
        self.verify.setVisible(here)
        self.verify.setEnabled(not busy)
        self.delete.setVisible(here)
        self.delete.setEnabled(not kept_because)
        self.delete.setToolTip(kept_because or "Delete its files from this disk")


class ProjectorLine(QWidget):
    """The file that reads pictures or sound for a model, where it has one. Signal: get_clicked."""

    get_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.setSpacing(8)
        self.switch = Switch()
        self.switch.setAccessibleName("Download its projector, too")
        self.words = label("", "body-muted", elide=True)
        self.get = button("", "link")
        self.get.clicked.connect(self.get_clicked)
        row.addWidget(self.switch)
        row.addWidget(self.get)
        row.addWidget(self.words, 1)
        self.hide()

    @property
    def wanted(self) -> bool:
        """True if it is to come along with the next download."""
        return not self.isHidden() and not self.switch.isHidden() and self.switch.isChecked()

    def show_projector(self, kind: OfferKind, offered: int | None, here: Sequence[Path]) -> None:
        """Offer one of `offered` bytes, or name those that are on disk beside the model."""
        on_disk = kind in (OfferKind.LOAD, OfferKind.OPEN_CHAT)
        choice = kind is OfferKind.DOWNLOAD and offered is not None
        later = on_disk and offered is not None and not here
        size = units.format_file_size(offered or 0)
        self.switch.setVisible(choice)
        self.get.setVisible(later)
        self.get.setText(f"Get its projector, {size}")
        if choice:
            text = f"With its projector for pictures or sound (mmproj), {size}. {NOT_RUN}"
        elif on_disk and here:
            text = f"{here[0].name} beside it is its projector for pictures or sound. {NOT_RUN}"
        else:
            text = f"For pictures or sound (mmproj). {NOT_RUN}"
        self.words.setText(text)
        self.words.setToolTip(text)
        self.setVisible(choice or later or (on_disk and bool(here)))


class CheckLine(QWidget):
    """How verifying goes and what came of it. Signals: stop_clicked; mend_clicked."""

    stop_clicked = Signal()
    mend_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.setSpacing(12)
        self.state = StateWord(kind="")
        row.addWidget(self.state)
        self.stop = button("Stop", "link")
        self.stop.clicked.connect(self.stop_clicked)
        self.mend = button("Fetch what is damaged again", "link")
        self.mend.clicked.connect(self.mend_clicked)
        row.addWidget(self.stop)
        row.addWidget(self.mend)
        row.addStretch(1)
        self.hide()

    def show_verified(self, event: ModelVerified) -> None:
        """One figure, or the result."""
        self._show(*verified_words(event))
        self.stop.setVisible(not event.ended)
        self.mend.setVisible(event.can_mend)

    def say(self, words: str) -> None:
        """Something that was done."""
        self._show(words, "ok")
        self.stop.hide()
        self.mend.hide()

    def _show(self, words: str, state: str) -> None:
        # Wrapped only where it is long: a wrapped label takes all the width there is.
        self.state.word.setWordWrap(len(words) > 100)
        self.state.set_state(words, state)
        self.show()


def place_words(folder: Path, free: int | None) -> str:
    """A folder with what is free on its disk: `~/models, 77.0 GB free`."""
    home = Path.home()
    name = f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else folder
    return f"{name}, not there now" if free is None else f"{name}, {_size(free)} free"


def _size(count: int) -> str:
    """Free space is never known to the tenth of a GB for long."""
    return f"{count / 1e9:,.0f} GB" if count >= 10e9 else units.format_file_size(count)


def verified_words(event: ModelVerified) -> tuple[str, str]:
    """What is said of verifying, and its state."""
    if event.error is not None:
        return str(event.error), "error"
    if not event.ended:
        done = units.format_percent(event.done_bytes / max(1, event.size_bytes))
        return f"Verifying {units.format_file_size(event.size_bytes)}, {done}", "busy"
    if event.stopped:
        return "Stopped before all of it was verified.", ""
    count, names = event.files, ", ".join(path.name for path in event.wrong)
    if not names and event.unchecked:
        some = "" if event.unchecked == count else f" {event.unchecked} of {count} files"
        return f"Complete,{some} {text.NOT_CHECKED}.", ""
    if not names:
        right = "The file is right" if count == 1 else f"All {count} files are right"
        whose = f"as {event.against} has them now" if event.against else "the checksums match"
        return f"{right}: {whose}.", "ok"
    wrong = len(event.wrong)
    what = "is" if wrong == 1 else "are"
    how = "not what the repository has now" if event.against else "damaged or missing"
    return f"{wrong} of {units.format_files(count)} {what} {how}: {names}.", "error"
