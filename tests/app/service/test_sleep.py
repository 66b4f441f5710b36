"""A model that is put away, by hand or for being idle, and comes back with the next question."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.chat.events import TurnFinished
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded
from app.engine.snapshots import SnapshotStore
from app.errors import ErrorKind
from app.events import (
    AppEvent,
    OperationFailed,
    PlanPreviewed,
    SnapshotChanged,
    SnapshotMeasured,
    SnapshotState,
)
from app.plan.model import KvCacheType
from app.service import AppService
from app.settings.model import Settings

TIMEOUT_S = 60
T = TypeVar("T")
STORY = "The keeper of the lighthouse wrote down the weather in a large book. " * 12


class Told:
    """The service's events, to wait for."""

    def __init__(self, service: AppService) -> None:
        self._events: queue.Queue[AppEvent] = queue.Queue()
        service.subscribe(self._events.put)

    def until(self, kind: type[T], wanted: Callable[[T], bool] = lambda _: True) -> T:
        while True:
            event = self._events.get(timeout=TIMEOUT_S)
            if isinstance(event, OperationFailed) and kind is not OperationFailed:
                raise event.error
            if isinstance(event, kind) and wanted(event):
                return event

    def snapshot(self, state: SnapshotState) -> SnapshotChanged:
        event = self.until(SnapshotChanged, lambda e: e.state is not SnapshotState.SAVING)
        assert event.state is state, event.sentence
        return event

    def answer(self) -> TurnFinished:
        event = self.until(TurnFinished)
        assert event.error is None
        assert event.answer.stats is not None
        return event

    def settled(self, service: AppService) -> None:
        """All jobs that were asked for are done."""
        service.planning.study(service.settings)
        self.until(PlanPreviewed)

    def stopped(self) -> None:
        self.until(EngineStateChanged, lambda e: e.state is EngineState.STOPPED)


@pytest.fixture
def service(starter_model: Path) -> Iterator[AppService]:
    service = AppService()
    service.settings = Settings(context=1024, threads=1)
    yield service
    service.close()


@pytest.fixture
def told(service: AppService, starter_model: Path) -> Told:
    told = Told(service)
    service.start(starter_model, load=True)
    told.until(ModelLoaded)
    return told


def files(service: AppService) -> list[Path]:
    return sorted((service.folders.data / "kv").glob("*"))


def test_saved_with_its_size_said_first_and_used_after_sleep(
    service: AppService, told: Told
) -> None:
    service.chat.send(STORY, max_tokens=4)
    stats = told.answer().answer.stats
    service.snapshots.measure()
    size = told.until(SnapshotMeasured)
    assert stats is not None
    assert size.tokens == stats.context_used
    assert size.kept_bytes == 0
    assert size.size_bytes < size.limit_bytes
    service.chat.sleep(keep=True)
    saved = told.snapshot(SnapshotState.SAVED)
    assert abs(saved.size_bytes - size.size_bytes) < 64 * 1024
    told.stopped()
    assert service.engine.pid is None
    service.chat.send("And then?", max_tokens=4)
    assert told.snapshot(SnapshotState.RESTORED).tokens == size.tokens
    again = told.answer().answer.stats
    assert again is not None
    assert again.reused_tokens >= size.tokens - 4
    assert [m.text for m in service.chat.messages if m.role == "user"] == [STORY, "And then?"]
    service.chat.new_chat()
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    assert files(service) == [], "a chat that is gone leaves nothing on the disk"


def test_idle_by_the_settings_of_now(
    service: AppService, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.engine.MINUTE_S", 0.5)
    idle = service.settings.model_copy(update={"unload_after_min": 1})
    service.update_settings(idle)
    told.stopped()
    assert service.engine.asleep
    assert files(service) == [], "nobody asked to keep the KV cache"
    service.update_settings(idle.model_copy(update={"snapshot_when_idle": True}))
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    told.snapshot(SnapshotState.SAVED)
    told.stopped()
    service.chat.send("And then?", max_tokens=4)
    told.snapshot(SnapshotState.RESTORED)
    told.answer()


def test_other_settings_make_it_stale(service: AppService, told: Told) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    service.chat.sleep(keep=True)
    told.snapshot(SnapshotState.SAVED)
    told.stopped()
    changed = {"kv_type_k": KvCacheType.Q8_0, "kv_type_v": KvCacheType.Q8_0}
    service.update_settings(service.settings.model_copy(update=changed))
    service.chat.send("And then?", max_tokens=4)
    told.snapshot(SnapshotState.DROPPED)
    assert told.answer().answer.text
    assert files(service) == []


def test_a_prompt_that_no_longer_matches_throws_it_away(service: AppService, told: Told) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    service.chat.sleep(keep=True)
    told.snapshot(SnapshotState.SAVED)
    told.stopped()
    service.set_system_prompt("Answer like a pirate.")
    service.chat.send("And then?", max_tokens=4)
    told.snapshot(SnapshotState.RESTORED)
    told.snapshot(SnapshotState.DROPPED)
    told.answer()
    assert files(service) == []


def test_a_snapshot_that_ends_the_engine_is_not_tried_again(
    service: AppService, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    service.chat.sleep(keep=True)
    told.stopped()
    usable = SnapshotStore.usable

    def cut_off(store: SnapshotStore, *given: Any) -> Path | None:  # noqa: ANN401
        path = usable(store, *given)
        if path is not None:
            os.truncate(path, path.stat().st_size // 2)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "usable", cut_off)
        service.engine.load()
        told.snapshot(SnapshotState.FAILED)
    assert not list((service.folders.data / "kv").glob("*.kv"))
    service.engine.load()
    told.until(ModelLoaded)
    service.chat.send("And then?", max_tokens=4)
    told.answer()


def test_a_load_that_is_asked_for_while_the_kv_cache_is_saved_stays(
    service: AppService, told: Told
) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    service.chat.sleep(keep=True)
    service.engine.load()
    told.until(ModelLoaded)
    told.settled(service)
    assert service.engine.state is EngineState.READY
    assert not service.engine.asleep


def test_no_room_costs_the_snapshot_and_no_more(service: AppService, told: Told) -> None:
    service.settings = service.settings.model_copy(update={"snapshot_limit_gb": 0})
    service.chat.send(STORY, max_tokens=4)
    told.answer()
    service.chat.sleep(keep=True)
    assert "in all" in told.snapshot(SnapshotState.FAILED).sentence
    told.stopped()
    service.chat.send("And then?", max_tokens=4)
    assert told.answer().answer.text


def test_a_question_that_cannot_wake_the_model_is_not_lost_in_it(
    service: AppService, told: Told
) -> None:
    service.chat.sleep(keep=False)
    told.stopped()
    service.settings = service.settings.model_copy(update={"context": 2**24})
    service.update_settings(service.settings)
    service.chat.send("Hello", max_tokens=2)
    failed = told.until(OperationFailed)
    assert failed.error.kind is ErrorKind.MEMORY
    assert service.chat.messages == ()
    service.update_settings(service.settings.model_copy(update={"context": 1024}))
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    assert len(service.chat.messages) == 2


def test_what_an_ended_program_left_is_thrown_away(service: AppService, told: Told) -> None:
    folder = service.folders.data / "kv"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "old.kv").write_bytes(b"state")
    (folder / "old.json").write_text('{"made_with": {}, "owner": 99999999}')
    service.snapshots.start()
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    service.snapshots.measure()
    told.until(SnapshotMeasured)
    assert files(service) == []


def test_a_question_right_after_falling_asleep_is_asked(service: AppService, told: Told) -> None:
    service.chat.sleep(keep=False)
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    assert [m.text for m in service.chat.messages if m.role == "user"] == ["Hello"]


def test_a_question_while_the_kv_cache_is_saved_is_answered_and_the_model_stays(
    service: AppService, told: Told
) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()

    def ask(event: AppEvent) -> None:
        if isinstance(event, SnapshotChanged) and event.state is SnapshotState.SAVED:
            service.chat.send("And then?", max_tokens=200)

    service.subscribe(ask)
    service.chat.sleep(keep=True)
    assert told.answer().answer.text
    told.settled(service)
    assert service.engine.state is EngineState.READY
    assert not service.engine.asleep


def test_a_new_chat_is_not_begun_by_what_waited_in_the_old_one(
    service: AppService, told: Told
) -> None:
    service.chat.sleep(keep=False)
    told.stopped()
    service.chat.send("Of the old chat", max_tokens=2)
    service.chat.new_chat()
    told.until(ModelLoaded)
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    assert [m.text for m in service.chat.messages if m.role == "user"] == ["Hello"]


def test_a_chat_that_ends_while_it_is_saved_leaves_nothing(service: AppService, told: Told) -> None:
    service.chat.send(STORY, max_tokens=4)
    told.answer()

    def clear(event: AppEvent) -> None:
        if isinstance(event, SnapshotChanged) and event.state is SnapshotState.SAVING:
            service.chat.new_chat()

    service.subscribe(clear)
    service.snapshots.save()
    told.until(SnapshotChanged)
    told.settled(service)
    service.chat.send("Hello", max_tokens=2)
    told.answer()
    told.settled(service)
    assert files(service) == []


def test_half_a_character_in_a_question_costs_no_more_than_that(
    service: AppService, told: Told
) -> None:
    service.chat.send("Caf\udce9?", max_tokens=2)
    assert told.answer().answer.text
