"""The page of settings, made from their fields: section by section, searched, changed at once."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QHideEvent, QKeySequence, QResizeEvent, QShortcut, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QScrollArea, QVBoxLayout, QWidget

from app.engine.protocol import Sampling
from app.settings.entries import Entry, Json, on_page, waiting
from app.settings.model import Settings
from app.settings.shown import Section
from ui.settings.setting_row import SettingRow, Standing
from ui.widgets.error_line import ErrorLine
from ui.widgets.labels import button, frame, label
from ui.widgets.verdict import StateWord

_COLUMN = 760
_NAVIGATION = 132
_WIDE = 980
"""Below this width the list of sections is left out."""
_PLAIN = Sampling()


class _Part(QWidget):
    """A section: heading, a sentence, rows."""

    def __init__(self, section: Section, rows: list[SettingRow], more: str = "") -> None:
        super().__init__()
        self.rows = rows
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 24)
        column.setSpacing(0)
        head = QHBoxLayout()
        head.addWidget(label(section.value, "section"))
        head.addStretch(1)
        self.more = button(more, "link")
        self.more.setVisible(bool(more))
        head.addWidget(self.more)
        column.addLayout(head)
        self.sentence = label("", "body-muted", wrap=True)
        self.sentence.hide()
        column.addSpacing(4)
        column.addWidget(self.sentence)
        for row in rows:
            column.addWidget(row)


class SettingsView(QWidget):
    """Signals: edited(Entry, value); reset(Entry); advice_clicked; reload_clicked; split_clicked."""

    edited = Signal(object, object)
    reset = Signal(object)
    advice_clicked = Signal()
    reload_clicked = Signal()
    split_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: dict[str, SettingRow] = {}
        self._parts: dict[Section, _Part] = {}
        self._links = QVBoxLayout()
        self._shown: tuple[Settings, Sampling, Settings | None] | None = None
        self._sentence = ""
        outer = QVBoxLayout(self)
        outer.setContentsMargins(32, 20, 8, 0)
        outer.setSpacing(12)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 24, 0)
        head.addWidget(label("Settings", "title"))
        head.addStretch(1)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search settings")
        self.search.setAccessibleName("Search settings")
        self.search.setClearButtonEnabled(True)
        self.search.setFixedWidth(280)
        self.search.textChanged.connect(self._filter)
        head.addWidget(self.search)
        outer.addLayout(head)
        self.error = ErrorLine()
        self.error.setContentsMargins(0, 0, 24, 0)
        outer.addWidget(self.error)
        outer.addLayout(self._body(), 1)
        self._foot = self._footer()
        outer.addWidget(self._foot)
        find = QShortcut(QKeySequence(QKeySequence.StandardKey.Find), self)
        find.activated.connect(self.search.setFocus)

    def _body(self) -> QHBoxLayout:
        body = QHBoxLayout()
        body.setSpacing(24)
        self._navigation = QWidget()
        self._navigation.setFixedWidth(_NAVIGATION)
        side = QVBoxLayout(self._navigation)
        side.setContentsMargins(0, 0, 0, 0)
        self._links.setSpacing(4)
        side.addLayout(self._links)
        side.addStretch(1)
        body.addWidget(self._navigation)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        row = QHBoxLayout(content)
        row.setContentsMargins(0, 0, 24, 0)
        inner = QWidget()
        inner.setMaximumWidth(_COLUMN)
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._nothing = label("", "body-muted", wrap=True)
        self._nothing.hide()
        self._column.addWidget(self._nothing)
        row.addWidget(inner, 1)
        row.addStretch(0)
        self._scroll.setWidget(content)
        body.addWidget(self._scroll, 1)
        return body

    def _footer(self) -> QWidget:
        foot = QWidget()
        column = QVBoxLayout(foot)
        column.setContentsMargins(0, 0, 24, 12)
        column.setSpacing(12)
        column.addWidget(frame("rule"))
        row = QHBoxLayout()
        self.waiting = StateWord(kind="")
        self.waiting.word.setWordWrap(True)
        row.addWidget(self.waiting, 1)
        self.reload = button("Reload", "primary")
        self.reload.clicked.connect(self.reload_clicked)
        row.addWidget(self.reload)
        column.addLayout(row)
        foot.hide()
        return foot

    def showEvent(self, event: QShowEvent) -> None:
        """The rows are made when they are seen first: most starts need none."""
        super().showEvent(event)
        if not self.rows:
            self._build()

    def hideEvent(self, event: QHideEvent) -> None:
        """What was typed last counts, too."""
        super().hideEvent(event)
        self.commit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The list of sections needs room."""
        super().resizeEvent(event)
        self._navigation.setVisible(self.width() >= _WIDE)

    def _build(self) -> None:
        more = {Section.SAMPLING: "Reset all sampling", Section.ENGINE: "GPU split…"}
        for section in Section:
            found = [entry for entry in on_page() if entry.section is section]
            if not found:
                continue
            part = _Part(section, [self._row(entry) for entry in found], more.get(section, ""))
            self._parts[section] = part
            self._column.addWidget(part)
            link = button(section.value, "link")
            link.clicked.connect(lambda _checked=False, to=part: self._go(to))
            self._links.addWidget(link, 0, Qt.AlignmentFlag.AlignLeft)
        self._column.addStretch(1)
        self._parts[Section.SAMPLING].more.clicked.connect(self.advice_clicked)
        self._parts[Section.ENGINE].more.clicked.connect(self.split_clicked)
        self._filter(self.search.text())
        self._draw()

    def _row(self, entry: Entry) -> SettingRow:
        row = SettingRow(entry)
        row.edited.connect(self.edited)
        row.reset.connect(self.reset)
        self.rows[entry.key] = row
        return row

    # --- what is shown -----------------------------------------------------------

    def show_settings(
        self, settings: Settings, advice: Sampling, loaded: Settings | None, sentence: str = ""
    ) -> None:
        """Show how everything stands.

        Args:
            settings: In force.
            advice: What the chosen model's makers advise.
            loaded: In force when the model was loaded; None if none is.
            sentence: Says who advises what.
        """
        self._shown, self._sentence = (settings, advice, loaded), sentence
        if self.rows:
            self._draw()

    def _draw(self) -> None:
        if self._shown is None:
            return
        settings, advice, loaded = self._shown
        late = waiting(settings, loaded)
        for row in self.rows.values():
            row.show_standing(_standing(row.entry, settings, advice, late))
        sampling = self._parts[Section.SAMPLING]
        sampling.sentence.setText(self._sentence)
        sampling.sentence.setVisible(bool(self._sentence))
        sampling.more.setVisible(bool(settings.sampling))
        names = ", ".join(entry.title for entry in late)
        self.waiting.set_state(f"In effect once the model is loaded again: {names}.", "warn")
        self._foot.setVisible(bool(late))

    def show_problem(self, key: str, sentence: str, value: Json) -> None:
        """A value was refused; it stays in its field."""
        if key in self.rows:
            self.rows[key].refuse(value, sentence)

    def commit(self) -> None:
        """Take what was typed last."""
        for row in self.rows.values():
            row.commit()

    def _go(self, part: _Part) -> None:
        self._scroll.verticalScrollBar().setValue(part.y())

    def _filter(self, words: str) -> None:
        found = 0
        for part in self._parts.values():
            hits = [row for row in part.rows if row.matches(words)]
            for row in part.rows:
                row.setVisible(row in hits)
            part.setVisible(bool(hits))
            found += len(hits)
        self._nothing.setText(f"No setting is about “{words}”.")
        self._nothing.setVisible(bool(self._parts) and not found)


def _standing(
    entry: Entry, settings: Settings, advice: Sampling, late: tuple[Entry, ...]
) -> Standing:
    back = entry.advised(advice) if entry.option else entry.default
    return Standing(
        value=entry.value(settings, advice),
        back=back,
        is_set=entry.is_set(settings),
        advised=bool(entry.option) and back != entry.advised(_PLAIN),
        waits=entry in late,
    )
