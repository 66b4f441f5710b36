"""Threads of the service, and how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.engine.supervisor import EngineSupervisor
from app.events import AppEvent, OperationFailed
from app.service.downloads import DownloadService
from app.service.files import ModelFiles
from app.service.jobs import Worker
from app.service.models import ModelService
from app.service.service import AppService


def test_jobs_run_one_after_the_other_and_close_drops_what_waits() -> None:
    told: list[AppEvent] = []
    worker, ran = Worker("test", told.append), list[int]()
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        ran.append(1)
        begun.set()
        assert go_on.wait(20)
        raise ValueError("told")

    worker.submit(first)
    worker.submit(lambda: ran.append(2))
    assert begun.wait(20)
    threading.Timer(0.1, go_on.set).start()
    worker.close()
    worker.submit(lambda: ran.append(3))
    assert ran == [1]
    assert [type(event) for event in told] == [OperationFailed]
    assert "test" not in {thread.name for thread in threading.enumerate()}


def test_close_leaves_what_hangs_to_itself() -> None:
    worker, go_on, ended = Worker("test", lambda _event: None), threading.Event(), threading.Event()

    started = threading.Event()

    def hang() -> None:
        started.set()
        go_on.wait(20)
        ended.set()

    worker.submit(hang)
    assert started.wait(20)
    begun = time.monotonic()
    worker.close(0.2)
    assert time.monotonic() - begun < 5
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(20)


def test_a_check_that_waits_for_a_hub_that_hangs_does_not_hold_up_the_end() -> None:
    service, begun, go_on = AppService(), threading.Event(), threading.Event()

    def ask() -> None:
        begun.set()
        go_on.wait(60)

    service.files._checks.submit(ask)
    assert begun.wait(20)
    start = time.monotonic()
    service.close()
    assert time.monotonic() - start < 20
    go_on.set()


def test_downloads_and_engine_end_before_what_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    service, order = AppService(), list[str]()
    for kind in (ModelFiles, ModelService, DownloadService, EngineSupervisor):
        monkeypatch.setattr(kind, "close", noting(order, kind, kind.close))
    service.close()
    assert order == ["DownloadService", "EngineSupervisor", "ModelFiles", "ModelService"]


def noting(order: list[str], kind: type, close: Callable[[Any], None]) -> Callable[[Any], None]:
    """`close`, which writes down that it was called."""

    def noted(part: object) -> None:
        order.append(kind.__name__)
        close(part)

    return noted
