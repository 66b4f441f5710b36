"""The one window: rail, pages, and the controller that joins them to the service."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from PySide6.QtCore import Qt
from PySide6.QtGui import QCloseEvent, QKeyEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMainWindow, QStackedWidget, QWidget

from app.chat.events import ChatEvent
from app.download.model import (
    DownloadProgressed,
    DownloadRemoved,
    DownloadStateChanged,
    FileVerified,
    UpdateFound,
)
from app.engine import words
from app.engine.model import (
    EngineState,
    EngineStateChanged,
    ModelLoaded,
    SafetyApplied,
    TurnEnded,
    TurnProgressed,
)
from app.engine.tuner import CandidateMeasured, TuningEnded, TuningProgressed, TuningProposed
from app.events import (
    AlarmRaised,
    AppEvent,
    CatalogListed,
    ChoicePlanned,
    ContextOffered,
    FoldersMeasured,
    HardwareDetected,
    HardwareFound,
    HubSearched,
    LibraryScanned,
    ModelChosen,
    ModelDeleted,
    ModelExplained,
    ModelStudied,
    ModelVerified,
    NoticeRaised,
    OperationFailed,
    PlanChanged,
    PlanPreviewed,
    RepositoriesRead,
    SettingRefused,
    SettingsChanged,
    SnapshotChanged,
    SnapshotMeasured,
    WayOut,
    WaysOutFound,
)
from app.hardware.model import HardwareSampled
from app.hardware.text import diagnostics
from app.plan.model import LoadPlan, Remedy
from app.service import AppService
from app.service.loading import held
from app.settings.model import Settings
from app.settings.requests import with_remedy
from ui import theme
from ui.bridge import Bridge
from ui.chat.chat_view import ChatView
from ui.downloads.controller import DownloadsController
from ui.launcher.launcher_view import LauncherView
from ui.models.controller import ModelsController
from ui.settings.settings_controller import SettingsController
from ui.settings.split_dialog import SplitDialog
from ui.settings.tuner_controller import TunerController
from ui.widgets.rail import Rail

_READY = (EngineState.READY, EngineState.PREFILL, EngineState.GENERATING)
_WORDS = {
    EngineState.STOPPED: "not loaded",
    EngineState.STOPPING: "stopping",
    EngineState.CRASHED: "stopped",
}


class MainWindow(QMainWindow):
    """Shows what the service says and asks it for what the person wants."""

    def __init__(self, service: AppService) -> None:
        super().__init__()
        self.setWindowTitle("Ultra Launcher")
        self.setMinimumSize(960, 640)
        self.resize(1280, 820)
        self._service = service
        self.rail, self.launcher, self.chat = Rail(), LauncherView(), ChatView()
        self.models = ModelsController(service, self)
        self.downloads = DownloadsController(service, self)
        self.settings = SettingsController(service, self)
        self.pages = QStackedWidget()
        self._places: dict[str, QWidget] = {
            "Machine": self.launcher,
            "Models": self.models.pages,
            "Downloads": self.downloads.view,
            "Chat": self.chat,
            "Settings": self.settings.view,
        }
        for place in self._places.values():
            self.pages.addWidget(place)
        body = QWidget()
        row = QHBoxLayout(body)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self.rail)
        row.addWidget(self.pages, 1)
        self.setCentralWidget(body)
        self.dialog: SplitDialog | None = None
        self.tuner = TunerController(service, self)
        self._connect()
        self.show_page("Machine")
        self.chat.set_system_prompt(service.settings.system_prompt)
        self.chat.set_settings(service.settings)
        self._bridge = Bridge(self)
        self._bridge.received.connect(self.receive)
        self._unsubscribe = service.subscribe(self._bridge.post)

    def _connect(self) -> None:
        self.rail.chosen.connect(self.show_page)
        self.settings.split_wanted.connect(self.open_split)
        self.settings.reloading.connect(lambda: self.show_page("Machine"))
        self.launcher.primary_clicked.connect(self._primary)
        self.launcher.stop_clicked.connect(self._service.engine.unload)
        self.launcher.choose_clicked.connect(self._choose_file)
        self.launcher.file_dropped.connect(self._choose)
        self.launcher.split_clicked.connect(self.open_split)
        self.launcher.confirm_clicked.connect(self._service.engine.confirm)
        self.launcher.refresh_clicked.connect(self._service.refresh_hardware)
        self.launcher.diagnostics_clicked.connect(self._copy_diagnostics)
        self.launcher.context_chosen.connect(lambda tokens: self._change(context=tokens))
        self.launcher.kv_type_chosen.connect(
            lambda kind: self._change(kv_type_k=kind, kv_type_v=kind)
        )
        self.launcher.remedy_chosen.connect(self._remedy)
        self.launcher.way_chosen.connect(self._take)
        self.chat.way_chosen.connect(self._take)
        self.models.loading.connect(lambda: self.show_page("Machine"))
        self.models.download_shown.connect(self._show_download)
        self.models.chat_wanted.connect(lambda: self.show_page("Chat"))
        self.downloads.loading.connect(lambda: self.show_page("Machine"))
        self.downloads.changed.connect(self.models.show_offer)
        self.downloads.notice.connect(self.launcher.show_notice)
        self.downloads.busy_changed.connect(lambda busy: self.rail.set_busy("Downloads", busy))
        self.downloads.view.models_clicked.connect(lambda: self.show_page("Models"))
        self.chat.submitted.connect(self._service.chat.send)
        self.chat.continue_clicked.connect(lambda: self._service.chat.resume())
        self.chat.overflow_chosen.connect(self._service.set_overflow)
        self.chat.enlarge_clicked.connect(self._service.enlarge_context)
        self.chat.stop_clicked.connect(self._service.engine.cancel)
        self.chat.new_chat_clicked.connect(self._service.chat.new_chat)
        self.chat.reload_clicked.connect(self._reload)
        self.chat.model.load_clicked.connect(self._reload)
        self.chat.model.unload_clicked.connect(lambda: self._service.chat.sleep(keep=False))
        self.chat.model.menu_opened.connect(self._service.snapshots.measure)
        self.chat.model.save_clicked.connect(self._service.snapshots.save)
        self.chat.model.save_unload_clicked.connect(lambda: self._service.chat.sleep(keep=True))
        self.chat.model.model_chosen.connect(
            lambda path: self._service.choose_model(Path(path), load=True)
        )
        self.chat.model.models_clicked.connect(lambda: self.show_page("Models"))
        self.chat.model.plan_clicked.connect(lambda: self.show_page("Machine"))
        self.launcher.unload_clicked.connect(lambda: self._service.chat.sleep(keep=False))
        self.chat.end_clicked.connect(self._service.engine.unload)
        self.chat.split_clicked.connect(self.open_split)
        self.chat.system_prompt_changed.connect(self._system_prompt)

    # --- what the person does -------------------------------------------------

    def show_page(self, name: str) -> None:
        """Go to a place of the rail."""
        again = self.pages.currentWidget() is self._places[name]
        self.rail.set_current(name)
        self.pages.setCurrentWidget(self._places[name])
        if name == "Chat":
            self.chat.set_system_prompt(self._service.settings.system_prompt)
            self.chat.composer.setFocus()
        elif name == "Models" and again:
            self.models.back()
        elif name == "Models":
            self.models.focus_main()
        elif name == "Downloads":
            self.downloads.view.focus_main()
        elif name == "Settings":
            self.settings.refresh()
            self.settings.view.search.setFocus()

    def _show_download(self, id: str) -> None:
        self.downloads.view.show_download(id)
        self.show_page("Downloads")

    def _primary(self) -> None:
        state = self._service.engine.state
        if state in _READY and self._service.engine.plan_is_loaded:
            self.show_page("Chat")
        elif state in (EngineState.LOADING, EngineState.STARTING):
            self._service.engine.cancel()
        else:
            self._service.engine.load()

    def _reload(self) -> None:
        self._service.engine.load()

    def _choose_file(self) -> None:
        stored, folders = self._service.settings.model_path, self._service.folders
        folder = str(Path(stored).parent if stored else folders.models)
        name, _kind = QFileDialog.getOpenFileName(
            self, "Choose a model", folder, "GGUF models (*.gguf *.GGUF)"
        )
        if name:
            self._choose(name)

    def _choose(self, name: str) -> None:
        self._service.choose_model(Path(name))

    def _change(self, **changes: object) -> None:
        """Other settings; the plan follows, a loaded model stays as it is."""
        values = self._service.settings.model_dump() | changes
        self._plan_with(Settings.model_validate(values))

    def _remedy(self, remedy: Remedy) -> None:
        self._plan_with(with_remedy(self._service.settings, remedy))

    def _take(self, way: WayOut) -> None:
        """A way out of a fault; what must be downloaded first is on its model's page."""
        if way.settings is not None:
            self._service.take(way)
            return
        layout = self._service.planning.layout
        self.show_page("Models")
        if layout is not None:
            self.models.open_way(way.quantization, layout)

    def _plan_with(self, settings: Settings) -> None:
        self.launcher.set_pending()
        self._service.update_settings(settings)

    def _copy_diagnostics(self) -> None:
        report = self._service.hardware.report
        if report is not None:
            self.launcher.copy_diagnostics(diagnostics(report))

    def _system_prompt(self, text: str) -> None:
        self._service.set_system_prompt(text)

    def open_split(self) -> None:
        """The split dialog; without a model there is nothing to split yet."""
        report, layout = self._service.hardware.report, self._service.planning.layout
        loaded = self._service.engine.loaded
        if report is None or layout is None:
            return
        if self.dialog is not None:
            self.dialog.deleteLater()
        self.dialog = SplitDialog(
            self._service.settings,
            report.usable_devices,
            layout.block_count + 1,
            self._service.planning.preview,
            self,
            in_use=held(loaded) if loaded is not None else {},
            layout=layout,
        )
        self.dialog.applied.connect(lambda new: self._service.update_settings(new, reload=True))
        self.dialog.studied.connect(self._service.planning.study)
        self.tuner.attach(self.dialog)
        self.dialog.open()

    # --- what the service says ------------------------------------------------

    def receive(self, event: AppEvent) -> None:  # noqa: C901 - one arm an event
        """One event, on the GUI thread."""
        if isinstance(event, ChatEvent):
            self.chat.receive(event)
            return
        match event:
            case HardwareDetected(report=report):
                self.launcher.set_report(report)
                self.chat.set_report(report)
                self.downloads.set_report(report)
            case ModelChosen(layout=layout):
                self.settings.refresh()
                self.launcher.set_layout_of(layout)
                self.chat.model.set_model(layout.name, str(layout.files[0]))
            case PlanChanged(plan=plan):
                self._show_plan(plan)
            case PlanPreviewed():
                if self.dialog is not None:
                    self.dialog.show_exact(event.settings, event.plan, event.error)
            case WaysOutFound():
                self.launcher.set_ways(event)
                self.chat.set_ways(event)
            case EngineStateChanged():
                self._engine(event)
            case ModelLoaded(loaded=loaded):
                self.settings.refresh()
                self.launcher.set_loaded(loaded)
                if self._service.planning.plan is not None:
                    self._show_plan(self._service.planning.plan)
                self.chat.set_loaded(loaded, self._service.engine.loaded_plan)
            case NoticeRaised(sentence=sentence) | SafetyApplied(sentence=sentence):
                self.launcher.show_notice(sentence)
            case AlarmRaised(error=error):
                self.launcher.show_alarm(error)
                self.chat.alarm.show_error(str(error))
            case OperationFailed(error=error):
                self.launcher.show_error(error)
                self.downloads.view.show_error(error)
                self.models.page.show_error(error)
                self.settings.view.error.show_error(str(error))
                self.chat.show_failure(str(error))
            case ContextOffered():
                self.chat.set_offer(event)
            case HardwareSampled():
                self.launcher.set_sample(event)
                self.chat.set_sample(event)
            case (
                CatalogListed()
                | LibraryScanned()
                | HubSearched()
                | RepositoriesRead()
                | ModelStudied()
                | ChoicePlanned()
                | HardwareFound()
                | ModelExplained()
            ):
                self.models.receive(event)
                if isinstance(event, LibraryScanned):
                    self.chat.model.set_library(event)
            case FoldersMeasured() | ModelVerified() | ModelDeleted():
                self.models.files.receive(event)
            case (
                DownloadStateChanged()
                | DownloadProgressed()
                | DownloadRemoved()
                | FileVerified()
                | UpdateFound()
            ):
                self.downloads.receive(event)
            case SettingsChanged(settings=settings):
                self.chat.set_settings(settings)
                look = theme.Appearance(settings.appearance)
                theme.manager().set_appearance(look, high_contrast=settings.high_contrast)
                self.settings.refresh()
                self.downloads.view.set_rules(settings.download_limit, settings.download_hours)
            case SettingRefused():
                self.settings.view.show_problem(event.key, event.problem, event.value)
            case TuningProposed() | TuningProgressed() | CandidateMeasured() | TuningEnded():
                self.tuner.receive(event)
            case SnapshotMeasured():
                self.chat.model.set_measured(event)
            case SnapshotChanged(sentence=sentence):
                self.chat.show_note(sentence)
            case TurnProgressed() | TurnEnded():
                pass
            case _:
                assert_never(event)

    def _show_plan(self, plan: LoadPlan) -> None:
        """The plan; where it is loaded, the split that was loaded, which alone compares with the truth."""
        current, loaded = self._service.engine.plan_is_loaded, self._service.engine.loaded_plan
        if current and self._service.engine.loaded is not None and loaded is not None:
            same = (plan.tensor_split, plan.tensor_overrides)
            plan = plan if same == (loaded.tensor_split, loaded.tensor_overrides) else loaded
        self.launcher.set_plan(plan, current=current)

    def _engine(self, event: EngineStateChanged) -> None:
        self.launcher.set_engine(event)
        self.rail.set_busy("Chat", event.state in (EngineState.PREFILL, EngineState.GENERATING))
        if event.state in (EngineState.STARTING, EngineState.STOPPED, EngineState.CRASHED):
            self.launcher.set_loaded(None)
            self.chat.set_loaded(None, None)
            self.chat.alarm.clear()
        self.chat.question.ask(words.silence(event))
        self.models.show_offer()
        asleep = event.state is EngineState.STOPPED and self._service.engine.asleep
        told = "asleep until you ask" if asleep else _WORDS.get(event.state, "loaded")
        loading = event.state in words.LOADING
        if loading:
            told = words.stage(event)
        error = str(event.error) if event.error is not None else ""
        self.chat.set_engine(
            told, ready=event.state in _READY, error=error, asleep=asleep, loading=loading
        )

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """In the chat Esc stops, wherever the focus is."""
        if event.key() == Qt.Key.Key_Escape and self.pages.currentWidget() is self.chat:
            self.chat.stop()
        else:
            super().keyPressEvent(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        """No event reaches a window that is gone."""
        self._unsubscribe()
        super().closeEvent(event)
