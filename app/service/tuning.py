"""`TuningService`: measures plans on the devices of this machine, and remembers the fastest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path

from app.engine.load_times import LoadTimes
from app.engine.model import EngineState, EngineStateChanged
from app.engine.tuner import (
    Effort,
    Result,
    Trial,
    Tuner,
    TuningEnded,
    TuningEvent,
    proposal,
    trials,
)
from app.errors import AppError, ErrorKind
from app.events import AppEvent
from app.gguf.model import ModelLayout
from app.plan import speed
from app.plan.candidates import Candidate, candidates
from app.plan.tuned import TunedStore, tuned_from
from app.service.engine import EngineService
from app.service.hardware import HardwareService
from app.service.jobs import Listeners, Worker
from app.service.loading import checked, no_model
from app.service.planning import Planning
from app.settings.model import Settings, SplitMode
from app.settings.requests import load_command, make_request

_BUSY = AppError(
    "The fastest plan is being looked for, which needs the devices.",
    hint="Wait until it is found, or cancel.",
    kind=ErrorKind.USAGE,
)
_AUTOMATIC = {"split_mode": SplitMode.AUTOMATIC, "device_order": (), "layers": {}}


class TuningService:
    """Methods return at once; what comes of them arrives as `TuningEvent`.

    Attributes:
        effort: How thoroughly to measure.
    """

    def __init__(
        self,
        data: Path,
        hardware: HardwareService,
        planning: Planning,
        engine: EngineService,
        store: TunedStore,
        listeners: Listeners,
        change: Callable[[Settings], None],
    ) -> None:
        """Nothing is measured yet.

        Args:
            data: Where load times and safer settings are kept.
            hardware: Has the devices.
            planning: Has the model.
            engine: Gives its memory away for the time.
            store: Takes what is found.
            listeners: Told of everything.
            change: Puts other settings in force, stores them, and loads again.
        """
        self.effort = Effort()
        self._data = data
        self._hardware = hardware
        self._planning = planning
        self._engine = engine
        self._store = store
        self._listeners, self._change = listeners, change
        self._worker = Worker("tuner", listeners.tell)
        self._tuner: Tuner | None = None
        self._cancelled = False
        self._settings: Settings | None = None
        self._layout: ModelLayout | None = None
        self._results: tuple[Result, ...] = ()
        self._was_loaded = False

    def prepare(self, settings: Settings) -> tuple[Trial, ...]:
        """What would be measured with `settings`, the plan in force first.

        Raises:
            AppError: There is no model, or it does not fit.
        """
        layout, found = self._planned(settings)
        commands = []
        for candidate in found:
            rate = speed.estimate(candidate.plan, layout).generation
            command = load_command(candidate.plan, layout, settings, self._hardware.report)
            commands.append((candidate, command, rate.likely_low if rate else None))
        times = LoadTimes(self._data / "load_times.json")
        return trials(commands, times, layout.size_bytes, self.effort)

    def _planned(self, settings: Settings) -> tuple[ModelLayout, tuple[Candidate, ...]]:
        here, layout = self._hardware.machine(settings), self._planning.layout
        if here is None or layout is None:
            raise no_model()
        request = make_request(settings, layout, here.devices)
        found = candidates(layout, request, here.devices, here.host, most=self.effort.plans)
        checked(layout, found[0].plan)
        return layout, found

    def propose(self, settings: Settings) -> None:
        """Find out what would be measured and how long it takes; `TuningProposed` tells it."""
        self._worker.submit(
            lambda: self._listeners.tell(proposal(self.prepare(settings))), self._failed
        )

    def start(self, settings: Settings) -> None:
        """Measure the plan that `settings` give and some others; a loaded model is unloaded for it."""
        self._cancelled = False

        def job() -> None:
            self._results, self._settings, self._layout = (), settings, self._planning.layout
            prepared = self.prepare(settings)
            self._engine.held_by = _BUSY
            try:
                idle = self._engine.state in (EngineState.STOPPED, EngineState.CRASHED)
                self._was_loaded = self._was_loaded or not idle
                self._unload()
                self._tuner = Tuner(self._told, data=self._data, effort=self.effort)
                if self._cancelled:
                    self._tuner.cancel()
                self._tuner.run(prepared)
            except AppError:
                raise
            except Exception:  # a bug, which is reported; nobody shall wait for the end
                self._told(TuningEnded(cancelled=True))
                raise
            finally:
                self._freed()
            if self._cancelled:
                self.restore()

        self._worker.submit(job, self._failed)

    def _told(self, event: TuningEvent) -> None:
        """Who hears of the end may use what was measured, and load, at once."""
        if isinstance(event, TuningEnded):
            self._results = event.results
            self._freed()
        self._listeners.tell(event)

    def _freed(self) -> None:
        self._tuner = self._engine.held_by = None

    def _failed(self, error: AppError) -> None:
        self._listeners.tell(TuningEnded(error=error))

    def _unload(self) -> None:
        """Returns once all memory is free."""
        stopped = threading.Event()

        def hear(event: AppEvent) -> None:
            if isinstance(event, EngineStateChanged) and event.state is EngineState.STOPPED:
                stopped.set()

        forget = self._listeners.add(hear)
        self._engine.unload(asleep=self._engine.asleep)
        stopped.wait()
        forget()

    def cancel(self) -> None:
        """Stop soon; what was measured stays usable, and what was loaded before is loaded again."""
        self._cancelled = True
        tuner = self._tuner
        if tuner is not None:
            tuner.cancel()

    def restore(self) -> None:
        """Load again what was loaded before, if anything was."""
        before, self._was_loaded = self._was_loaded, False
        if before:
            self._engine.load()

    def apply(self, index: int) -> None:
        """Remember a measured plan, and load it."""
        self._worker.submit(lambda: self._change(self.use(index)))

    def use(self, index: int) -> Settings:
        """Remember a measured plan for its model and this machine; returns the settings that give it.

        This writes a file before it returns.
        Where the first one is a split by hand, those are the settings as they are.
        """
        settings, layout, result = self._settings, self._layout, self._results[index]
        assert settings is not None and layout is not None  # noqa: S101, PT018 - there are results
        self._was_loaded = False
        by_hand = settings.split_mode is not SplitMode.AUTOMATIC or bool(settings.device_order)
        if not index and by_hand:
            return settings
        settings = settings.model_copy(update=_AUTOMATIC)
        here = self._hardware.machine(settings)
        assert here is not None  # noqa: S101 - it was measured
        plan = result.candidate.plan
        tuned = tuned_from(
            plan,
            result.tokens_per_s,
            result.prompt_tokens_per_s,
            date.today(),  # noqa: DTZ011
        )
        request = make_request(settings, layout, here.devices)
        self._store.put(layout, here.devices, request, plan.context, tuned)
        return settings

    def close(self) -> None:
        """End what runs, and its processes."""
        self._was_loaded = False
        self.cancel()
        self._worker.close()
