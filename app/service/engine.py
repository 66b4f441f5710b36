"""`EngineService`: the plan's way into the engine, and what the engine holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.engine import protocol
from app.engine.check import alarm, deviations
from app.engine.inbox import SnapshotListener
from app.engine.load_times import LoadTimes
from app.engine.model import EngineEvent, EngineState, ModelLoaded, TurnEnded, TurnProgressed
from app.engine.once import dry_run
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError
from app.events import AlarmRaised, NoticeRaised
from app.gguf.model import ModelLayout
from app.plan.measured import measured
from app.plan.model import LoadPlan
from app.plan.verdicts import confirmed
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Worker
from app.service.loading import check_confirmable, checked, held, is_loaded
from app.service.planning import Planning
from app.settings.model import Settings
from app.settings.requests import load_command

MINUTE_S = 60.0


class EngineService:
    """Methods return at once unless they say otherwise; what comes of them arrives as events.

    Attributes:
        loaded: What the engine holds, by its own account; None while it holds no model.
        loaded_plan: The plan that was loaded last.
        loaded_settings: The settings in force when it was.
        command: How that was done.
        asleep: True while what was loaded was put away, and comes back with the next question.
        held_by: What else needs the devices now, so that nothing can be loaded; None as a rule.
    """

    def __init__(
        self,
        data: Path,
        hardware: HardwareService,
        planning: Planning,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
        on_turn: Callable[[TurnProgressed | TurnEnded], None],
        on_event: Callable[[EngineEvent, LoadPlan | None], None],
        on_idle: Callable[[], None],
    ) -> None:
        """No process yet.

        Args:
            data: Where is kept what earlier loads taught.
            hardware: Looks at the machine, and learns what loads took.
            planning: Has what is to be loaded.
            jobs: Runs one thing after the other.
            emit: Told of everything but answers.
            settings: Those in force.
            on_turn: Told of each piece of an answer.
            on_event: Told of all else and of ends of answers, each with the plan that was loaded last.
            on_idle: Called once nothing was asked for as long as the settings say.
        """
        self.loaded: ModelLoaded | None = None
        self.loaded_plan: LoadPlan | None = None
        self.loaded_settings: Settings | None = None
        self.held_by: AppError | None = None
        self.command: protocol.Load | None = None
        self.asleep = False
        self._data = data
        self._hardware = hardware
        self._planning = planning
        self._jobs = jobs
        self._emit = emit
        self._settings = settings
        self._on_turn = on_turn
        self._on_event = on_event
        self._supervisor = EngineSupervisor(
            self._said,
            store=SafetyStore(data / "safety.json", engine_version()),
            times=LoadTimes(data / "load_times.json"),
            on_idle=on_idle,
        )
        self.apply_settings()

    # --- what it holds ----------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """Where the engine is now."""
        return self._supervisor.state

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._supervisor.pid

    @property
    def plan_is_loaded(self) -> bool:
        """True unless another plan, or another model, is loaded than the one shown."""
        planning = self._planning
        return is_loaded(planning.layout, planning.plan, self.loaded, self.loaded_plan)

    @property
    def model_path(self) -> Path | None:
        """The first file of the model that it holds."""
        return Path(self.loaded.model_path) if self.loaded is not None else None

    @property
    def claimed_path(self) -> Path | None:
        """The first file of the model that it holds or is about to hold."""
        layout = self._planning.layout
        idle = self.state in (EngineState.STOPPED, EngineState.CRASHED)
        return self.model_path or (None if idle or layout is None else layout.files[0])

    # --- what it is asked for ---------------------------------------------------

    def load(self) -> None:
        """Load the chosen model as planned."""
        self._jobs.submit(self.load_now)

    def load_now(self) -> None:
        """The same from within a job, before those that wait.

        Raises:
            AppError: No model is chosen, it cannot be planned or does not fit, or the devices are needed.
        """
        if self.held_by is not None:
            raise self.held_by
        self._plan()
        layout, plan = checked(self._planning.layout, self._planning.plan)
        self.loaded_plan, self.command = plan, self._command(plan, layout)
        self.loaded_settings = self._settings()
        self.asleep = False
        self._supervisor.load(self.command)

    def confirm(self) -> None:
        """Let llama.cpp say what the plan would take on these devices; nothing is loaded."""

        def job() -> None:
            self._plan()
            plan, layout = self._planning.plan, self._planning.layout
            if plan is None or layout is None:
                return
            check_confirmable(plan, loaded=self.loaded is not None)
            taken = dry_run(self._command(plan, layout), layout, self._data)
            self._planning.use(confirmed(plan, taken))

        self._jobs.submit(job)

    def _plan(self) -> None:
        """Where there is no plan, what is in its way is told again."""
        if self._planning.plan is None:
            self._planning.replan()

    def unload(self, *, asleep: bool = False) -> None:
        """End the engine's process, even one that hangs; all its memory comes back.

        `asleep`: until the next question.
        """
        self.asleep = asleep
        self._supervisor.unload()

    def apply_settings(self) -> None:
        """Those that hold for what is loaded, too."""
        minutes = self._settings().unload_after_min
        self._supervisor.unload_when_idle(None if minutes is None else MINUTE_S * minutes)

    def snapshot(self, command: protocol.Snapshot, done: SnapshotListener) -> None:
        """Measure, save or restore the KV cache; `done` is told on the supervisor's thread."""
        self._supervisor.snapshot(command, done)

    def generate(self, command: protocol.Generate) -> None:
        """Answer; `on_turn` is told."""
        self._supervisor.generate(command)

    def cancel(self) -> None:
        """Stop the answer, or the load."""
        self._supervisor.cancel()

    def close(self) -> None:
        """End its process and thread."""
        self._supervisor.close()

    def _command(self, plan: LoadPlan, layout: ModelLayout) -> protocol.Load:
        return load_command(plan, layout, self._settings(), self._hardware.report)

    # --- what it says -----------------------------------------------------------

    def _said(self, event: EngineEvent) -> None:
        if isinstance(event, TurnProgressed | TurnEnded):
            self._on_turn(event)
            if isinstance(event, TurnEnded):
                self._on_event(event, self.loaded_plan)
            return
        if isinstance(event, ModelLoaded):
            self.loaded = event
            self._jobs.submit(self._measure)
        elif self.state in (EngineState.STOPPED, EngineState.STARTING, EngineState.CRASHED):
            self.loaded = None
        self._emit(event)
        self._on_event(event, self.loaded_plan)

    def _measure(self) -> None:
        """Remember what the load took, beside what was planned; only drivers with NVML tell the rest."""
        loaded, plan = self.loaded, self.loaded_plan
        if loaded is None or plan is None:
            return
        telling = any(share.used and share.device.backend == "cuda" for share in plan.devices)
        report = self._hardware.detect(self.pid, self.loaded) if telling else None
        if not plan.request.tensor_parallel:  # of which only the largest share is known
            self._hardware.measured.record(measured(plan, held(loaded), report))
        for deviation in deviations(plan, loaded.loaded):
            if deviation.spilled:
                self._emit(AlarmRaised(error=alarm(deviation)))
            else:
                self._emit(NoticeRaised(sentence=deviation.sentence))
