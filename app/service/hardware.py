"""`HardwareService`: this machine as it was found last, as plans see it, and as it is now."""

from __future__ import annotations

from collections.abc import Callable

from app.engine.model import ModelLoaded
from app.events import HardwareDetected
from app.hardware.detect import detect
from app.hardware.meters import Meters
from app.hardware.model import HardwareReport
from app.paths import Folders
from app.plan.measured import MeasuredStore
from app.plan.overview import Machine
from app.service.jobs import Emit
from app.service.machine import machine
from app.settings.model import Settings


class HardwareService:
    """What was found is frozen; any thread may read it.

    Attributes:
        report: What was found last; None before anybody looked.
        measured: What loads took on these devices.
        lost: What counts as free but was refused to a model, by device id or `host`, until a person
            looks at the machine again.
        absent: Endpoints of RPC servers that are known to be gone; nobody asks them.
        wants_meters: Live values follow each look at the machine.
    """

    def __init__(
        self,
        folders: Folders,
        emit: Emit,
        settings: Callable[[], Settings],
        on_detected: Callable[[], object],
    ) -> None:
        """Nobody looks yet.

        Args:
            folders: The app's.
            emit: Told of everything.
            settings: Those in force.
            on_detected: Called after each look at the machine.
        """
        self.report: HardwareReport | None = None
        self.measured = MeasuredStore(folders.data / "measured.json")
        self.lost: dict[str, int] = {}
        self.absent: frozenset[str] = frozenset()
        self.wants_meters = False
        self._model_folder = folders.models
        self._emit = emit
        self._settings = settings
        self._on_detected = on_detected
        self._loaded_at_report: ModelLoaded | None = None
        self._meters: Meters | None = None

    def detect(self, engine_pid: int | None, loaded: ModelLoaded | None) -> HardwareReport:
        """Look at the machine, which takes up to seconds; what the engine holds is told apart."""
        self._loaded_at_report = loaded
        self.report = report = detect(
            model_folder=self._model_folder,
            rpc_servers=[s for s in self._settings().rpc_servers if s not in self.absent],
            own_pids=frozenset() if engine_pid is None else frozenset({engine_pid}),
            previous=self.report,
        )
        self._emit(HardwareDetected(report=report))
        self._on_detected()
        if self.wants_meters:
            self.close()
            self._meters = Meters(report, self._emit)
        return report

    def machine(self, settings: Settings) -> Machine | None:
        """What is planned for with `settings`; None before anybody looked."""
        if self.report is None:
            return None
        return machine(
            self.report,
            settings,
            learned=self.measured.reserves(),
            loaded=self._loaded_at_report,
            lost=self.lost,
        )

    def close(self) -> None:
        """No more live values."""
        meters, self._meters = self._meters, None
        if meters is not None:
            meters.close()
