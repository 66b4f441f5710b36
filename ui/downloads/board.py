"""The board of one download: how far it is, and each of its files."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from app import units
from app.download.model import Download, DownloadState, FileProgress
from ui import theme
from ui.downloads import words
from ui.downloads.bars import ShardBar
from ui.widgets.labels import button, frame, label, set_state
from ui.widgets.verdict import StateWord

State = DownloadState
WITH_ICON = ("Discard", "Show in folder", "Pause")
MOST_FILES = 8
"""Of more than these only those are shown that something happens to, until all are asked for."""
_RUNNING = (State.QUEUED, State.RESOLVING, State.DOWNLOADING, State.WAITING, State.VERIFYING)


@dataclasses.dataclass(frozen=True, slots=True)
class _Shard:
    """The widgets of a file."""

    box: QWidget
    state: StateWord
    bar: ShardBar
    left: QLabel
    right: QLabel


class Board(QFrame):
    """Signals: what the person asks for, with the download's id."""

    paused = Signal(str)
    resumed = Signal(str)
    discarded = Signal(str)
    removed = Signal(str)
    loaded = Signal(str)
    folder_shown = Signal(str)
    login_asked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "card")
        self._download: Download | None = None
        self._shards: list[_Shard] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 20, 24, 20)
        column.setSpacing(8)
        self._build_head(column)
        total = QHBoxLayout()
        total.setSpacing(12)
        self.percent = label("", "title")
        self.amount = label("")
        self.speed = label("")
        self.remaining = label("", "body-muted")
        total.addWidget(self.percent)
        total.addWidget(self.amount, 0, Qt.AlignmentFlag.AlignVCenter)
        total.addStretch(1)
        total.addWidget(self.speed)
        total.addWidget(self.remaining)
        column.addLayout(total)
        self.bar = ShardBar(10)
        column.addWidget(self.bar)
        self.state = StateWord(kind="strong")
        column.addWidget(self.state)
        self.explanation = label("", "", wrap=True)
        column.addWidget(self.explanation)
        self._list = QVBoxLayout()
        self._list.setSpacing(10)
        column.addLayout(self._list)
        self._build_fold(column)
        theme.manager().changed.connect(self._draw_icons)
        self._draw_icons()

    def _build_fold(self, column: QVBoxLayout) -> None:
        self._fold = QWidget()
        row = QHBoxLayout(self._fold)
        row.setContentsMargins(0, 4, 0, 0)
        self.folded = label("", "muted")
        row.addWidget(self.folded, 1)
        self.more = button("", "link")
        self.more.clicked.connect(self._toggle)
        row.addWidget(self.more)
        column.addWidget(self._fold)
        self._all = False

    def _build_head(self, column: QVBoxLayout) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        names = QVBoxLayout()
        names.setSpacing(2)
        title = QHBoxLayout()
        title.setSpacing(8)
        self.name = label("", "section", elide=True)
        self.quantization = label("", "body-muted")
        title.addWidget(self.name)
        title.addWidget(self.quantization)
        title.addStretch(1)
        names.addLayout(title)
        self.origin = label("", "muted", elide=True)
        names.addWidget(self.origin)
        head.addLayout(names, 1)
        self.login = self._button("Log in", self.login_asked)
        self.discard = self._button("Discard", self.discarded)
        self.remove = self._button("Remove from list", self.removed)
        self.folder = self._button("Show in folder", self.folder_shown)
        self.pause = self._button("Pause", self.paused)
        self.resume = self._button("Resume", self.resumed, "primary")
        self.load = self._button("Load", self.loaded, "primary")
        for one in (
            self.remove, self.folder, self.discard, self.login, self.pause, self.resume, self.load,
        ):  # fmt: skip
            head.addWidget(one, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(head)

    def _button(self, words_: str, signal: object, kind: str = "") -> QPushButton:
        made = button(f" {words_}" if words_ in WITH_ICON else words_, kind)
        made.clicked.connect(lambda: signal.emit(self.id))  # type: ignore[attr-defined]
        return made

    def _draw_icons(self) -> None:
        look = theme.current()
        self.pause.setIcon(theme.icon("pause", look.text))
        self.discard.setIcon(theme.icon("trash-2", look.text))
        self.folder.setIcon(theme.icon("folder", look.text))

    @property
    def id(self) -> str:
        """The download that is shown; empty if none is."""
        return self._download.id if self._download else ""

    def focus_main(self) -> bool:
        """Put the focus on what a person would most likely press; False if there is nothing."""
        for one in (self.load, self.resume, self.pause):
            if one.isVisible():
                one.setFocus()
                return True
        return False

    def set_download(self, download: Download) -> None:
        """Show a download as it is now."""
        if self._download is None or self._download.id != download.id:
            self._build_shards(download)
        self._download = download
        request, progress = download.request, download.progress
        self.name.setText(words.name(download))
        self.quantization.setText(words.quantization(download))
        self.origin.setText(f"{request.repo}, revision {request.commit[:7]}, to {request.folder}")
        self.origin.setToolTip(self.origin.text())
        self._show_total(download)
        self.state.set_state(*words.state(download))
        text = words.explanation(download)
        self.explanation.setText(text)
        self.explanation.setVisible(bool(text))
        set_state(
            self.explanation, "error" if download.state in (State.FAILED, State.NO_SPACE) else ""
        )
        current = words.current_file(download)
        for index, (file, shard) in enumerate(zip(progress.files, self._shards, strict=True)):
            self._show_file(download, index, file, shard, current=index == current)
        self._show_fold(download, current)
        self._show_buttons(download)

    def _show_total(self, download: Download) -> None:
        progress, size = download.progress, download.progress.size_bytes
        self.percent.setText(units.format_percent(progress.written_bytes / max(1, size)))
        self.amount.setText(
            f"{words.gb(progress.written_bytes, size)} of {units.format_file_size(size)}"
        )
        moving = download.state in (State.DOWNLOADING, State.VERIFYING)
        self.speed.setText(words.rate(progress.bytes_per_s) if moving else "")
        self.remaining.setText(words.about(progress.remaining_s) if moving else "")
        self.bar.set_values("All files", size, progress.written_bytes, progress.hashed_bytes)

    def _toggle(self) -> None:
        self._all = not self._all
        if self._download is not None:
            self._show_fold(self._download, words.current_file(self._download))

    def _show_fold(self, download: Download, current: int) -> None:
        """Of many files those that something happens to, and how many others there are."""
        files = download.progress.files
        many = len(files) > MOST_FILES
        self._fold.setVisible(many)
        for index, (file, shard) in enumerate(zip(files, self._shards, strict=True)):
            begun = bool(file.written_bytes) and not file.verified
            near = 0 <= current <= index <= current + 1
            shard.box.setVisible(not many or self._all or begun or near)
        self.folded.setText(words.counts(download))
        self.more.setText("Show fewer" if self._all else f"Show all {len(files)} files")

    def _show_buttons(self, download: Download) -> None:
        state = download.state
        running, done = state in _RUNNING, state is State.DONE
        self.pause.setVisible(running)
        self.resume.setVisible(not running and not done)
        again = state in (State.FAILED, State.NO_SPACE)
        self.resume.setText("Try again" if again else "Resume")
        self.discard.setVisible(not running and not done)
        self.login.setVisible(state is State.NEEDS_LOGIN)
        self.load.setVisible(done and words.loadable(download))
        self.folder.setVisible(done)
        self.remove.setVisible(done)

    def _build_shards(self, download: Download) -> None:
        for shard in self._shards:
            self._list.removeWidget(shard.box)
            shard.box.hide()
            shard.box.deleteLater()
        self._shards, self._all = [], False
        for index in range(len(download.request.files)):
            box = QWidget()
            column = QVBoxLayout(box)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(5)
            column.addWidget(frame("rule"))
            column.addSpacing(4)
            row = QHBoxLayout()
            name = words.file_name(download, index)
            title = label(name, "strong", elide=True)
            title.setMinimumWidth(190)
            row.addWidget(title, 0)
            state = StateWord(kind="small")
            row.addWidget(state, 1)
            column.addLayout(row)
            bar = ShardBar(8)
            column.addWidget(bar)
            foot = QHBoxLayout()
            left, right = label("", "muted"), label("", "muted")
            foot.addWidget(left)
            foot.addStretch(1)
            foot.addWidget(right)
            column.addLayout(foot)
            self._list.addWidget(box)
            self._shards.append(_Shard(box, state, bar, left, right))

    @staticmethod
    def _show_file(
        download: Download, index: int, file: FileProgress, shard: _Shard, *, current: bool
    ) -> None:
        size, written = file.size_bytes, file.written_bytes
        shard.state.set_state(*words.file_state(download, file, current=current))
        name = words.file_name(download, index)
        shard.bar.set_values(name, size, written, file.hashed_bytes)
        whole = units.format_file_size(size)
        shard.left.setText(whole if written == size else f"{words.gb(written, size)} of {whole}")
        shard.right.setText(words.file_check(download, file))
