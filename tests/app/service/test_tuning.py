"""The service measures plans on real RPC devices, gives back what was loaded, and plans with what it found."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.chat.events import TurnFinished
from app.engine.model import EngineStateChanged, ModelLoaded
from app.engine.tuner import CandidateMeasured, Effort, TuningEnded, TuningProposed
from app.errors import AppError
from app.events import AppEvent, OperationFailed, PlanChanged
from app.plan.model import DevicePlan
from app.service import AppService
from app.settings.model import Settings, SplitMode
from tests.helpers.rpc import rpc_servers
from tests.helpers.small_models import sliding_window

TIMEOUT_S = 90
Events = queue.Queue[AppEvent]


@pytest.fixture
def service() -> Iterator[AppService]:
    with rpc_servers(2) as endpoints:
        made = AppService()
        made.settings = Settings(rpc_servers=endpoints, context=512, threads=1)
        made.tuning.effort = Effort(plans=2, repeats=1, prompt_tokens=16, tokens=3)
        try:
            yield made
        finally:
            made.close()


def until(events: Events, wanted: Callable[[AppEvent], bool]) -> AppEvent:
    while True:
        event = events.get(timeout=TIMEOUT_S)
        if isinstance(event, OperationFailed):
            raise event.error
        if isinstance(event, EngineStateChanged) and event.error is not None:
            raise event.error
        if wanted(event):
            return event


def is_a(kind: type[AppEvent]) -> Callable[[AppEvent], bool]:
    return lambda event: isinstance(event, kind)


def test_what_is_found_is_in_the_next_plan_and_a_cancel_gives_back_what_was_loaded(
    service: AppService, starter_model: Path
) -> None:
    events: Events = queue.Queue()
    service.subscribe(events.put)
    service.start(starter_model, load=True)
    until(events, is_a(ModelLoaded))

    service.tuning.propose(service.settings)
    proposed = until(events, is_a(TuningProposed))
    assert isinstance(proposed, TuningProposed)
    assert len(proposed.candidates) == 2
    assert service.engine.loaded is not None, "asking unloads nothing"

    service.tuning.start(service.settings)
    until(events, is_a(CandidateMeasured))
    assert service.engine.loaded is None
    with pytest.raises(AppError, match="fastest"):
        service.engine.load_now()
    service.tuning.cancel()
    ended = until(events, is_a(TuningEnded))
    assert isinstance(ended, TuningEnded)
    assert ended.cancelled
    assert ended.kept is not None
    until(events, is_a(ModelLoaded))
    assert service.engine.plan_is_loaded

    service.tuning.start(service.settings)
    ended = until(events, is_a(TuningEnded))
    assert isinstance(ended, TuningEnded)
    assert not ended.cancelled
    assert len(ended.results) == 2
    assert service.engine.loaded is None
    chosen = ended.results[1]
    assert chosen.turn_s
    service.tuning.apply(1)
    until(events, is_a(ModelLoaded))
    settings = service.settings
    plan = service.engine.loaded_plan
    assert plan is not None
    assert plan.note.startswith("Measured fastest on ")
    assert f"{chosen.tokens_per_s:,.1f} tokens/s" in plan.note

    def placed(shares: tuple[DevicePlan, ...]) -> list[tuple[str, int]]:
        return [(s.device.id, s.layer_count) for s in shares if s.used]

    assert placed(plan.devices) == placed(chosen.candidate.plan.devices)

    by_hand = {"split_mode": SplitMode.EVEN}
    service.update_settings(settings.model_copy(update=by_hand))
    until(events, lambda e: isinstance(e, PlanChanged) and not e.plan.note)


def test_a_model_that_sleeps_still_does_after_measuring_and_results_are_there_at_once(
    service: AppService, starter_model: Path, tmp_path: Path
) -> None:
    events: Events = queue.Queue()
    used: list[Settings] = []

    def use(event: AppEvent) -> None:
        if isinstance(event, TuningEnded) and not used:
            used.append(service.tuning.use(0))
            (service.folders.data / "tuned.json").unlink()

    service.subscribe(use)
    service.subscribe(events.put)
    service.start(starter_model, load=True)
    until(events, is_a(ModelLoaded))
    service.chat.sleep(keep=False)
    service.tuning.start(service.settings)
    until(events, is_a(TuningEnded))
    assert len(used) == 1
    assert service.engine.asleep
    service.chat.send("Hello", max_tokens=2)
    ended = until(events, is_a(TurnFinished))
    assert isinstance(ended, TurnFinished)
    assert ended.error is None

    # What was measured is of the model that was measured, whatever is chosen by then.
    service.choose_model(sliding_window(tmp_path / "other.gguf"))
    until(events, is_a(PlanChanged))
    service.tuning.use(0)
    service.choose_model(starter_model)
    until(events, lambda e: isinstance(e, PlanChanged) and e.plan.note.startswith("Measured"))
