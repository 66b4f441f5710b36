"""The queue: order, pause, limits, hours, disks, restarts, and what is told."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import threading
import time
import zlib
from pathlib import Path

import pytest

from app import units
from app.download import preflight
from app.download.manager import Hours
from app.download.model import (
    DownloadProgressed,
    DownloadRemoved,
    DownloadState,
    FileVerified,
    Reason,
    UpdateFound,
)
from app.download.records import Records
from tests.app.download.conftest import Log, Make, Stage, make_file, reach, state_of, wait_for
from tests.helpers.faulty_hub import Fault
from tests.helpers.hub import COMMIT

SIZE = 8 * units.MIB
State = DownloadState


def moment(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.UTC)  # type: ignore[arg-type,misc]


def test_a_download_from_beginning_to_end(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE, SIZE)
    manager = make()
    id = manager.add(request)
    done = reach(manager, id, State.DONE)
    assert done.progress.verified_files == 2
    assert done.progress.written_bytes == done.progress.hashed_bytes == request.size_bytes
    stage.assert_right(request)
    wait_for(lambda: log.states(id)[-1:] == [State.DONE])
    assert log.states(id)[0] in (State.QUEUED, State.RESOLVING)
    assert [e.path for e in log.events if isinstance(e, FileVerified)] == [
        request.target(file) for file in request.files
    ]
    log.assert_never_back(id)
    assert not list((stage.state / "jobs").glob("*"))


def test_pause_acts_at_once_and_resume_goes_on(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 1_000_000
    manager = make()
    id = manager.add(request)
    wait_for(lambda: stage.hub.sent_bytes > 1_500_000)
    begun = time.monotonic()
    manager.pause(id)
    reach(manager, id, State.PAUSED)
    assert time.monotonic() - begun < 1.0
    wait_for(lambda: not any(t.name.startswith("download-fetch") for t in threading.enumerate()))
    wait_for(lambda: not stage.hub.pouring)
    kept = manager.downloads()[0].progress.written_bytes
    stage.hub.rate = None
    sent = stage.hub.sent_bytes
    manager.resume(id)
    reach(manager, id, State.DONE)
    assert stage.hub.sent_bytes - sent <= SIZE - kept
    log.assert_never_back(id)
    stage.assert_right(request)


def test_the_queue_outlives_the_process(stage: Stage, log: Log, make: Make) -> None:
    running = stage.serve(SIZE)
    paused = dataclasses.replace(stage.serve(SIZE, repo="org/second"), priority=-1)
    stage.hub.rate = 1_000_000
    first = make()
    ids = [first.add(running), first.add(paused)]
    first.pause(ids[1])
    wait_for(lambda: first.downloads()[0].progress.written_bytes > 0)
    first.close()
    stage.hub.rate = None
    second = make()
    assert [d.id for d in second.downloads()] == ids
    assert second.downloads()[0].progress.written_bytes > 0
    reach(second, ids[0], State.DONE)
    assert state_of(second, ids[1]) is State.PAUSED
    second.discard(ids[1])
    wait_for(lambda: DownloadRemoved(id=ids[1]) in log.events)
    stage.assert_right(running)
    third = make()
    assert third.downloads() == ()


def test_a_damaged_queue_file_is_set_aside(
    stage: Stage, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    request = stage.serve(SIZE)
    first = make(hours=Hours(start=datetime.time(3), end=datetime.time(3)))
    id = first.add(request)
    first.close()
    path = stage.state / "jobs" / f"{id}.json"
    evil = json.loads(path.read_text())
    evil["files"][0]["path"] = "../../evil"
    path.write_text(json.dumps(evil))
    (stage.state / "jobs" / "other.json").write_text("{")
    assert make().downloads() == ()
    assert path.with_suffix(".broken").exists()


def test_higher_priority_goes_first(stage: Stage, log: Log, make: Make) -> None:
    slow = stage.serve(SIZE, repo="org/slow")
    urgent = dataclasses.replace(stage.serve(units.MIB, repo="org/urgent"), priority=5)
    stage.hub.rate = 1_000_000
    manager = make()
    first = manager.add(slow)
    wait_for(lambda: stage.hub.sent_bytes > 500_000)
    second = manager.add(urgent)
    reach(manager, second, State.DONE)
    assert state_of(manager, first) is not State.DONE
    stage.hub.rate = None
    reach(manager, first, State.DONE)
    assert manager.downloads()[0].id == second


def test_one_set_at_a_time_on_a_disk_and_all_disks_at_once(
    stage: Stage, make: Make, tmp_path: Path
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    elsewhere = other / f"ultra-launcher-{tmp_path.name}-{time.monotonic_ns()}"
    try:
        here = [stage.serve(SIZE, repo=f"org/r{n}") for n in range(2)]
        there = dataclasses.replace(stage.serve(SIZE, repo="org/there"), folder=elsewhere)
        stage.hub.rate = 500_000
        manager = make()
        ids = [manager.add(request) for request in (*here, there)]
        reach(manager, ids[2], State.DOWNLOADING)
        reach(manager, ids[0], State.DOWNLOADING)
        assert state_of(manager, ids[1]) is State.QUEUED
        stage.hub.rate = None
        for id in ids:
            reach(manager, id, State.DONE)
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def test_the_limit_can_change_while_it_runs(stage: Stage, make: Make) -> None:
    request = stage.serve(SIZE)
    manager = make(bytes_per_s=1_000_000)
    begun = time.monotonic()
    id = manager.add(request)
    wait_for(lambda: manager.downloads()[0].progress.written_bytes >= 2 * units.MIB)
    spent = time.monotonic() - begun
    assert spent > 1.4
    manager.change_limit(None)
    reach(manager, id, State.DONE)
    assert time.monotonic() - begun - spent < 5


def test_hours(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    now = [moment(2026, 1, 1, 12, 0)]
    night = Hours(start=datetime.time(22), end=datetime.time(6))
    assert night.include(moment(2026, 1, 1, 23, 0))
    assert night.include(moment(2026, 1, 1, 5, 59))
    assert not night.include(moment(2026, 1, 1, 6, 0))
    manager = make(hours=night, clock=lambda: now[0])
    id = manager.add(request)
    wait_for(lambda: manager.downloads()[0].reason is Reason.SCHEDULE)
    assert stage.hub.sent_bytes == 0
    stage.hub.rate = 1_000_000
    now[0] = moment(2026, 1, 1, 22, 0)
    reach(manager, id, State.DOWNLOADING)
    now[0] = moment(2026, 1, 2, 6, 0)
    wait_for(lambda: manager.downloads()[0].reason is Reason.SCHEDULE)
    stage.hub.rate = None
    manager.change_hours(None)
    reach(manager, id, State.DONE)
    log.assert_never_back(id)


def test_waiting_tells_when_it_tries_again(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    stage.hub.resolve_faults = [Fault(status=503, headers=(("Retry-After", "1"),))]
    manager = make()
    id = manager.add(request)
    waiting = reach(manager, id, State.WAITING)
    assert waiting.reason is Reason.BUSY_SERVER
    assert waiting.retry_in_s is not None
    reach(manager, id, State.DONE)


def test_a_login_that_is_needed_can_be_given_later(
    stage: Stage, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(SIZE)
    stage.hub.token = "hf_secret"
    manager = make()
    id = manager.add(request)
    halted = reach(manager, id, State.NEEDS_LOGIN)
    assert halted.error is not None
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    manager.resume(id)
    reach(manager, id, State.DONE)


def test_a_moved_branch_is_told_and_never_mixed(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    manager = make(latest_commit=lambda repo, revision: "d" * 40)
    id = manager.add(request)
    reach(manager, id, State.DONE)
    wait_for(lambda: UpdateFound(id=id, commit="d" * 40) in log.events)
    assert all("d" * 40 not in r.path for r in stage.hub.requests)


def test_a_copy_is_taken_from_a_folder(stage: Stage, make: Make, tmp_path: Path) -> None:
    request = stage.serve(SIZE, units.MIB)
    copy = dataclasses.replace(request, source=stage.source)
    manager = make()
    id = manager.add(copy)
    reach(manager, id, State.DONE)
    stage.assert_right(request)
    assert not stage.hub.requests


def test_a_copy_that_is_another_file_is_refused(stage: Stage, make: Make) -> None:
    request = dataclasses.replace(stage.serve(SIZE), source=stage.source)
    make_file(stage.source / "org/repo/file-0.bin", SIZE, seed=77)
    manager = make()
    id = manager.add(request)
    assert reach(manager, id, State.FAILED).reason is Reason.DAMAGED
    (stage.source / "org/repo/file-0.bin").unlink()
    manager.resume(id)
    wait_for(lambda: manager.downloads()[0].reason is Reason.NOT_FOUND)


def test_discard_leaves_nothing(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 1_000_000
    manager = make()
    id = manager.add(request)
    wait_for(lambda: manager.downloads()[0].progress.written_bytes > units.MIB)
    manager.discard(id)
    wait_for(lambda: manager.downloads() == ())
    assert not list(request.folder.rglob("*"))
    assert not list((stage.state / "journals").glob("*"))


def test_a_second_manager_leaves_the_same_files_alone(stage: Stage, make: Make) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 1_000_000
    first = make()
    id = first.add(request)
    wait_for(lambda: stage.hub.sent_bytes > 500_000)
    second = make(restore=False)
    second.add(request)
    halted = reach(second, id, State.PAUSED)
    assert halted.reason is Reason.OTHER_PROCESS
    stage.hub.rate = None
    reach(first, id, State.DONE)
    second.resume(id)
    reach(second, id, State.DONE)
    assert stage.hub.sent_bytes == SIZE


def test_the_same_request_twice_is_one_download(stage: Stage, make: Make) -> None:
    request = stage.serve(SIZE)
    manager = make()
    assert manager.add(request) == manager.add(request)
    assert len(manager.downloads()) == 1
    reach(manager, request.id, State.DONE)


def test_a_full_disk_is_told_before_the_first_byte(
    stage: Stage, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(SIZE)
    usage = shutil.disk_usage(stage.source)
    monkeypatch.setattr(
        "app.download.preflight.shutil.disk_usage", lambda _p: usage._replace(free=units.GIB)
    )
    manager = make()
    id = manager.add(request)
    halted = reach(manager, id, State.NO_SPACE)
    assert halted.error is not None
    assert "free" in halted.error.detail
    assert stage.hub.sent_bytes == 0
    monkeypatch.undo()


def test_figures_come_a_few_times_a_second(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(8 * SIZE)
    stage.hub.rate = 1_000_000
    manager = make()
    begun = time.monotonic()
    id = manager.add(request)
    reach(manager, id, State.DONE)
    told = sum(isinstance(event, DownloadProgressed) for event in log.events)
    assert told <= 8 * (time.monotonic() - begun) + 8


def test_the_queue_of_another_version_of_the_app_is_taken_on(stage: Stage, make: Make) -> None:
    """Its files letter by letter as the first version wrote them, and one field of a later one."""
    request = stage.serve(3 * units.MIB + 5)
    (file,) = request.files
    data = (stage.source / "org/repo" / file.path).read_bytes()
    part = preflight.part_of(request.target(file))
    part.parent.mkdir(parents=True)
    part.write_bytes(data[: units.MIB] + bytes(2 * units.MIB + 5))
    job = {
        "version": 1, "wish": "run", "order": 1, "repo": "org/repo", "revision": "main",
        "commit": COMMIT, "folder": str(stage.folder), "priority": 0, "source": None,
        "files": [{"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256,
                   "git_oid": None}],
        "of_a_later_version": {"nobody": "knows"},
    }  # fmt: skip
    jobs_folder = stage.state / "jobs"
    jobs_folder.mkdir(parents=True)
    (jobs_folder / f"{request.id}.json").write_text(json.dumps(job))
    record = Records(stage.state).journal(request.target(file))
    record.parent.mkdir(parents=True)
    record.write_text(
        f'{{"path": "{file.path}", "commit": "{COMMIT}", "size_bytes": {file.size_bytes}, '
        f'"digest": "{file.sha256}", "version": 1, "segment_bytes": {units.MIB}}}\n'
        f"0 {zlib.crc32(data[: units.MIB]):08x}\nsynced 1\n"
    )
    manager = make()
    reach(manager, request.id, State.DONE)
    stage.assert_right(request)
    assert stage.hub.sent_bytes == 2 * units.MIB + 5
