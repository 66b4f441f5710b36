"""Joins the dialog that finds the fastest plan to the service."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

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
from ui.settings.tuner_dialog import TunerDialog


class TunerController(QObject):
    """Signals: chosen(Settings), to be put in force and loaded."""

    chosen = Signal(object)

    def __init__(self, service: AppService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._service = service
        self._settings = Settings()
        self.dialog: TunerDialog | None = None

    def open(self, settings: Settings, parent: QWidget) -> None:
        """Ask what could be measured with `settings`, in a dialog over `parent`."""
        self._settings = settings
        self.dialog = dialog = TunerDialog(parent)
        dialog.start_clicked.connect(self._start)
        dialog.stop_clicked.connect(self._service.tuning.cancel)
        dialog.used.connect(self._use)
        dialog.left.connect(self._service.tuning.restore)
        self._service.tuning.propose(settings)
        dialog.open()

    def _start(self) -> None:
        self._service.tuning.start(self._settings)

    def _use(self, index: int) -> None:
        self.chosen.emit(self._service.tuning.use(index))

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
