"""One setting on the page: its words, its control, what is wrong, and the way back."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from app.settings.entries import Entry, Json
from app.settings.shown import Control
from ui.settings.controls import (
    WIDE,
    ChoiceField,
    Field,
    LineField,
    SwitchField,
    TextField,
)
from ui.settings.lists import BiasField, LinesField
from ui.widgets.labels import button, frame, label
from ui.widgets.verdict import StateWord

AT_LOAD = "Takes effect when the model is loaded again."
_ROOMY, _NARROW = 340, 220
_SHORT = 24
_FIELDS: dict[Control, type[Field]] = {
    Control.CHOICE: ChoiceField,
    Control.SWITCH: SwitchField,
    Control.WHOLE: LineField,
    Control.NUMBER: LineField,
    Control.HOURS: LineField,
    Control.TEXT: TextField,
    Control.CODE: TextField,
    Control.JSON: TextField,
    Control.LINES: LinesField,
    Control.FOLDERS: LinesField,
    Control.BIASES: BiasField,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one setting stands.

    Attributes:
        value: What is in force.
        back: What Reset goes back to.
        is_set: A person set it.
        advised: `back` is a model's advice, which is not the app's own default.
        waits: It takes effect when the model is loaded again.
    """

    value: Json
    back: Json
    is_set: bool
    advised: bool
    waits: bool


class SettingRow(QWidget):
    """Signals: edited(Entry, value); reset(Entry).

    Attributes:
        problem: Why what stands in the field is not possible, or "".
    """

    edited = Signal(object, object)
    reset = Signal(object)

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry = entry
        self._sent: tuple[Json] | None = None
        self._standing: Standing | None = None
        self.problem = ""
        self.field = _FIELDS[entry.control](entry)
        self.field.edited.connect(self._edited)
        self.field.faulty.connect(self.show_problem)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        grid = QGridLayout()
        grid.setContentsMargins(0, 12, 0, 12)
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(0, 1)
        column.addLayout(grid)
        column.addWidget(frame("rule"))
        self.note = label("", "muted", wrap=True)
        self.told = StateWord(kind="small")
        self.told.word.setWordWrap(True)
        self.told.word.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        grid.addLayout(self._words(), 0, 0)
        top = Qt.AlignmentFlag.AlignTop
        if entry.control in WIDE:
            grid.addWidget(self.field, 1, 0, 1, 2)
        else:
            roomy = entry.control is Control.CHOICE or entry.empty
            self.field.setFixedWidth(_ROOMY if roomy else _NARROW)
            grid.addWidget(self.field, 0, 1, top)
        for place, widget in enumerate((self.note, self.told), start=2):
            widget.hide()
            grid.addWidget(widget, place, 0, 1, 2)

    def _words(self) -> QVBoxLayout:
        """Title with the way back, and what it is about."""
        words = QVBoxLayout()
        words.setSpacing(2)
        head = QHBoxLayout()
        head.setSpacing(12)
        title = label(self.entry.title, "strong")
        title.setBuddy(self.field)
        head.addWidget(title)
        self.back = button("Reset", "link")
        self.back.setAccessibleName(f"Reset {self.entry.title}")
        self.back.clicked.connect(self._reset)
        keeps = self.back.sizePolicy()
        keeps.setRetainSizeWhenHidden(True)
        self.back.setSizePolicy(keeps)
        self.back.hide()
        head.addWidget(self.back)
        head.addStretch(1)
        words.addLayout(head)
        words.addWidget(label(self.entry.description, "muted", wrap=True))
        return words

    def matches(self, words: str) -> bool:
        """True if it is what a person looks for."""
        entry = self.entry
        told = f"{entry.title} {entry.description} {entry.section} {entry.key}".lower()
        return all(word in told for word in words.lower().split())

    def show_standing(self, standing: Standing) -> None:
        """Show how it stands; what is entered and not stored yet stays."""
        self._standing = standing
        if self.field.unsaved and self._sent == (standing.value,) and not self.field.typing:
            self._sent = None
            self.field.stored()
            self.problem = ""
        if not self.field.unsaved:
            self.field.show_value(standing.value)
            self.problem = ""
        differs = standing.is_set and standing.value != standing.back
        words = "As the model's makers advise."
        if differs:
            advised = self.entry.format(standing.back)
            words = f"Differs from what the model's makers advise: {advised}."
        self.note.setText(words)
        self.note.setVisible(standing.advised)
        self._tell()

    def show_problem(self, sentence: str) -> None:
        """What was entered is not possible; it stays where it was entered."""
        self._sent = None
        self.problem = sentence
        self._tell()

    def refuse(self, value: Json, sentence: str) -> None:
        """The value that was sent is not possible; of an older one nobody wants to hear."""
        if self._sent == (value,):
            self.field.refused()
            self.show_problem(sentence)

    def commit(self) -> None:
        """Take what was typed last."""
        self.field.commit()

    def _tell(self) -> None:
        """What is wrong, or that it waits; and the way back."""
        standing = self._standing
        if standing is None:
            return
        self.told.setVisible(bool(self.problem) or standing.waits)
        self.told.set_state(self.problem or AT_LOAD, "error" if self.problem else "warn")
        words = "" if self.entry.control in WIDE else self.entry.format(standing.back)
        self.back.setText(f"Reset to {words}" if 0 < len(words) <= _SHORT else "Reset")
        self.back.setVisible(standing.is_set or bool(self.problem))

    def _edited(self, value: Json) -> None:
        self._sent = (value,)
        self.problem = ""
        self._tell()
        self.edited.emit(self.entry, value)

    def _reset(self) -> None:
        self._sent = None
        self.field.unsaved = False
        self.field.clear()
        if self._standing is not None:
            self.field.show_value(self._standing.value)
        self.problem = ""
        self._tell()
        self.field.setFocus()
        if self._standing is not None and self._standing.is_set:
            self.reset.emit(self.entry)
