"""`AppService`: wires the packages and owns the threads. Window and command line are its two faces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from app import paths
from app.catalog import names
from app.download.manager import Hours
from app.download.model import Download
from app.engine.safety import engine_version
from app.errors import AppError
from app.events import NoticeRaised, SettingRefused, SettingsChanged, WayOut
from app.plan.model import KvCacheType
from app.plan.tuned import TunedStore
from app.service.chat import ChatService
from app.service.context import ContextService
from app.service.conversation import Conversation
from app.service.downloads import DownloadService
from app.service.engine import EngineService
from app.service.files import ModelFiles
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Listeners, Worker
from app.service.models import ModelService
from app.service.planning import Planning
from app.service.setting_check import is_checked, problem_with
from app.service.snapshots import SnapshotService
from app.service.subjects import Offer, Subject
from app.service.tuning import TuningService
from app.service.ways import changed, local_file
from app.service.ways_out import WaysOutService
from app.settings.entries import Entry, Json, replans
from app.settings.model import Overflow, Settings
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
        self._wanted, self._plan_is_old = self.settings, False
        self._stored, self._unsaved = self.settings, False
        self._lock = threading.Lock()
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
            self.folders.models, self.hardware, self._jobs, self._emit, lambda: self.settings, tuned
        )
        self.ways = WaysOutService(
            self.hardware,
            self.planning,
            self._jobs,
            self._emit,
            lambda: self.settings,
            self._detect,
            lambda kind: local_file(self.models.look(), self.planning.layout, kind),
        )
        self.engine = EngineService(
            self.folders.data,
            self.hardware,
            self.planning,
            self._jobs,
            self._emit,
            lambda: self.settings,
            lambda event: self.chat.answered(event),
            self.ways.heard,
            lambda: self.chat.idle(),
        )
        self.tuning = TuningService(
            self.folders.data,
            self.hardware,
            self.planning,
            self.engine,
            tuned,
            self._listeners,
            change=lambda settings: self.update_settings(settings, reload=True),
        )
        self.snapshots = SnapshotService(
            self.folders.data / "kv",
            self.engine,
            self._jobs,
            self._emit,
            lambda: self.settings,
            lambda: self._conversation.id,
        )
        self.chat = ChatService(
            self._conversation,
            self.planning,
            self.engine,
            self.snapshots,
            self._jobs,
            self._emit,
            lambda: self.settings,
        )
        self.context = ContextService(
            self.hardware,
            self.planning,
            self.engine,
            self._jobs,
            self._emit,
            lambda: self.settings,
            change=lambda settings: self.update_settings(settings, reload=True),
            send=self.chat.send_again,
            resume=self.chat.resume_again,
            save=self.snapshots.save,
        )
        # In this order: what was saved is back before anything is asked.
        for listener in (self.snapshots.receive, self.chat.notice, self.context.notice):
            self._listeners.add(listener)
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
        """Look at the machine again, and plan again; what failed before may work now."""

        def job() -> None:
            self.ways.clear()
            self.hardware.lost, self.hardware.absent = {}, frozenset()
            self._detect()
            self.planning.replan()

        self._jobs.submit(job)

    def choose_model(
        self,
        model: Path,
        *,
        load: bool = False,
        keep: bool = True,
        changes: Mapping[str, object] | None = None,
    ) -> None:
        """Read another model's header and plan it; `keep` stores the choice.

        `changes`: other settings that go with it, if it can be read.
        """
        wanted = {**(changes or {}), "model_path": str(model)}

        def job() -> None:
            self.planning.read(model)
            self.engine.unload()
            self.ways.clear()
            self.update_settings(self.settings.model_copy(update=wanted), keep=keep)
            self._plan_is_old = False
            self.planning.replan()
            if load:
                self.engine.load_now()

        self._jobs.submit(job)

    def take(self, way: WayOut, *, keep: bool = True) -> None:
        """Go a way out of a fault: apply its settings, plan, load; `keep` stores them."""
        if way.settings is None:
            return
        self.ways.taken(way)
        if way.looks_again:
            self._jobs.submit(self._detect)
        changes = changed(way.settings)
        model = way.settings.model_path
        if model is not None and model != self.settings.model_path:
            self.choose_model(Path(model), load=True, keep=keep, changes=changes)
        else:
            settings = self.settings.model_copy(update=changes)
            self.update_settings(settings, reload=True, keep=keep)

    def update_settings(
        self, settings: Settings, *, reload: bool = False, keep: bool = True
    ) -> None:
        """Store what changes if `keep`, plan again, and load again where `reload`."""
        before = self._change(lambda _before: settings, keep=keep)
        self._wanted = settings
        # Who asks for the same again waits for its plan, too.
        self._plan_is_old |= settings == before or replans(before, settings)
        if self._plan_is_old:
            self.ways.clear()
        servers_changed = settings.rpc_servers != before.rpc_servers
        self._follow(before, settings)

        def job() -> None:
            try:
                self._save()
            finally:
                self._conversation.set_system_prompt(settings.system_prompt)
                self.engine.apply_settings()
                self._emit(SettingsChanged(settings=settings))
                if servers_changed:
                    self._detect()
                # Plans take up to seconds; those that nobody will see are left out.
                if reload or (self._plan_is_old and settings is self._wanted):
                    self._plan_is_old = False
                    self.planning.replan()
                if reload:
                    self.engine.load_now()

        self._jobs.submit(job)

    def put_setting(self, entry: Entry, value: Json) -> None:
        """Change one setting; a grammar is checked first, and may be answered by `SettingRefused`.

        Raises:
            SettingError: The value is not possible.
        """
        entry.put(self.settings, value)

        def job() -> None:
            layout = self.planning.layout
            problem = problem_with(entry, value, layout.files[0] if layout else None)
            if problem:
                self._emit(SettingRefused(key=entry.key, value=value, problem=problem))
            else:
                self.update_settings(entry.put(self.settings, value))

        if is_checked(entry):
            self._jobs.submit(job)
        else:
            self.update_settings(entry.put(self.settings, value))

    def reset_setting(self, entry: Entry) -> None:
        """The default of one setting again; of a sampling option, what is advised."""
        self.update_settings(entry.reset(self.settings))

    def _follow(self, before: Settings, after: Settings) -> None:
        """What else a change means beside plans and loads."""
        if after.download_limit != before.download_limit:
            self.downloads.change_limit(after.download_limit)
        if after.download_hours != before.download_hours:
            self.downloads.change_hours(after.download_hours)
        if after.model_folders != before.model_folders:
            self.models.scan()

    def _detect(self) -> None:
        self.hardware.detect(self.engine.pid, self.engine.loaded)

    def _detected(self) -> None:
        if self._lists_models:
            self.models.list_all()

    # --- models and downloads -------------------------------------------------

    def open_model(self, path: Path, *, context: int | None, kv_type: KvCacheType) -> None:
        """Load a model file with this context and KV cache."""
        changes = {"context": context, "kv_type_k": kv_type, "kv_type_v": kv_type}
        self.choose_model(path, load=True, changes=changes)

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
        self._change(lambda before: before.model_copy(update=changes), keep=True)
        self._jobs.submit(self._save)

    def _change(self, changed: Callable[[Settings], Settings], *, keep: bool) -> Settings:
        """Put other settings in force; returns those before.

        What differs from them is to be stored if `keep`; what was given for this run alone stays so.
        """
        with self._lock:
            before = self.settings
            self.settings = now = changed(before)
            if keep:
                old, kept = dict(before), dict(self._stored)
                changes = {name: value for name, value in now if value != old[name] == kept[name]}
                self._stored = self._stored.model_copy(update=changes)
                self._unsaved = True
        return before

    def _save(self) -> None:
        if self._unsaved:
            self._unsaved = False
            self._store.save(self._stored)

    def _downloaded(self, download: Download) -> None:
        """A set is whole and right."""
        self.models.scan()
        request = download.request
        if self.load_when_done and not names.is_projector(request.files[0].path):
            self.load_when_done = False
            self.choose_model(request.target(request.files[0]), load=True)

    # --- the chat -----------------------------------------------------------

    def enlarge_context(self, question: str = "") -> None:
        """Load again with the longer context that was offered, then send `question` if there is one."""
        if not self.chat.running:
            self.context.enlarge(question)

    def set_overflow(self, overflow: Overflow) -> None:
        """What to do from now on where the context is full; stored."""
        self._keep(overflow=overflow)
        self._emit(SettingsChanged(settings=self.settings))

    def set_system_prompt(self, text: str) -> None:
        """Use another system prompt from the next message on, and store it."""
        self._conversation.set_system_prompt(text)
        self._keep(system_prompt=text)

    # --- threads ------------------------------------------------------------

    def close(self) -> None:
        """End all threads and processes."""
        self.downloads.close()
        self.tuning.close()
        self.engine.close()
        self._jobs.close()
        with contextlib.suppress(AppError):
            self._save()  # its job was dropped
        self.ways.close()  # no job begins to wait for a server any more
        self.snapshots.close()
        self.hardware.close()
        self.files.close()  # last, as requests of these two may hang for a while
        self.models.close()
