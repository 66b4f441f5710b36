"""`AppService`: wires the packages and owns the threads. Window and command line are its two faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app import paths
from app.catalog import starter
from app.chat.message import Message
from app.download.manager import Hours
from app.download.model import Download
from app.engine.check import alarm, deviations
from app.engine.load_times import LoadTimes
from app.engine.model import EngineEvent, EngineState, ModelLoaded, TurnEnded, TurnProgressed
from app.engine.once import dry_run
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError
from app.events import (
    AlarmRaised,
    HardwareDetected,
    ModelChosen,
    NoticeRaised,
    PlanChanged,
    PlanPreviewed,
    SettingsChanged,
)
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.hardware.detect import detect
from app.hardware.meters import Meters
from app.hardware.model import HardwareReport
from app.plan.measured import MeasuredStore, measured
from app.plan.model import KvCacheType, LoadPlan
from app.plan.overview import Machine
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.verdicts import confirmed
from app.service import machine as machines
from app.service.conversation import Conversation
from app.service.downloads import DownloadService
from app.service.files import ModelFiles
from app.service.jobs import Emit, Listeners, Worker
from app.service.loading import check_confirmable, checked, held, is_loaded
from app.service.models import ModelService
from app.service.subjects import Offer, Subject
from app.settings.model import Settings
from app.settings.requests import load_command, make_request
from app.settings.store import SettingsStore


class AppService:
    """The app without a face. Methods return at once; what comes of them arrives as events.

    Those are sent on its own threads; properties are frozen values, to be read from any thread.
    """

    def __init__(self) -> None:
        """Read the settings; nothing else runs before `start`."""
        self.folders = paths.folders()
        self._store = SettingsStore(self.folders.config / "settings.json")
        self.settings, self._notices = self._store.load()
        self.report: HardwareReport | None = None
        self.layout: ModelLayout | None = None
        self.plan: LoadPlan | None = None
        self.loaded: ModelLoaded | None = None
        self.loaded_plan: LoadPlan | None = None
        self._listeners = Listeners()
        self._emit = self._listeners.tell
        self._conversation = Conversation(self.settings.system_prompt)
        self._loaded_at_report: ModelLoaded | None = None
        self._studied: Settings | None = None
        self._wanted = self.settings
        self._wants_meters = self._lists_models = False
        self._meters: Meters | None = None
        self._measured = MeasuredStore(self.folders.data / "measured.json")
        self._jobs = Worker("service", self._emit)
        self.models = ModelService(
            self.folders,
            self._emit,
            lambda: self._machine(self.settings),
            lambda: self.settings.model_folders,
            lambda: self.settings.download_folders,
        )
        self.downloads = DownloadService(
            self.folders.data / "downloads",
            self.folders.models,
            self._emit,
            self.models.lookups,
            on_done=self._downloaded,
        )
        self.files = ModelFiles(
            self.folders.data / "downloads",
            self.models,
            self.downloads,
            self._emit,
            app_folder=self.folders.models,
            settings=lambda: self.settings,
            keep=self._keep,
            in_use=self._in_use,
        )
        self.load_when_done = False
        self._engine = EngineSupervisor(
            self._engine_said,
            store=SafetyStore(self.folders.data / "safety.json", engine_version()),
            times=LoadTimes(self.folders.data / "load_times.json"),
        )

    def subscribe(self, listener: Emit) -> Callable[[], None]:
        """Send all events to `listener` from now on; returns what ends that."""
        return self._listeners.add(listener)

    # --- the machine, the model, the plan -----------------------------------

    def start(
        self,
        model: Path | None = None,
        *,
        load: bool = False,
        meters: bool = False,
        downloads: bool = False,
    ) -> None:
        """Look at the machine, read the chosen model, plan it, and load it where `load`.

        `meters`: live values follow. `downloads`: models are listed, earlier downloads go on.
        """
        self._wants_meters = meters
        self._lists_models = downloads
        if downloads:
            self.downloads.start(self.settings.download_limit, self.settings.download_hours)

        def job() -> None:
            for sentence in self._notices:
                self._emit(NoticeRaised(sentence=sentence))
            self._detect()
            self._choose(model)
            if load:
                self._load()

        self._jobs.submit(job)

    def refresh_hardware(self) -> None:
        """Look at the machine again, and plan again."""

        def job() -> None:
            self._detect()
            self._replan()

        self._jobs.submit(job)

    def choose_model(self, model: Path | None, *, load: bool = False) -> None:
        """Read another model's header (None is the starter model) and plan it."""

        def job() -> None:
            self._choose(model)
            self._engine.unload()
            self.update_settings(
                self.settings.model_copy(update={"model_path": str(model) if model else None})
            )
            if load:
                self._load()

        self._jobs.submit(job)

    def update_settings(self, settings: Settings, *, reload: bool = False) -> None:
        """Store settings, plan again, and load again where `reload`."""
        servers_changed = settings.rpc_servers != self.settings.rpc_servers
        self.settings = self._wanted = settings

        def job() -> None:
            try:
                self._store.save(settings)
            finally:
                self._conversation.set_system_prompt(settings.system_prompt)
                self._emit(SettingsChanged(settings=settings))
                if servers_changed:
                    self._detect()
                # Plans take up to seconds; those that nobody will see are left out.
                if reload or settings is self._wanted:
                    self._replan()
                if reload:
                    self._load()

        self._jobs.submit(job)

    def preview(self, settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        """The plan with other settings; pure arithmetic.

        Without `limits` it takes some milliseconds, with them up to seconds: then rather `study`.

        Raises:
            AppError: What the settings fix by hand is impossible.
        """
        if self.report is None or self.layout is None:
            return None
        here = self._machine(settings)
        if here is None:
            return None
        devices, host = here.devices, here.host
        request = make_request(settings, self.layout, devices)
        plan = make_plan(self.layout, request, devices, host, limits=limits)
        if not limits:
            return plan
        return with_remedies(plan, self.layout, devices, host, bundled.relatives(self.layout))

    def study(self, settings: Settings) -> None:
        """Work out the exact plan with other settings, which arrives as `PlanPreviewed`.

        Only the newest question is answered.
        """
        self._studied = settings

        def job() -> None:
            if self._studied is not settings:
                return
            try:
                plan, error = self.preview(settings), None
            except AppError as fault:
                plan, error = None, fault
            self._emit(PlanPreviewed(settings=settings, plan=plan, error=error))

        self._jobs.submit(job)

    def _machine(self, settings: Settings) -> Machine | None:
        """What is planned for with `settings`; None before the machine was looked at."""
        if self.report is None:
            return None
        return machines.machine(
            self.report,
            settings,
            learned=self._measured.reserves(),
            loaded=self._loaded_at_report,
        )

    def _detect(self) -> None:
        pid = self._engine.pid
        self._loaded_at_report = self.loaded
        self.report = detect(
            model_folder=self.folders.models,
            rpc_servers=self.settings.rpc_servers,
            own_pids=frozenset() if pid is None else frozenset({pid}),
            previous=self.report,
        )
        self._emit(HardwareDetected(report=self.report))
        if self._lists_models:
            self.models.list_all()
        if self._wants_meters:
            self._stop_meters()
            self._meters = Meters(self.report, self._emit)

    def _stop_meters(self) -> None:
        meters, self._meters = self._meters, None
        if meters is not None:
            meters.close()

    def _choose(self, model: Path | None) -> None:
        chosen = model or (Path(self.settings.model_path) if self.settings.model_path else None)
        path = chosen or starter.ensure(self.folders.models)
        self.layout = starter.named(read_layout(path))
        self._emit(ModelChosen(layout=self.layout))
        self._replan()

    def _replan(self) -> None:
        plan = self.preview(self.settings)
        if plan is not None:
            self.plan = plan
            self._emit(PlanChanged(plan=plan))

    def confirm(self) -> None:
        """Let llama.cpp say what the plan would take on these devices; nothing is loaded."""

        def job() -> None:
            plan, layout = self.plan, self.layout
            if plan is None or layout is None:
                return
            check_confirmable(plan, loaded=self.loaded is not None)
            command = load_command(plan, layout, self.settings, self.report)
            self.plan = confirmed(plan, dry_run(command, layout, self.folders.data))
            self._emit(PlanChanged(plan=self.plan))

        self._jobs.submit(job)

    # --- the engine ---------------------------------------------------------

    @property
    def engine_state(self) -> EngineState:
        """Where the engine is now."""
        return self._engine.state

    @property
    def engine_pid(self) -> int | None:
        """The worker's process id."""
        return self._engine.pid

    @property
    def plan_is_loaded(self) -> bool:
        """True unless another plan, or another model, is loaded than the one shown."""
        return is_loaded(self.layout, self.plan, self.loaded, self.loaded_plan)

    def load(self, *, force: bool = False) -> None:
        """Load the chosen model as planned; `force` also where it does not fit."""
        self._jobs.submit(lambda: self._load(force=force))

    def unload(self) -> None:
        """End the engine's process, even one that hangs; all its memory comes back."""
        self._engine.unload()

    def _load(self, *, force: bool = False) -> None:
        layout, plan = checked(self.layout, self.plan, force=force)
        self.loaded_plan = plan
        self._engine.load(load_command(plan, layout, self.settings, self.report))

    def _measure(self) -> None:
        """Remember what the load took, beside what was planned; only drivers with NVML tell the rest."""
        loaded, plan = self.loaded, self.loaded_plan
        if loaded is None or plan is None:
            return
        telling = any(share.used and share.device.backend == "cuda" for share in plan.devices)
        if telling:
            self._detect()
        self._measured.record(measured(plan, held(loaded), self.report if telling else None))
        for deviation in deviations(plan, loaded.loaded):
            if deviation.spilled:
                self._emit(AlarmRaised(error=alarm(deviation)))
            else:
                self._emit(NoticeRaised(sentence=deviation.sentence))

    # --- models and downloads -------------------------------------------------

    def open_model(self, path: Path, *, context: int | None, kv_type: KvCacheType) -> None:
        """Load a model file with this context and KV cache."""
        self.settings = self.settings.model_copy(
            update={"context": context, "kv_type_k": kv_type, "kv_type_v": kv_type}
        )
        self.choose_model(path, load=True)

    def offer(self, subject: Subject, quantization: str, absent: str = "") -> Offer:
        """What can be done with a quantization now; `absent` says why its files are not known."""
        loaded = Path(self.loaded.model_path) if self.loaded is not None else None
        return self.models.offer(subject, quantization, self.downloads.all(), loaded, absent)

    def change_download_rules(self, limit: int | None, hours: Hours | None) -> None:
        """Another limit in bytes/s, other hours; stored, and in force at once."""
        self.downloads.change_limit(limit)
        self.downloads.change_hours(hours)
        self._keep(download_limit=limit, download_hours=hours)
        self._emit(SettingsChanged(settings=self.settings))

    def add_model_folder(self, folder: str) -> None:
        """Look for models in this folder, too, from now on."""
        folders = tuple(dict.fromkeys((*self.settings.model_folders, folder)))
        self._keep(model_folders=folders)
        self.models.scan()

    def _in_use(self) -> Path | None:
        """The model that the engine holds or is about to hold."""
        if self.loaded is not None:
            return Path(self.loaded.model_path)
        idle = self.engine_state in (EngineState.STOPPED, EngineState.CRASHED)
        return None if idle or self.layout is None else self.layout.files[0]

    def _keep(self, **changes: object) -> None:
        """Change settings that no plan depends on, and store them."""
        self.settings = settings = self.settings.model_copy(update=changes)
        self._jobs.submit(lambda: self._store.save(settings))

    def _downloaded(self, download: Download) -> None:
        """A set is whole and right."""
        self.models.scan()
        if self.load_when_done:
            self.load_when_done = False
            request = download.request
            self.choose_model(request.target(request.files[0]), load=True)

    # --- the chat -----------------------------------------------------------

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return self._conversation.messages

    def send(self, text: str, *, max_tokens: int | None = None) -> None:
        """Send a message; the answer streams in as events."""
        begun = self._conversation.begin(text, self.settings, self.layout, max_tokens)
        if begun is not None:
            self._emit(begun[0])
            self._engine.generate(begun[1])

    def stop(self) -> None:
        """Stop the answer, or the load."""
        self._engine.cancel()

    def set_system_prompt(self, text: str) -> None:
        """Use another system prompt from the next message on, and store it."""
        self._conversation.set_system_prompt(text)
        self._keep(system_prompt=text)

    def new_chat(self) -> None:
        """Forget the conversation; a running answer is stopped."""
        event, running = self._conversation.clear()
        if running:
            self._engine.cancel()
        self._emit(event)

    def _engine_said(self, event: EngineEvent) -> None:
        if isinstance(event, TurnProgressed | TurnEnded):
            chat_event = self._conversation.receive(event)
            if chat_event is not None:
                self._emit(chat_event)
            return
        if isinstance(event, ModelLoaded):
            self.loaded = event
            self._jobs.submit(self._measure)
        elif self._engine.state in (EngineState.STOPPED, EngineState.STARTING, EngineState.CRASHED):
            self.loaded = None
        self._emit(event)

    # --- threads ------------------------------------------------------------

    def close(self) -> None:
        """End all threads and processes."""
        self.downloads.close()
        self._engine.close()
        self._jobs.close()
        self._stop_meters()
        self.files.close()  # last, as requests of these two may hang for a while
        self.models.close()
