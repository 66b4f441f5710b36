"""`AppService`: wires the packages and owns the threads. Window and command line are its two faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app import paths
from app.catalog import names
from app.chat.message import Message
from app.download.manager import Hours
from app.download.model import Download
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded, TurnEnded, TurnProgressed
from app.engine.safety import engine_version
from app.events import AppEvent, NoticeRaised, OperationFailed, SettingsChanged
from app.plan.model import KvCacheType
from app.plan.tuned import TunedStore
from app.service.conversation import Conversation
from app.service.downloads import DownloadService
from app.service.engine import EngineService
from app.service.files import ModelFiles
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Listeners, Worker
from app.service.models import ModelService
from app.service.planning import Planning
from app.service.snapshots import SnapshotService
from app.service.subjects import Offer, Subject
from app.service.tuning import TuningService
from app.settings.model import Settings
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
        self._wanted = self.settings
        self._listeners = Listeners()
        self._emit = self._listeners.tell
        self._conversation = Conversation(self.settings.system_prompt)
        self._lists_models = self.load_when_done = False
        self._jobs = Worker("service", self._emit)
        self.hardware = HardwareService(
            self.folders, self._emit, lambda: self.settings, self._detected
        )
        tuned = TunedStore(self.folders.data / "tuned.json", engine_version())
        self.planning = Planning(
            self.folders.models,
            self.hardware,
            self._jobs,
            self._emit,
            lambda: self.settings,
            tuned,
        )
        self.engine = EngineService(
            self.folders.data,
            self.hardware,
            self.planning,
            self._jobs,
            self._emit,
            lambda: self.settings,
            self._turn,
            self._idle,
        )
        self.tuning = TuningService(
            self.folders.data, self.hardware, self.planning, self.engine, tuned, self._listeners
        )
        self.snapshots = SnapshotService(
            self.folders.data / "kv",
            self.engine,
            self._jobs,
            self._emit,
            lambda: self.settings,
            lambda: self._conversation.id,
        )
        self._question: tuple[str, int | None] | None = None
        self._listeners.add(self.snapshots.receive)
        self._listeners.add(self._woken)
        self.models = ModelService(
            self.folders,
            self._emit,
            lambda: self.hardware.machine(self.settings),
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
            in_use=lambda: self.engine.claimed_path,
        )

    def subscribe(self, listener: Emit) -> Callable[[], None]:
        """Send all events to `listener` from now on; returns what ends that."""
        return self._listeners.add(listener)

    # --- machine, model, settings -----------------------------------

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
        self.hardware.wants_meters = meters
        self._lists_models = downloads
        self.snapshots.start()
        if downloads:
            self.downloads.start(self.settings.download_limit, self.settings.download_hours)

        def job() -> None:
            for sentence in self._notices:
                self._emit(NoticeRaised(sentence=sentence))
            self._detect()
            self.planning.choose(model)
            if load:
                self.engine.load_now()

        self._jobs.submit(job)

    def refresh_hardware(self) -> None:
        """Look at the machine again, and plan again."""

        def job() -> None:
            self._detect()
            self.planning.replan()

        self._jobs.submit(job)

    def choose_model(self, model: Path | None, *, load: bool = False) -> None:
        """Read another model's header (None is the starter model) and plan it."""

        def job() -> None:
            self.planning.choose(model)
            self.engine.unload()
            self.update_settings(
                self.settings.model_copy(update={"model_path": str(model) if model else None})
            )
            if load:
                self.engine.load_now()

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
                self.engine.apply_settings()
                self._emit(SettingsChanged(settings=settings))
                if servers_changed:
                    self._detect()
                # Plans take up to seconds; those that nobody will see are left out.
                if reload or settings is self._wanted:
                    self.planning.replan()
                if reload:
                    self.engine.load_now()

        self._jobs.submit(job)

    def _detect(self) -> None:
        self.hardware.detect(self.engine.pid, self.engine.loaded)

    def _detected(self) -> None:
        if self._lists_models:
            self.models.list_all()

    # --- models and downloads -------------------------------------------------

    def open_model(self, path: Path, *, context: int | None, kv_type: KvCacheType) -> None:
        """Load a model file with this context and KV cache."""
        self.settings = self.settings.model_copy(
            update={"context": context, "kv_type_k": kv_type, "kv_type_v": kv_type}
        )
        self.choose_model(path, load=True)

    def offer(self, subject: Subject, quantization: str, absent: str = "") -> Offer:
        """What can be done with a quantization now; `absent` says why its files are not known."""
        held = self.engine.model_path
        return self.models.offer(subject, quantization, self.downloads.all(), held, absent)

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

    def _keep(self, **changes: object) -> None:
        """Change settings that no plan depends on, and store them."""
        self.settings = settings = self.settings.model_copy(update=changes)
        self._jobs.submit(lambda: self._store.save(settings))

    def _downloaded(self, download: Download) -> None:
        """A set is whole and right."""
        self.models.scan()
        request = download.request
        if self.load_when_done and not names.is_projector(request.files[0].path):
            self.load_when_done = False
            self.choose_model(request.target(request.files[0]), load=True)

    # --- the chat -----------------------------------------------------------

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return self._conversation.messages

    def send(self, text: str, *, max_tokens: int | None = None) -> None:
        """Send a message; the answer streams in as events. A model that sleeps is loaded for it first."""
        if self.engine.asleep:
            self._question = (text, max_tokens)
            self.engine.load()
            return
        begun = self._conversation.begin(text, self.settings, self.planning.layout, max_tokens)
        if begun is not None:
            self._emit(begun[0])
            self.engine.generate(begun[1])

    def set_system_prompt(self, text: str) -> None:
        """Use another system prompt from the next message on, and store it."""
        self._conversation.set_system_prompt(text)
        self._keep(system_prompt=text)

    def new_chat(self) -> None:
        """Forget the conversation; a running answer is stopped."""
        event, running = self._conversation.clear()
        if running:
            self.engine.cancel()
        self._emit(event)

    def sleep(self, *, keep: bool) -> None:
        """Unload the model until the next question; `keep` saves the chat's KV cache first."""
        if keep and self.messages and self.engine.state is EngineState.READY:
            self.snapshots.save(then=lambda: self.engine.unload(asleep=True))
        else:
            self.engine.unload(asleep=True)

    def _idle(self) -> None:
        self.sleep(keep=self.settings.snapshot_when_idle)

    def _woken(self, event: AppEvent) -> None:
        """Ask what was asked of a model that slept; what does not wake it leaves the question to the person."""
        if isinstance(event, ModelLoaded) and self._question is not None:
            (text, max_tokens), self._question = self._question, None
            self.send(text, max_tokens=max_tokens)
        elif isinstance(event, OperationFailed) or (
            isinstance(event, EngineStateChanged)
            and event.state in (EngineState.STOPPED, EngineState.CRASHED)
            and not self.engine.asleep
        ):
            self._question = None

    def _turn(self, event: TurnProgressed | TurnEnded) -> None:
        chat_event = self._conversation.receive(event)
        if chat_event is not None:
            self._emit(chat_event)

    # --- threads ------------------------------------------------------------

    def close(self) -> None:
        """End all threads and processes."""
        self.downloads.close()
        self.tuning.close()
        self.engine.close()
        self._jobs.close()
        self.snapshots.close()
        self.hardware.close()
        self.files.close()  # last, as requests of these two may hang for a while
        self.models.close()
