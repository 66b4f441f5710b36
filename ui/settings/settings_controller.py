"""Joins the page of settings to the service."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.engine.defaults import advice_words
from app.service import AppService
from app.settings.entries import Entry, Json
from app.settings.requests import advice
from app.settings.text import SettingError
from ui.settings.settings_view import SettingsView


class SettingsController(QObject):
    """Signals: split_wanted; reloading, the model is being loaded again."""

    split_wanted = Signal()
    reloading = Signal()

    def __init__(self, service: AppService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._service = service
        self.view = SettingsView()
        self.view.edited.connect(self._edited)
        self.view.reset.connect(self._reset)
        self.view.advice_clicked.connect(self._reset_sampling)
        self.view.reload_clicked.connect(self._reload)
        self.view.split_clicked.connect(self.split_wanted)

    def refresh(self) -> None:
        """Show what is in force now."""
        service = self._service
        layout = service.planning.layout
        self.view.show_settings(
            service.settings,
            advice(service.settings, layout),
            service.engine.loaded_settings if service.engine.loaded is not None else None,
            advice_words(layout) if layout is not None else "",
        )

    def _edited(self, entry: Entry, value: Json) -> None:
        try:
            self._service.put_setting(entry, value)
        except SettingError as problem:
            self.view.show_problem(entry.key, str(problem), value)

    def _reset(self, entry: Entry) -> None:
        self._service.reset_setting(entry)

    def _reset_sampling(self) -> None:
        self._service.update_settings(self._service.settings.model_copy(update={"sampling": {}}))

    def _reload(self) -> None:
        self.view.commit()
        self._service.update_settings(self._service.settings, reload=True)
        self.reloading.emit()
