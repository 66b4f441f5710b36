"""`AppService`: wires the packages and owns the threads. Window and command line are its two faces."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app import paths
from app.catalog import starter
from app.chat.message import Message
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import EngineEvent, EngineState, ModelLoaded, TurnEnded, TurnProgressed
from app.engine.once import dry_run
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import Action, AppError, Cancelled, ErrorKind
from app.events import (
    AppEvent,
    HardwareDetected,
    ModelChosen,
    NoticeRaised,
    OperationFailed,
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
from app.plan.devices import plan_devices
from app.plan.measured import MeasuredStore, measured
from app.plan.model import LoadPlan, PlanHost
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.verdicts import confirmed
from app.settings.model import Settings
from app.settings.requests import load_command, make_request
from app.settings.store import SettingsStore

Listener = Callable[[AppEvent], None]
log = logging.getLogger("app.service")


class AppService:
    """The app without a face. Methods return at once; what comes of them arrives as events.

    Events are sent on the service's own threads. Properties are frozen values and may be read
    from any thread.
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
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._session = ChatSession(system_prompt=self.settings.system_prompt)
        self._loaded_at_report: ModelLoaded | None = None
        self._studied: Settings | None = None
        self._wanted = self.settings
        self._wants_meters = False
        self._meters: Meters | None = None
        self._measured = MeasuredStore(self.folders.data / "measured.json")
        self._jobs = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="service")
        self._engine = EngineSupervisor(
            self._engine_said,
            store=SafetyStore(self.folders.data / "safety.json", engine_version()),
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send all events to `listener` from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- the machine, the model, the plan -----------------------------------

    def start(self, model: Path | None = None, *, load: bool = False, meters: bool = False) -> None:
        """Look at the machine, read the chosen model, plan it, and load it where `load`.

        With `meters` the devices' live values follow, about once a second.
        """
        self._wants_meters = meters

        def job() -> None:
            for sentence in self._notices:
                self._emit(NoticeRaised(sentence=sentence))
            self._detect()
            self._choose(model)
            if load:
                self._load()

        self._submit(job)

    def refresh_hardware(self) -> None:
        """Look at the machine again, and plan again."""

        def job() -> None:
            self._detect()
            self._replan()

        self._submit(job)

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

        self._submit(job)

    def update_settings(self, settings: Settings, *, reload: bool = False) -> None:
        """Store settings, plan again, and load again where `reload`."""
        servers_changed = settings.rpc_servers != self.settings.rpc_servers
        self.settings = self._wanted = settings

        def job() -> None:
            try:
                self._store.save(settings)
            finally:
                with self._lock:
                    self._session.system_prompt = settings.system_prompt
                self._emit(SettingsChanged(settings=settings))
                if servers_changed:
                    self._detect()
                # Plans take up to seconds; those that nobody will see are left out.
                if reload or settings is self._wanted:
                    self._replan()
                if reload:
                    self._load()

        self._submit(job)

    def preview(self, settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        """The plan with other settings; pure arithmetic.

        Without `limits` it takes some milliseconds, with them up to seconds: then rather `study`.

        Raises:
            AppError: What the settings fix by hand is impossible.
        """
        if self.report is None or self.layout is None:
            return None
        memory = self.report.memory
        devices = plan_devices(
            self.report,
            order=settings.device_order,
            disabled=settings.disabled_devices,
            learned=self._measured.reserves(),
        )
        own = self._own_memory()
        devices = tuple(
            dataclasses.replace(
                d, free_bytes=min(d.total_bytes, d.free_bytes + own.get(d.engine_name, 0))
            )
            for d in devices
        )
        lent = sum(own.get(d.engine_name, 0) for d in devices if d.shares_host_memory)
        available = min(memory.total_bytes, memory.available_bytes + own.get("CPU", 0) + lent)
        host = PlanHost(total_bytes=memory.total_bytes, available_bytes=available)
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

        self._submit(job)

    def _own_memory(self) -> dict[str, int]:
        """What the engine held when the report was made; 0 before a load."""
        if self._loaded_at_report is None:
            return {}
        # Weights on the host are mapped: the system counts them as available all the time.
        return {
            m.device: (0 if m.device == "CPU" else m.weights_bytes)
            + m.kv_cache_bytes
            + m.compute_bytes
            for m in self._loaded_at_report.loaded.memory
        }

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
            if self.loaded is not None and any(
                s.used and s.device.backend == "rpc" for s in plan.devices
            ):
                raise AppError(
                    "RPC servers serve one engine at a time.",
                    hint="Unload the model, then confirm the plan.",
                    kind=ErrorKind.USAGE,
                )
            command = load_command(plan, layout, self.settings, self.report)
            self.plan = confirmed(plan, dry_run(command, layout, self.folders.data))
            self._emit(PlanChanged(plan=self.plan))

        self._submit(job)

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
        plan, loaded, layout = self.plan, self.loaded_plan, self.layout
        if self.loaded is None or plan is None or loaded is None or layout is None:
            return True
        same_model = self.loaded.model_path == str(layout.files[0])
        return same_model and _same_load(plan, loaded)

    def load(self, *, force: bool = False) -> None:
        """Load the chosen model as planned; `force` also where it does not fit."""
        self._submit(lambda: self._load(force=force))

    def unload(self) -> None:
        """End the engine's process; all its memory comes back."""
        self._engine.unload()

    def _load(self, *, force: bool = False) -> None:
        layout, plan = self.layout, self.plan
        if layout is None or plan is None:
            raise AppError(
                "No model is chosen.",
                hint="Choose a GGUF file.",
                action=Action.CHOOSE_MODEL,
                kind=ErrorKind.USAGE,
            )
        if not plan.runs and not force:
            raise AppError(
                f"{layout.name} does not fit: {plan.sentence}",
                hint=plan.hint,
                action=Action.OPEN_SPLIT,
                kind=ErrorKind.MEMORY,
            )
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
        actual = {
            m.device: m.weights_bytes + m.kv_cache_bytes + m.compute_bytes
            for m in loaded.loaded.memory
        }
        self._measured.record(measured(plan, actual, self.report if telling else None))

    # --- the chat -----------------------------------------------------------

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        with self._lock:
            return self._session.messages

    def send(self, text: str, *, max_tokens: int | None = None) -> None:
        """Send a message; the answer streams in as events."""
        with self._lock:
            if self._session.running:
                return
            started = self._session.begin(text, now_s=time.monotonic())
            messages = self._session.prompt()
        self._emit(started)
        self._engine.generate(
            protocol.Generate(
                turn=started.turn,
                messages=messages,
                sampling=self.settings.sampling,
                max_tokens=max_tokens,
            )
        )

    def stop(self) -> None:
        """Stop the answer, or the load."""
        self._engine.cancel()

    def set_system_prompt(self, text: str) -> None:
        """Use another system prompt from the next message on, and store it."""
        with self._lock:
            self._session.system_prompt = text
        self.settings = self.settings.model_copy(update={"system_prompt": text})
        settings = self.settings
        self._submit(lambda: self._store.save(settings))

    def new_chat(self) -> None:
        """Forget the conversation; a running answer is stopped."""
        with self._lock:
            running = self._session.running
            event = self._session.clear()
        if running:
            self._engine.cancel()
        self._emit(event)

    def _engine_said(self, event: EngineEvent) -> None:
        if isinstance(event, TurnProgressed | TurnEnded):
            with self._lock:
                chat_event = self._session.receive(event, now_s=time.monotonic())
            if chat_event is not None:
                self._emit(chat_event)
            return
        if isinstance(event, ModelLoaded):
            self.loaded = event
            self._submit(self._measure)
        elif self._engine.state in (EngineState.STOPPED, EngineState.STARTING, EngineState.CRASHED):
            self.loaded = None
        self._emit(event)

    # --- threads ------------------------------------------------------------

    def _submit(self, job: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                job()
            except AppError as error:
                self._emit(OperationFailed(error=error))
            except Cancelled:
                pass
            except Exception as error:  # the one reporter of bugs
                log.exception("a job failed")
                text = AppError(
                    "Something went wrong inside the app.",
                    detail=f"{type(error).__name__}: {error}",
                    hint="The log has the details: run `ultra-launcher doctor`.",
                    action=Action.COPY_DIAGNOSTICS,
                )
                self._emit(OperationFailed(error=text))

        # After close there is nobody to hear the answer.
        with contextlib.suppress(RuntimeError):
            self._jobs.submit(guarded)

    def _emit(self, event: AppEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    def close(self) -> None:
        """End all threads and processes."""
        self._jobs.shutdown(wait=True, cancel_futures=True)
        self._stop_meters()
        self._engine.close()


def _same_load(plan: LoadPlan, loaded: LoadPlan) -> bool:
    """True if loading `plan` would change nothing that a person asked for.

    An automatic split that would come out a little different now is no reason to load again.
    """
    by_hand = plan.request.layer_counts is not None or loaded.request.layer_counts is not None
    if by_hand and plan.tensor_split != loaded.tensor_split:
        return False
    used = [
        {share.device.id for share in each.devices if share.layer_count} for each in (plan, loaded)
    ]
    requests = [
        dataclasses.replace(each.request, context=None, layer_counts=None, any_order=False)
        for each in (plan, loaded)
    ]
    return used[0] == used[1] and requests[0] == requests[1] and plan.context == loaded.context
