"""The page of downloads."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from PySide6.QtCore import Signal
from PySide6.QtGui import QActionGroup, QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QHBoxLayout,
    QMenu,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app.download.manager import Hours
from app.download.model import ENDED, HALTED, Download, DownloadState
from app.errors import AppError
from ui import theme
from ui.downloads import words
from ui.downloads.board import Board
from ui.downloads.queue import Queue
from ui.downloads.side import Side
from ui.widgets.labels import button, label, set_state

LIMITS = (None, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000)
"""Bytes/s that are offered."""
HOURS = (None, (22, 6), (0, 7), (18, 8), (8, 18))
SIDE_PX, FOLD_PX = 288, 1100 - 88


class DownloadsView(QWidget):
    """Signals: rules_changed(limit or None, Hours or None), models_clicked; the board's are its own."""

    rules_changed = Signal(object, object)
    models_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._downloads: dict[str, Download] = {}
        self._focus = ""
        self._wants_focus = False
        self._limit: int | None = None
        self._hours: Hours | None = None
        page = QVBoxLayout(self)
        page.setContentsMargins(0, 24, 0, 0)
        page.setSpacing(12)
        head = QHBoxLayout()
        head.setContentsMargins(32, 0, 32, 0)
        head.addWidget(label("Downloads", "title"))
        head.addStretch(1)
        self.schedule, self.limit = self._menu("clock"), self._menu("gauge")
        head.addWidget(self.schedule)
        head.addWidget(self.limit)
        page.addLayout(head)
        self.problem = label("", "", wrap=True)
        self.problem.setContentsMargins(32, 0, 32, 0)
        set_state(self.problem, "error")
        self.problem.hide()
        page.addWidget(self.problem)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        content = QWidget()
        scroll.setWidget(content)
        page.addWidget(scroll, 1)
        column = QVBoxLayout(content)
        column.setContentsMargins(32, 0, 32, 24)
        column.setSpacing(16)
        self._build_empty(column)
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._columns.setSpacing(32)
        left = QVBoxLayout()
        left.setSpacing(20)
        self.board, self.queue, self.side = Board(), Queue(), Side()
        left.addWidget(self.board)
        left.addWidget(self.queue)
        left.addStretch(1)
        self._columns.addLayout(left, 1)
        self._columns.addWidget(self.side)
        column.addLayout(self._columns)
        column.addStretch(1)
        self.queue.shown.connect(self.show_download)
        theme.manager().changed.connect(self._draw_icons)
        self.set_rules(None, None)
        self._show()

    def _build_empty(self, column: QVBoxLayout) -> None:
        self.empty = QWidget()
        inner = QVBoxLayout(self.empty)
        inner.setContentsMargins(0, 24, 0, 0)
        inner.setSpacing(12)
        inner.addWidget(
            label(
                "Nothing is downloaded yet. What begins here survives a restart.", "lead", wrap=True
            )
        )
        row = QHBoxLayout()
        find = button("Find a model", "primary")
        find.clicked.connect(self.models_clicked)
        row.addWidget(find)
        row.addStretch(1)
        inner.addLayout(row)
        self._find = find
        column.addWidget(self.empty)

    def _menu(self, icon: str) -> QPushButton:
        made = button("")
        made.setMenu(QMenu(made))
        made.setProperty("icon_name", icon)
        return made

    def _draw_icons(self) -> None:
        for one in (self.schedule, self.limit):
            one.setIcon(theme.icon(str(one.property("icon_name")), theme.current().text))

    # --- limit and hours --------------------------------------------------------

    def set_rules(self, limit: int | None, hours: Hours | None) -> None:
        """Show the limit in bytes/s and the hours that are in force."""
        self._limit, self._hours = limit, hours
        self.limit.setText(f" Limit: {_limit_words(limit)}")
        self.schedule.setText(f" Schedule: {_hours_words(hours)}")
        self.limit.setAccessibleDescription("How many bytes a second downloads take at most")
        self.schedule.setAccessibleDescription("At what time of day downloads run")
        limits = {_limit_words(value): value for value in (*LIMITS, limit)}
        offered = {_hours_words(value): value for value in (*map(_hours, HOURS), hours)}
        self._fill(self.limit.menu(), limits, limit, lambda v: (v, self._hours))
        self._fill(self.schedule.menu(), offered, hours, lambda v: (self._limit, v))
        self._draw_icons()

    def _fill(self, menu: QMenu, choices: dict, current: object, rules) -> None:  # type: ignore[no-untyped-def, type-arg]  # noqa: ANN001
        menu.clear()
        group = QActionGroup(menu)
        for text, value in choices.items():
            action = menu.addAction(text)
            action.setCheckable(True)
            action.setChecked(value == current)
            group.addAction(action)
            action.triggered.connect(lambda _on=False, v=value: self.rules_changed.emit(*rules(v)))

    # --- downloads ----------------------------------------------------------------

    def set_download(self, download: Download) -> None:
        """A download as it is now."""
        before = self._downloads.get(download.id)
        if before is None or before.state is not download.state:
            self.problem.hide()
        self._downloads[download.id] = download
        self.side.note(download)
        self._show()

    def show_error(self, error: AppError) -> None:
        """What could not be done; it stays until something else happens."""
        self.problem.setText(str(error))
        self.problem.show()

    def remove(self, id: str) -> None:
        """It is no longer in the queue."""
        self._downloads.pop(id, None)
        self._show()

    def get(self, id: str) -> Download | None:
        """The download of this id, as far as it was told."""
        return self._downloads.get(id)

    @property
    def all(self) -> Iterable[Download]:
        """All of them."""
        return self._downloads.values()

    @property
    def busy(self) -> bool:
        """True while something runs."""
        waits = (*HALTED, DownloadState.QUEUED)
        return any(download.state not in waits for download in self._downloads.values())

    def show_download(self, id: str) -> None:
        """Put this one on the board."""
        self._focus = id
        self._show()

    def focus_main(self) -> None:
        """Put the focus on what a person would most likely press, as soon as it is there."""
        self._wants_focus = not self.board.focus_main()
        if self._wants_focus:
            self._find.setFocus()

    def _shown(self) -> Download | None:
        """The one on the board: the chosen one, else what runs, else what is not done, else any."""
        if self._focus in self._downloads:
            return self._downloads[self._focus]
        order = sorted(
            self._downloads.values(), key=lambda d: (d.state in ENDED, d.state in HALTED)
        )
        return order[0] if order else None

    def _show(self) -> None:
        shown = self._shown()
        self.empty.setVisible(shown is None)
        for part in (self.board, self.side, self.queue):
            part.setVisible(shown is not None)
        if shown is None:
            return
        if self._focus not in self._downloads and shown.state not in HALTED:
            self._focus = shown.id
        self.board.set_download(shown)
        if self._wants_focus and self.isVisible():
            self.focus_main()
        self.side.set_download(shown)
        others = [d for d in self._downloads.values() if d.id != shown.id]
        self.queue.set_downloads(sorted(others, key=lambda d: d.state in ENDED))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """In a narrow window the side column goes below."""
        super().resizeEvent(event)
        narrow = self.width() < FOLD_PX
        direction = QBoxLayout.Direction
        self._columns.setDirection(direction.TopToBottom if narrow else direction.LeftToRight)
        self.side.setMinimumWidth(0 if narrow else SIDE_PX)
        self.side.setMaximumWidth(16_777_215 if narrow else SIDE_PX)


def _hours(value: tuple[int, int] | None) -> Hours | None:
    if value is None:
        return None
    return Hours(start=datetime.time(value[0]), end=datetime.time(value[1]))


def _hours_words(hours: Hours | None) -> str:
    return "any time" if hours is None else f"{hours.start:%H:%M}–{hours.end:%H:%M}"


def _limit_words(limit: int | None) -> str:
    return "none" if limit is None else words.rate(limit)
