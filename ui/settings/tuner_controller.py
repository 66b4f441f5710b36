"""Joins the dialog that finds the fastest plan to the service."""

from __future__ import annotations

from PySide6.QtCore import QObject

from app.engine.tuner import (
    CandidateMeasured,
    TuningEnded,
    TuningEvent,
    TuningProgressed,
    TuningProposed,
    TuningStarted,
)
from app.service import AppService
from app.settings.model import Settings
from ui.settings.split_dialog import SplitDialog
from ui.settings.tuner_dialog import TunerDialog


class TunerController(QObject):
    """Opens the dialog over the one of the split, and applies there what was chosen."""

    def __init__(self, service: AppService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._service = service
        self._settings = Settings()
        self._split: SplitDialog | None = None
        self.dialog: TunerDialog | None = None

    def attach(self, split: SplitDialog) -> None:
        """Answer this dialog."""
        self._split = split
        split.fastest_wanted.connect(self._open)

    def _open(self, settings: Settings) -> None:
        """Ask what could be measured with `settings`."""
        self._settings = settings
        self.dialog = dialog = TunerDialog(self._split)
        dialog.start_clicked.connect(self._start)
        dialog.stop_clicked.connect(self._service.tuning.cancel)
        dialog.used.connect(self._use)
        dialog.left.connect(self._service.tuning.restore)
        dialog.finished.connect(self._closed)
        self._service.tuning.propose(settings)
        dialog.open()

    def _closed(self) -> None:
        """What is told later, of plans that were asked for, nobody waits for any more."""
        if self.dialog is not None:
            self.dialog.deleteLater()
        self.dialog = None

    def _start(self) -> None:
        self._service.tuning.start(self._settings)

    def _use(self, index: int) -> None:
        assert self._split is not None  # noqa: S101 - it was opened over it
        self._service.tuning.apply(index)
        self._split.accept()

    def receive(self, event: TuningEvent) -> None:
        """One event, on the GUI thread."""
        dialog = self.dialog
        if dialog is None:
            return
        match event:
            case TuningStarted():
                dialog.begin()
            case TuningProposed():
                dialog.propose(event)
            case TuningProgressed():
                dialog.advance(event)
            case CandidateMeasured():
                dialog.measure(event)
            case TuningEnded():
                dialog.end(event)
