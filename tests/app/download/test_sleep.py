"""The machine sleeps, and wakes in another network: the real process goes on, and its figures make sense."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app import units
from app.download.meter import AVERAGE_S, GAP_S, HIDDEN_S, Meter
from app.download.model import DownloadRequest
from tests.app.download.conftest import Stage, wait_for
from tests.helpers import puller
from tests.helpers.faulty_hub import Fault, FaultyHub, faulty_hub

STALL_S = 0.5
RATE = 2_000_000
CONNECTIONS = 4
SIZE = 32 * units.MIB + 4_321


class Told(threading.Thread):
    """What a process prints, read while it runs."""

    def __init__(self, stage: Stage, request: DownloadRequest, tmp_path: Path) -> None:
        super().__init__()
        puller.describe(tmp_path / "wanted", request, stage.state, stall_s=STALL_S, tells=True)
        self.process = puller.start(tmp_path / "wanted", stage.hub.endpoint)
        self.events: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self.events.append(json.loads(line))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.join()

    def progress(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == "progressed"]

    def states(self) -> set[str]:
        return {str(event["state"]) for event in self.events if event["type"] == "state_changed"}


@pytest.fixture
def told(stage: Stage, tmp_path: Path) -> Iterator[tuple[Told, DownloadRequest]]:
    request = stage.serve(SIZE)
    stage.hub.rate = RATE
    # As a server gives up on who no longer reads.
    stage.hub.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
    made = Told(stage, request, tmp_path)
    yield made, request
    made.end()


def test_sleep_for_longer_than_the_stall_limit_with_all_connections_gone(
    stage: Stage, told: tuple[Told, DownloadRequest]
) -> None:
    made, request = told
    wait_for(lambda: stage.hub.sent_bytes > 8 * units.MIB)
    made.process.send_signal(signal.SIGSTOP)
    asleep_at = time.monotonic()
    sleeper = psutil.Process(made.process.pid)
    wait_for(lambda: sleeper.status() == psutil.STATUS_STOPPED)
    wait_for(lambda: not stage.hub.pouring)
    stage.hub.generation += 1  # the signed addresses expire meanwhile
    before = len(made.events)
    wait_for(lambda: time.monotonic() - asleep_at > max(4 * STALL_S, GAP_S + 1))
    made.process.send_signal(signal.SIGCONT)
    assert made.process.wait(60) == 0
    made.join()
    stage.assert_right(request)
    window = CONNECTIONS * units.MIB  # what was on its way into closed connections
    assert stage.hub.sent_bytes <= SIZE + 2 * window
    assert_sane(made, before)
    assert made.states() <= {"queued", "resolving", "downloading", "waiting", "verifying", "done"}


def assert_sane(made: Told, before: int) -> None:
    """No figure falls, none is beyond what the connections can bring."""
    figures = made.progress()
    for old, new in itertools.pairwise(figures):
        assert new["written_bytes"] >= old["written_bytes"]
        assert new["hashed_bytes"] >= old["hashed_bytes"]
    # What the kernel had taken in before arrives at once.
    most = CONNECTIONS * (RATE + 2 * units.MIB)
    after = [e for e in made.events[before:] if e["type"] == "progressed"]
    assert after
    assert max(e["bytes_per_s"] for e in figures) < most
    honest_s = SIZE / (CONNECTIONS * RATE)
    assert all(e["remaining_s"] is None or e["remaining_s"] < 4 * honest_s for e in after)


def test_another_network_kills_the_connections_silently_and_the_address_is_another_one(
    stage: Stage, told: tuple[Told, DownloadRequest]
) -> None:
    made, request = told
    wait_for(lambda: stage.hub.sent_bytes > 4 * units.MIB)
    before = len(made.events)
    with faulty_hub() as elsewhere:
        moved_to(elsewhere, stage)
        assert made.process.wait(60) == 0
        made.join()
        assert elsewhere.sent_bytes > SIZE / 4
    stage.assert_right(request)
    assert_sane(made, before)


def moved_to(elsewhere: FaultyHub, stage: Stage) -> None:
    """The connections stall, and the Hub leads to another machine from now on."""
    elsewhere.files, elsewhere.rate = stage.hub.files, RATE
    stage.hub.generation += 1
    stage.hub.location = f"http://localhost:{elsewhere.server_port}/org/repo/file-0.bin?sig=0"
    stage.hub.always = Fault(stall_after=0)
    stage.hub.rate = 1  # running ones stand still, without a word


def test_after_sleep_speed_and_remaining_time_begin_anew() -> None:
    meter, now, received = Meter(), 100.0, 0

    def run(seconds: float, bytes_per_s: int) -> None:
        nonlocal now, received
        for _ in range(round(seconds * 5)):
            now += 0.2
            received += bytes_per_s // 5
            meter.add(now, received)

    run(30, 10_000_000)
    assert meter.remaining_s(1_000_000_000) == pytest.approx(100, rel=0.02)
    for asleep_s in (GAP_S + 0.1, AVERAGE_S - 5, 8 * 3600.0):
        now += asleep_s
        run(2, 10_000_000)
        assert meter.bytes_per_s() == pytest.approx(10_000_000, rel=0.05)
        assert meter.remaining_s(1_000_000_000) is None, "not known yet"
        run(HIDDEN_S + 1, 10_000_000)
        assert meter.remaining_s(1_000_000_000) == pytest.approx(100, rel=0.05)
