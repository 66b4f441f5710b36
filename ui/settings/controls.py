"""Controls of settings: what cannot be used stays in the field, and is told, never stored."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontDatabase, QWheelEvent
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from app.settings.entries import Entry, Json
from app.settings.shown import Control
from app.settings.text import SettingError
from ui.widgets.labels import label
from ui.widgets.segments import Segments
from ui.widgets.switch import Switch
from ui.widgets.timers import after_rest

SETTLE_MS = 400
"""How long a text must stand before it counts."""
MOST_SEGMENTS = 4
MOST_LETTERS = 36
FIELD_WIDTH = 148
WIDE = (Control.TEXT, Control.CODE, Control.JSON, Control.LINES, Control.FOLDERS, Control.BIASES)
"""These stand below their words, as wide as the page."""


class Field(QWidget):
    """One setting's control.

    Signals: edited(value), what a person entered, in JSON's form; faulty(str), why it is no value.
    """

    edited = Signal(object)
    faulty = Signal(str)

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry = entry
        self.unsaved = False

    def show_value(self, value: Json) -> None:
        """Show what is stored, instead of what stands there."""
        raise NotImplementedError

    @property
    def typing(self) -> bool:
        """True while what was typed has not stood for long enough."""
        return False

    def commit(self) -> None:
        """Take what was typed, without waiting until it has stood for a while."""

    def stored(self) -> None:
        """What was sent is stored."""
        self.unsaved = False

    def refused(self) -> None:
        """What was sent is not possible."""

    def clear(self) -> None:
        """Give up what was entered and is not stored."""

    def _send(self, value: Json) -> None:
        self.unsaved = True
        self.edited.emit(value)

    def _fail(self, problem: str) -> None:
        self.unsaved = True
        self.faulty.emit(problem)


class SwitchField(Field):
    """On or off."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        row = _row(self)
        row.addStretch(1)
        self.switch = Switch()
        name(self.switch, entry)
        self.switch.clicked.connect(self._send)
        row.addWidget(self.switch)

    def show_value(self, value: Json) -> None:
        """On or off."""
        self.switch.setChecked(value)


class _Combo(QComboBox):
    """The wheel scrolls the page, not the choice."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        """To the page."""
        event.ignore()


class ChoiceField(Field):
    """One of some values: segments, or a list where they are many or long."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._words = dict(entry.choices)
        row = _row(self)
        self.segments: Segments | None = None
        self.combo: QComboBox | None = None
        letters = sum(len(word) for word in self._words.values())
        if len(entry.choices) <= MOST_SEGMENTS and letters <= MOST_LETTERS:
            self.segments = Segments(list(self._words.values()))
            self.segments.chosen.connect(lambda word: self._send(entry.parse(word)))
            name(self.segments, entry)
            row.addWidget(self.segments, 1)
            return
        row.addStretch(1)
        self.combo = _Combo()
        name(self.combo, entry)
        self.combo.setMinimumWidth(FIELD_WIDTH)
        for value, word in entry.choices:
            self.combo.addItem(word, value)
        self.combo.activated.connect(lambda index: self._send(entry.choices[index][0]))
        row.addWidget(self.combo)

    def show_value(self, value: Json) -> None:
        """Choose it."""
        if self.segments is not None:
            self.segments.set_value(self._words.get(value, ""))
        if self.combo is not None:
            self.combo.setCurrentIndex(self.combo.findData(value))


class _Typed(Field):
    """Text that counts once it has stood for a while, or the focus leaves."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._fresh = False
        self._settle = after_rest(self, SETTLE_MS, self.commit)

    @property
    def typing(self) -> bool:
        """True while what was typed has not stood for long enough."""
        return self._fresh

    def _typed(self) -> None:
        self.unsaved = self._fresh = True
        self._settle.start()

    def _forget(self) -> None:
        self._fresh = False
        self._settle.stop()

    def _text(self) -> str:
        raise NotImplementedError

    def commit(self) -> None:
        """Take what was typed."""
        if not self._fresh:
            return
        self._forget()
        try:
            value = self.entry.parse(self._text())
        except SettingError as problem:
            self._fail(str(problem))
        else:
            self._send(value)


class LineField(_Typed):
    """A number or a short text with its unit; where there may be no value, a switch says so."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        row = _row(self)
        row.addStretch(1)
        self.automatic: Switch | None = None
        if entry.empty:
            self.automatic = Switch()
            name(self.automatic, entry, f": {entry.empty.lower()}")
            self.automatic.clicked.connect(self._switched)
            row.addWidget(self.automatic)
            row.addWidget(label(entry.empty))
            row.addSpacing(8)
        self.line = QLineEdit()
        name(self.line, entry)
        self.line.setFixedWidth(FIELD_WIDTH)
        self.line.setPlaceholderText(_example(entry))
        if entry.control in (Control.WHOLE, Control.NUMBER):
            self.line.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.line.textEdited.connect(self._typed)
        self.line.editingFinished.connect(self._left)
        row.addWidget(self.line)
        if entry.unit:
            unit = label(entry.unit, "body-muted")
            row.addWidget(unit)

    def show_value(self, value: Json) -> None:
        """Its text, or that there is none."""
        self._forget()
        if self.automatic is not None:
            self.automatic.setChecked(value is None)
            self.line.setEnabled(value is not None)
            self.line.setPlaceholderText("" if value is None else _example(self.entry))
            if value is None:
                self.line.clear()
                return
        # What a person wrote in another way (32k) stays while they are at it.
        if not self._means(value):
            self.line.setText(self.entry.format(value))

    def _means(self, value: Json) -> bool:
        try:
            return bool(self.entry.parse(self.line.text()) == value)
        except SettingError:
            return False

    def _left(self) -> None:
        self.commit()
        if self.line.isEnabled() and not self.unsaved:
            self.line.setText(self.entry.format(self.entry.parse(self.line.text())))

    def _switched(self, automatic: bool) -> None:
        self.line.setEnabled(not automatic)
        self.line.setPlaceholderText("" if automatic else _example(self.entry))
        if automatic:
            self.line.clear()
            self._forget()
            self._send(None)
        else:
            self.unsaved = True
            self.line.setFocus()

    def _text(self) -> str:
        return self.line.text()


class _Box(QPlainTextEdit):
    """Tab leaves it. Signals: left, the focus is elsewhere."""

    left = Signal()

    def __init__(self, height: int) -> None:
        super().__init__()
        self.setTabChangesFocus(True)
        self.setFixedHeight(height)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Say so."""
        super().focusOutEvent(event)
        self.left.emit()


class TextField(_Typed):
    """A long text; grammars and schemas in a fixed font."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        code = entry.control is not Control.TEXT
        self.box = _Box(132 if code else 88)
        name(self.box, entry)
        if code:
            font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
            font.setFamilies(["JetBrains Mono", font.family()])
            font.setPixelSize(12)
            self.box.setFont(font)
            examples = {
                Control.CODE: 'root ::= "yes" | "no"',
                Control.JSON: '{"type": "object", "properties": {"name": {"type": "string"}}}',
            }
            self.box.setPlaceholderText(examples[entry.control])
        self.box.textChanged.connect(self._typed)
        self.box.left.connect(self.commit)
        column.addWidget(self.box)

    def show_value(self, value: Json) -> None:
        """The text, where it is another one."""
        self._forget()
        text = "" if value is None else self.entry.format(value)
        if self._means(value):
            return
        self.box.blockSignals(True)
        self.box.setPlainText(text)
        self.box.blockSignals(False)

    def _means(self, value: Json) -> bool:
        try:
            return bool(self.entry.parse(self._text()) == value)
        except SettingError:
            return False

    def _text(self) -> str:
        text = self.box.toPlainText()
        return text if text.strip() or not self.entry.empty else self.entry.empty


def _example(entry: Entry) -> str:
    """What stands in an empty field."""
    if entry.control is Control.HOURS:
        return "22:00–06:00"
    if entry.control is Control.WHOLE and entry.least is not None and entry.scale == 1:
        return f"{entry.format(entry.least)} or more"
    return ""


def name(widget: QWidget, entry: Entry, more: str = "") -> None:
    """For those who hear the page."""
    widget.setAccessibleName(entry.title + more)
    widget.setAccessibleDescription(entry.description)


def _row(widget: QWidget) -> QHBoxLayout:
    row = QHBoxLayout(widget)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(8)
    return row
