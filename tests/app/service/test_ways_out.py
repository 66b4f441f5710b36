"""Faults of real RPC servers and a real worker, and the ways out, each taken with one call."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from app.chat.events import AnswerExtended, TurnFinished
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded
from app.errors import ErrorKind
from app.events import (
    AppEvent,
    HardwareDetected,
    OperationFailed,
    PlanChanged,
    WayOut,
    WaysOutFound,
)
from app.service import AppService
from app.settings.model import Settings
from app.units import MIB
from tests.helpers.faults import Faults, memory_group
from tests.helpers.rpc import Cable, leave, rpc_server_at, rpc_servers, server_at

TIMEOUT_S = 60
T = TypeVar("T")


class Client:
    """The service with a queue of its events."""

    def __init__(self) -> None:
        self.service = AppService()
        self._events: queue.Queue[AppEvent] = queue.Queue()
        self.service.subscribe(self._events.put)

    def until(self, kind: type[T], wanted: Callable[[T], bool] = lambda _event: True) -> T:
        while True:
            event = self._events.get(timeout=TIMEOUT_S)
            assert not isinstance(event, OperationFailed), event
            if isinstance(event, kind) and wanted(event):
                return event

    def ways(self, *, good: bool = False) -> WaysOutFound:
        return self.until(WaysOutFound, lambda e: bool(e.sentence) and e.good is good)

    def planned(self, **settings: object) -> None:
        self.service.settings = Settings.model_validate(settings)
        self.service.start()
        self.until(PlanChanged)

    def load(self) -> None:
        self.service.engine.load()
        self.until(ModelLoaded)

    def take(self, way: WayOut) -> ModelLoaded:
        self.service.take(way)
        return self.until(ModelLoaded)

    def ask(self) -> str:
        self.service.chat.send("Name a colour.", max_tokens=8)
        finished = self.until(TurnFinished)
        assert finished.error is None
        return finished.answer.text


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.service.close()


def named(found: WaysOutFound, words: str) -> WayOut:
    return next(way for way in found.ways if words in way.title)


def test_a_kv_cache_that_a_device_refuses(client: Client) -> None:
    with rpc_servers(2) as endpoints:
        client.planned(rpc_servers=endpoints, context=8192)
        plan = client.service.planning.plan
        assert plan is not None
        first = plan.devices[0]
        leave(first.device.name, first.weights_bytes + 16 * MIB)
        client.service.engine.load()
        error = client.until(EngineStateChanged, lambda e: e.error is not None).error
        assert "memory" in str(error)
        found = client.ways()
        assert found.sentence.startswith(f"{first.device.label} is about ")
        assert found.sentence.endswith(" short.")
        assert "for the KV cache could not be allocated" in found.detail
        # The plan of the machine as it is: what would be loaded again is not what failed.
        again = client.service.planning.plan
        assert again is not None
        assert again.tensor_split != plan.tensor_split
        assert first.device.label in found.ways[0].title
        assert all("fits on" in way.effect for way in found.ways if way.settings)
        loaded = None
        for _ in range(
            4
        ):  # the server says more is free than it gives, so one is not always enough
            client.service.take(found.ways[0])
            event = client.until(
                EngineStateChanged, lambda e: e.state is EngineState.READY or e.error is not None
            )
            if event.error is None:
                loaded = client.until(ModelLoaded)
                break
            found = client.ways()
        assert loaded is not None
        lost = client.service.hardware.lost
        machine = client.service.hardware.machine(client.service.settings)
        assert lost
        assert machine is not None
        for device in machine.devices:
            assert device.others_bytes >= lost.get(device.id, 0), (
                "what was refused is not drawn as free"
            )
        assert not client.service.ways.found.sentence
        assert client.ask()


def test_main_memory_that_is_refused(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", Faults(tmp_path).python_path)
    monkeypatch.setenv("TEST_FAULT", str(tmp_path / "none"))
    monkeypatch.setenv("TEST_MEMORY", str(1300 * MIB))
    client.planned(context=65_536)
    client.service.engine.load()
    found = client.ways()
    assert found.sentence.startswith("Main memory is about ")
    assert "for the KV cache could not be allocated" in found.detail
    plan = client.service.planning.plan
    assert plan is not None
    assert not plan.runs, "planned for main memory as it really is"
    assert all("runs in main memory" in way.effect for way in found.ways if not way.looks_again)
    client.take(named(found, "Use a context of"))
    assert client.ask()
    assert client.service.hardware.lost
    client.service.refresh_hardware()
    client.until(PlanChanged)
    assert not client.service.hardware.lost, "a person looked again: it may work now"


@pytest.mark.alone  # the system counts such ends for the whole machine
def test_an_engine_that_the_system_kills_for_lack_of_memory(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", Faults(tmp_path).python_path)
    monkeypatch.setenv("TEST_FAULT", str(tmp_path / "none"))
    with contextlib.ExitStack() as stack:
        try:
            members = stack.enter_context(memory_group(500 * MIB))
        except OSError as reason:
            pytest.skip(f"no control group can be made here: {reason}")
        stack.callback(client.service.engine.close)
        monkeypatch.setenv("TEST_CGROUP", str(members))
        client.planned(context=65_536)
        client.service.engine.load()
        error = client.until(EngineStateChanged, lambda e: e.error is not None).error
        assert error is not None
        assert error.kind is ErrorKind.MEMORY
        found = client.ways()
        assert found.sentence.startswith("Main memory is about ")
        assert "The system ended the engine, since no memory was left." in found.detail
        assert not (client.service.folders.data / "safety.json").exists(), "they help nothing here"
        for _ in range(5):
            client.service.take(found.ways[0])
            event = client.until(
                EngineStateChanged, lambda e: e.state is EngineState.READY or e.error is not None
            )
            if event.error is None:
                break
            found = client.ways()
        assert client.ask()


def test_a_server_that_is_gone_when_it_is_loaded(client: Client) -> None:
    with rpc_servers(2) as endpoints:
        client.planned(rpc_servers=endpoints, context=1024)
        server_at(endpoints[0]).kill()
        client.service.engine.load()
        failed = client.until(EngineStateChanged, lambda e: e.error is not None)
        assert endpoints[0] in str(failed.error)
        found = client.ways()
        assert endpoints[0] in found.sentence
        assert client.take(named(found, "Reload without"))
        assert client.ask()


def test_a_server_that_dies_while_it_is_loaded_is_no_fault_of_this_processor(
    client: Client,
) -> None:
    with rpc_servers(1) as endpoints:
        client.planned(rpc_servers=endpoints, context=1024)
        killed: list[psutil.Process] = []

        def kill(event: AppEvent) -> None:
            if isinstance(event, EngineStateChanged) and event.stage == "allocating" and not killed:
                killed.append(server_at(endpoints[0]))
                killed[0].kill()

        client.service.subscribe(kill)
        client.service.engine.load()
        found = client.ways()
        assert killed
        assert found.sentence == f"The RPC server {endpoints[0]} is gone."
        assert found.ways[0].effect.startswith("runs in main memory alone")
        assert not (client.service.folders.data / "safety.json").exists()


def test_a_server_that_is_cut_off_without_a_word_is_found_out_in_the_silence(
    client: Client,
) -> None:
    with rpc_servers(2) as endpoints, contextlib.closing(Cable(endpoints[1])) as cable:
        endless = {"ignore_end": True}
        client.planned(rpc_servers=(endpoints[0], cable.endpoint), context=1024, sampling=endless)
        client.load()
        client.service.chat.send("Tell a very long story.")
        client.until(AnswerExtended)
        cable.cut()
        service = client.service
        # Only the two minutes of silence are not real here.
        silence = EngineStateChanged(state=EngineState.GENERATING, silent_s=120.0)
        service.ways.heard(silence, service.engine.loaded_plan)
        found = client.ways()
        assert found.sentence == f"The RPC server {cable.endpoint} is gone."
        assert service.engine.state is EngineState.GENERATING, "nothing is ended unasked"
        client.take(named(found, "Reload without"))
        assert service.chat.messages[-1].text, "what was shown stays"
        assert client.ask()


def test_of_two_servers_that_are_gone_each_is_told_when_it_is_back(client: Client) -> None:
    with rpc_servers(3) as endpoints:
        client.planned(rpc_servers=endpoints, context=1024)
        client.load()
        for endpoint in endpoints[:2]:
            server_at(endpoint).kill()
        client.service.chat.send("Name a colour.")
        client.take(named(client.ways(), "Reload without"))
        with rpc_server_at(endpoints[1]):
            found = client.ways(good=True)
            assert endpoints[1] in found.sentence
            with rpc_server_at(endpoints[0]):
                found = client.ways(good=True)
                assert endpoints[0] in found.sentence
                client.take(found.ways[0])
                assert client.service.settings.disabled_devices == ()
                assert client.service.hardware.report is not None
                assert len(client.service.hardware.report.usable_devices) == 3
                client.service.engine.unload()
                client.until(EngineStateChanged, lambda e: e.state is EngineState.STOPPED)


def test_a_server_that_is_lost_while_the_app_ends_is_not_waited_for() -> None:
    """What began to wait for it after all had been closed would be left behind."""
    client = Client()  # closed once
    with rpc_servers(1) as endpoints:
        client.planned(rpc_servers=endpoints, context=1024)
        client.load()
        closing = threading.Thread(target=client.service.close)
        begun = threading.Event()
        until = time.monotonic() + TIMEOUT_S

        def close(event: AppEvent) -> None:
            if isinstance(event, HardwareDetected) and not begun.is_set():
                closing.start()
                begun.set()
                names = {"engine supervisor"}
                while names & {thread.name for thread in threading.enumerate()}:
                    assert time.monotonic() < until

        client.service.subscribe(close)
        server_at(endpoints[0]).kill()
        client.service.chat.send("Name a colour.")
        assert begun.wait(TIMEOUT_S)
        closing.join()
