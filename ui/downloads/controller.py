"""Joins the page of downloads to the service."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from PySide6.QtCore import QObject, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QMessageBox

from app import units
from app.download.model import (
    DownloadEvent,
    DownloadProgressed,
    DownloadRemoved,
    DownloadStateChanged,
    FileVerified,
    UpdateFound,
)
from app.hardware.model import HardwareReport
from app.service import AppService
from ui.downloads import words
from ui.downloads.downloads_view import DownloadsView
from ui.widgets.token_dialog import ask_token


class DownloadsController(QObject):
    """Signals: busy_changed(bool), something runs; loading; changed, offers may be others now."""

    busy_changed = Signal(bool)
    loading = Signal()
    changed = Signal()
    notice = Signal(str)

    def __init__(self, service: AppService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._service = service
        self.view = DownloadsView()
        self.view.set_rules(service.settings.download_limit, service.settings.download_hours)
        downloads, board = service.downloads, self.view.board
        board.paused.connect(downloads.pause)
        board.resumed.connect(downloads.resume)
        board.discarded.connect(self._discard)
        board.removed.connect(downloads.remove)
        board.loaded.connect(self._load)
        board.folder_shown.connect(self._show_folder)
        board.login_asked.connect(self._log_in)
        self.view.queue.started.connect(downloads.start_first)
        self.view.queue.loaded.connect(self._load)
        self.view.rules_changed.connect(service.change_download_rules)
        self.view.side.load_wanted.connect(self._load_when_done)

    def _load_when_done(self, wanted: bool) -> None:
        self._service.load_when_done = wanted

    def _discard(self, id: str) -> None:
        download = self.view.get(id)
        if download is None:
            return
        size = units.format_file_size(download.progress.written_bytes)
        asked = QMessageBox.question(
            self.view,
            "Discard the download",
            f"Discard {words.name(download)}? {size} that are not finished are deleted; "
            "finished files stay.",
        )
        if asked is QMessageBox.StandardButton.Yes:
            self._service.downloads.discard(id)

    def _path(self, id: str) -> Path | None:
        download = self.view.get(id)
        return download.request.target(download.request.files[0]) if download else None

    def _load(self, id: str) -> None:
        path = self._path(id)
        if path is not None:
            self._service.choose_model(path, load=True)
            self.loading.emit()

    def _show_folder(self, id: str) -> None:
        path = self._path(id)
        if path is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent)))

    def _log_in(self, id: str) -> None:
        token = ask_token(self.view)
        if token:
            resume = self._service.downloads.resume
            self._service.models.log_in(token, lambda: resume(id))

    def set_report(self, report: HardwareReport) -> None:
        """The machine's disks, of which one takes the models."""
        if report.disks:
            self.view.side.set_disk_total(report.disks[0].total_bytes)

    def receive(self, event: DownloadEvent) -> None:
        """One event of the queue."""
        match event:
            case DownloadStateChanged(download=download):
                self.view.set_download(download)
                self.changed.emit()
            case DownloadProgressed(id=id, progress=progress):
                known = self.view.get(id)
                if known is not None:
                    self.view.set_download(dataclasses.replace(known, progress=progress))
                self.changed.emit()
            case DownloadRemoved(id=id):
                self.view.remove(id)
                self.changed.emit()
            case UpdateFound(id=id):
                known = self.view.get(id)
                if known is not None:
                    self.notice.emit(
                        f"{words.name(known)} has a newer revision; the download goes on with its own."
                    )
            case FileVerified():
                pass
        self.busy_changed.emit(self.view.busy)
