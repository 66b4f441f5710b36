"""`WaysOutService`: after a load or an answer failed, what is wrong and what can be done about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from app import units
from app.engine.diagnose import KILLED, ServerLostError, ShortOfMemoryError
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, TurnEnded
from app.engine.shortage import Part, Refusal, device_id
from app.errors import AppError
from app.events import WayOut, WaysOutFound
from app.hardware.model import HardwareReport
from app.plan.model import LoadPlan
from app.plan.shortage import Part as PlanPart
from app.plan.shortage import Refused, Shortage, find_place, shortage
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Worker
from app.service.planning import Planning
from app.service.watch import ServerWatch, answers
from app.service.ways import Find, effect, ways, within, without
from app.settings.model import Settings

_PARTS: dict[Part, PlanPart] = {
    Part.WEIGHTS: "weights",
    Part.KV_CACHE: "kv_cache",
    Part.COMPUTE: "compute",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Lost:
    """RPC servers that are gone: their endpoints by the ids of their devices."""

    servers: Mapping[str, str]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All servers, each once."""
        return tuple(sorted(set(self.servers.values())))

    @property
    def ids(self) -> tuple[str, ...]:
        """All of their devices."""
        return tuple(sorted(self.servers))

    @property
    def name(self) -> str:
        """All of them."""
        return " and ".join(self.endpoints)


class WaysOutService:
    """Looks at the machine as it is after a fault; nothing is loaded again before a person chooses.

    Attributes:
        found: What is wrong now; an empty sentence if nothing is.
    """

    def __init__(
        self,
        hardware: HardwareService,
        planning: Planning,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
        detect: Callable[[], object],
        find: Find,
    ) -> None:
        """Nothing is wrong yet.

        Args:
            hardware: Has what was found.
            planning: Works out each way.
            jobs: Runs that.
            emit: Told of it.
            settings: Those in force.
            detect: Looks at the machine again.
            find: Files of another quantization of the chosen model that are here.
        """
        self.found = WaysOutFound()
        self._hardware, self._planning = hardware, planning
        self._jobs, self._emit = jobs, emit
        self._settings, self._detect, self._find = settings, detect, find
        self._lost: _Lost | None = None
        self._error: AppError | None = None
        self._silent = False
        self._number = 0
        self._watch = ServerWatch(self._answered)

    def heard(self, event: EngineEvent, plan: LoadPlan | None) -> None:
        """What the engine said; where it failed with `plan`, ways out follow as an event."""
        if isinstance(event, EngineStateChanged):
            silent = event.silent_s is not None
            if event.state is EngineState.STARTING or (self._silent and not silent):
                self.clear()
            if silent and not self._silent and plan is not None:
                self._study(lambda: self._silence(plan))
            self._silent = silent
        elif not isinstance(event, TurnEnded):
            return
        # A crash ends the turn and the engine, with one error.
        if event.error is not None and event.error is not self._error and plan is not None:
            self._error = event.error
            self._failed(event.error, plan)

    def knows(self, error: AppError) -> bool:
        """True if ways out of it are looked for, so that an event follows, an empty one if there are none."""
        return isinstance(error, ShortOfMemoryError | ServerLostError)

    def _failed(self, error: AppError, plan: LoadPlan) -> None:
        if isinstance(error, ShortOfMemoryError):
            self._study(lambda: self._short(error.refusal, plan) or WaysOutFound())
        elif isinstance(error, ServerLostError):
            self._study(lambda: self._server_lost(error.endpoint, plan) or WaysOutFound())

    def _study(self, find: Callable[[], WaysOutFound | None]) -> None:
        """Tell what `find` finds, unless something else was tried meanwhile."""
        number = self._number

        def job() -> None:
            try:
                found = find()
            except AppError:
                if number == self._number:
                    self._tell(WaysOutFound())  # nobody shall wait for it
                raise
            if found is not None and number == self._number:
                self._tell(found)

        self._jobs.submit(job)

    def clear(self) -> None:
        """Something else is tried; a server that is gone is still waited for."""
        self._number += 1
        if self.found.sentence:
            self._tell(WaysOutFound())

    def taken(self, way: WayOut) -> None:
        """A way was chosen; servers that it uses are not waited for any more."""
        off = way.settings.disabled_devices if way.settings is not None else ()
        servers = self._lost.servers if self._lost is not None else {}
        absent = self._hardware.absent
        left = {id: each for id, each in servers.items() if id in off or each in absent}
        self._lost = _Lost(left) if left else None
        if not left:
            self._watch.stop()

    def close(self) -> None:
        """Wait for no server any more."""
        self._watch.close()

    def _tell(self, found: WaysOutFound) -> None:
        self.found = found
        self._emit(found)

    # --- memory -----------------------------------------------------------------

    def _short(self, refusal: Refusal, plan: LoadPlan) -> WaysOutFound | None:
        self._detect()
        here = self._hardware.machine(self._settings())
        layout, report = self._planning.layout, self._hardware.report
        if here is None or layout is None or report is None:
            return None
        place = find_place(plan, refusal.device, device_id(refusal.device))
        refused = Refused(
            part=_PARTS.get(refusal.part, "scratch"),
            size_bytes=refusal.size_bytes,
            free_bytes=refusal.free_bytes,
        )
        short = shortage(plan, place, refused, here.devices, here.host)
        lost = self._hardware.lost
        self._hardware.lost = {**lost, place: lost.get(place, 0) + short.lost_bytes}
        self._planning.replan()
        found = ways(self._settings(), plan, layout, self._preview, self._exact, self._find, place)
        missing = units.format_memory(short.missing_bytes)
        return WaysOutFound(
            sentence=f"{short.label} is {'' if short.sure else 'about '}{missing} short.",
            detail=" ".join(_seen(refusal, short, report)),
            ways=(*found, *_free_it(short, report, self._settings()))
            or (_look_again(f"once {missing} more are free there", self._settings()),),
        )

    def _exact(self, settings: Settings) -> LoadPlan | None:
        """With remedies; those of the settings in force were just worked out."""
        if settings == self._settings():
            return self._planning.plan
        return self._planning.preview(settings)

    def _preview(self, settings: Settings) -> LoadPlan | None:
        return self._planning.preview(settings, limits=False)

    # --- RPC servers ------------------------------------------------------------

    def _silence(self, plan: LoadPlan) -> WaysOutFound | None:
        """Nothing is heard of the engine: a server that was cut off without a word holds it up for ever."""
        if all(map(answers, _servers(plan).values())):
            return None
        return self._server_lost("", plan)

    def _server_lost(self, endpoint: str, plan: LoadPlan) -> WaysOutFound | None:
        servers = _servers(plan)
        # A hung engine stays connected to one that is cut off, which looks like being in use.
        self._hardware.absent = frozenset(each for each in servers.values() if not answers(each))
        self._detect()
        report = self._hardware.report
        if report is None:
            return None
        there = {device.id for device in report.devices}
        lost = {id for id in servers if id not in there or servers[id] == endpoint}
        if not lost and len(set(servers.values())) == 1:
            lost = set(servers)
        self._lost = _Lost({id: servers[id] for id in lost}) if lost else None
        gone = self._lost.endpoints if self._lost is not None else ()
        words = "An RPC server ended the connection."
        if self._lost is not None:
            verb = "is" if len(gone) == 1 else "are"
            words = f"The RPC server{'s' if len(gone) > 1 else ''} {self._lost.name} {verb} gone."
            away = [each for each in gone if not answers(each)]
            if away:
                self._watch.watch(away)
            else:
                words = f"The RPC server {self._lost.name} ended the connection, but answers again."
        self._planning.replan()
        return WaysOutFound(sentence=words, ways=tuple(self._around(plan)))

    def _around(self, failed: LoadPlan) -> Iterator[WayOut]:
        """The plan without what is lost, and the one with it where it answers."""
        layout, lost, settings = self._planning.layout, self._lost, self._settings()
        if layout is None:
            return
        if lost is None or all(map(answers, lost.endpoints)):
            again = within(settings, lost.ids) if lost else settings
            yield from self._again(again)
        if lost is None:
            return
        apart = without(settings, lost.ids)
        plan = self._planning.preview(apart)
        if plan is None:
            return
        if plan.runs:
            left = len(plan.devices)
            words = effect(plan, layout)
            if plan.fits and left > 1:
                words = words.replace(f"on {left} devices", f"on the other {left} devices")
            yield WayOut(title=f"Reload without {lost.name}", effect=words, settings=apart)
        if not plan.fits:
            yield from (
                dataclasses.replace(way, title=f"{way.title}, without {lost.name}")
                for way in ways(
                    apart, failed, layout, self._preview, self._exact, self._find, anew=False
                )
                if way.settings is not None
            )

    def _again(self, settings: Settings) -> Iterator[WayOut]:
        layout, plan = self._planning.layout, self._preview(settings)
        if layout is not None and plan is not None and plan.runs:
            yield WayOut(
                title="Try it again",
                effect=effect(plan, layout),
                settings=settings,
                looks_again=True,
            )

    def _answered(self, endpoint: str) -> None:
        self._study(lambda: self._back(endpoint))

    def _back(self, endpoint: str) -> WaysOutFound | None:
        """A server that was gone answers: it can be used again, if a person wants that."""
        lost, settings = self._lost, self._settings()
        if lost is None or endpoint not in {*lost.endpoints} & {*settings.rpc_servers}:
            return None
        unused = endpoint in self._hardware.absent or {*lost.ids} & {*settings.disabled_devices}
        if not (unused or self.found.ways):
            return None
        self._hardware.absent -= {endpoint}
        self._detect()
        back = [id for id, each in lost.servers.items() if each not in self._hardware.absent]
        again = tuple(self._again(within(settings, back)))
        if not again:
            return None
        others = (each for each in self.found.ways if each.title != again[0].title)
        return WaysOutFound(
            sentence=f"The RPC server {endpoint} answers again.", ways=(*again, *others), good=True
        )


def _servers(plan: LoadPlan) -> dict[str, str]:
    """Endpoints of the RPC servers in use, by the ids of their devices (`rpc:host:port/0`)."""
    used = (share.device.id for share in plan.devices if share.used)
    return {id: id.removeprefix("rpc:").rpartition("/")[0] for id in used if id.startswith("rpc:")}


def _seen(refusal: Refusal, short: Shortage, report: HardwareReport) -> Iterator[str]:
    """What was refused, and who took memory meanwhile."""
    if refusal.killed:
        yield KILLED
    elif refusal.size_bytes:
        part = f" for the {refusal.part}" if refusal.part else ""
        yield f"{units.format_memory(refusal.size_bytes)}{part} could not be allocated there."
    elif refusal.part:
        yield f"Its {refusal.part} could not be allocated."
    if short.taken_bytes:
        names = [name for name, _ in _programs(short, report)][:3]
        who = f" ({', '.join(names)})" if names else ""
        taken = units.format_memory(short.taken_bytes)
        yield f"Since it was planned, other programs{who} took {taken} of it."


def _programs(short: Shortage, report: HardwareReport) -> list[tuple[str, int]]:
    """Other programs on the device by name, those with most memory first."""
    held: dict[str, int] = {}
    for device in report.devices:
        for program in device.programs if device.id == short.place else ():
            name = program.name or f"process {program.pid}"
            held[name] = held.get(name, 0) + program.used_bytes
    return sorted(held.items(), key=lambda item: -item[1])


def _free_it(short: Shortage, report: HardwareReport, settings: Settings) -> Iterator[WayOut]:
    """Close what else uses the device, where that is enough."""
    device = next((d for d in report.devices if d.id == short.place), None)
    others = (device.used_by_others_bytes or 0) if device is not None else 0
    programs = _programs(short, report)
    known = sum(size for _, size in programs)
    enough = known >= short.missing_bytes or short.taken_bytes >= short.missing_bytes
    if not enough and others < short.missing_bytes:
        return
    if not programs and not short.taken_bytes:
        return
    names: list[str] = []
    freed = 0
    for name, size in programs:
        if freed >= short.missing_bytes:
            break
        names.append(f"{name} ({units.format_memory(size)})")
        freed += size
    who = ", ".join(names) or "other programs"
    yield _look_again(f"once {who} no longer uses {short.label}", settings)


def _look_again(when: str, settings: Settings) -> WayOut:
    return WayOut(
        title="Look again and load",
        effect=f"{when}: then it fits as planned",
        settings=settings,
        looks_again=True,
    )
