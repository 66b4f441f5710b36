"""`Planning`: the chosen model and its plan on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from app.catalog import starter
from app.errors import AppError
from app.events import ModelChosen, PlanChanged, PlanPreviewed
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan import tensor_parallel
from app.plan.model import LoadPlan
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.tuned import TunedStore, tuned_plan
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Worker
from app.settings.model import Settings, SplitMode
from app.settings.requests import make_request


class Planning:
    """Values are frozen; any thread may read them.

    Attributes:
        layout: The chosen model; None before one was read.
        plan: How it would be loaded with the settings in force.
    """

    def __init__(
        self,
        model_folder: Path,
        hardware: HardwareService,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
        tuned: TunedStore,
    ) -> None:
        """No model yet.

        Args:
            model_folder: Takes the starter model.
            hardware: What is planned for.
            jobs: Works out what takes seconds.
            emit: Told of everything.
            settings: Those in force.
            tuned: Splits that were measured.
        """
        self.layout: ModelLayout | None = None
        self.plan: LoadPlan | None = None
        self._model_folder = model_folder
        self._hardware = hardware
        self._jobs = jobs
        self._emit = emit
        self._settings = settings
        self._tuned = tuned
        self._studied: Settings | None = None

    def choose(self, model: Path | None) -> None:
        """Read a model's header and plan it; None is the model in the settings, or the starter model.

        Raises:
            AppError: The file cannot be read, or the settings contradict it.
        """
        named = self._settings().model_path
        chosen = model or (Path(named) if named else None)
        self.read(chosen or starter.ensure(self._model_folder))
        self.replan()

    def read(self, model: Path) -> None:
        """Read the header of another model, which has no plan yet.

        Raises:
            AppError: It cannot be read.
        """
        layout = starter.named(read_layout(model))
        self.layout, self.plan = layout, None
        self._emit(ModelChosen(layout=layout))

    def replan(self) -> None:
        """Plan with the settings in force; the plan before holds until there is another.

        Raises:
            AppError: They contradict the model; there is no plan then.
        """
        try:
            plan = self.preview(self._settings())
        except AppError:
            self.plan = None
            raise
        if plan is not None:
            self.use(plan)

    def use(self, plan: LoadPlan) -> None:
        """This is the plan now."""
        self.plan = plan
        self._emit(PlanChanged(plan=plan))

    def preview(self, settings: Settings, *, limits: bool = True) -> LoadPlan | None:
        """The plan with other settings; pure arithmetic.

        Without `limits` it takes some milliseconds, with them up to seconds: then rather `study`.

        Raises:
            AppError: What the settings fix by hand is impossible.
        """
        here = self._hardware.machine(settings)
        if here is None or self.layout is None:
            return None
        devices, host = here.devices, here.host
        request = make_request(settings, self.layout, devices)
        plan = tuned_plan(
            self._tuned, self.layout, request, devices, host, limits=limits
        ) or make_plan(self.layout, request, devices, host, limits=limits)
        if settings.split_mode is SplitMode.TENSOR and not plan.request.tensor_parallel:
            reason = tensor_parallel.withheld(self.layout, request, devices)
            plan = dataclasses.replace(plan, note=f"{reason} So layers are split.")
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
