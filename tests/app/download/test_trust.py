"""What a server, a proxy or a copy says that cannot be right, and what the queue makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import urllib3

from app import units
from app.download import preflight, text
from app.download.hub_source import HubSource
from app.download.jobs import Job
from app.download.limiter import Limiter
from app.download.model import (
    DownloadError,
    DownloadEvent,
    DownloadRemoved,
    DownloadState,
    FileVerified,
    Reason,
)
from app.download.records import Records
from app.download.set_run import SetRun
from app.download.source import FolderSource, TransientError
from app.errors import Cancelled
from tests.app.download.conftest import QUICK, Log, Make, Stage, reach, wait_for
from tests.helpers.faulty_hub import Fault

SIZE = 4 * units.MIB
State = DownloadState


@pytest.mark.parametrize("published", [True, False])
def test_a_file_without_a_digest_is_called_verified_only_by_the_hubs(
    stage: Stage, log: Log, make: Make, published: bool
) -> None:
    request = stage.serve(SIZE)
    file = dataclasses.replace(request.files[0], sha256=None)
    bare = dataclasses.replace(request, files=(file,))
    stage.hub.faults.linked_etag = None if published else "of-its-own"
    target = request.target(file)
    target.parent.mkdir(parents=True)
    target.write_bytes(bytes(SIZE))  # of the right size, and nothing else
    manager = make()
    id = manager.add(bare)
    done = reach(manager, id, State.DONE)
    stage.assert_right(request)
    assert done.progress.verified_files == published
    words = "complete, not checked (no checksum published)"
    assert (text.describe(done) == words) is not published
    assert text.ended(done).endswith(words) is not published
    told = [event for event in log.events if isinstance(event, FileVerified)]
    assert len(told) == published
    assert manager.records.verified.knows(target, request.files[0]) is published


@pytest.mark.parametrize(
    "header",
    [
        ("Retry-After", "9" * 300),
        ("Retry-After", "9" * 400),
        ("RateLimit", f'"api";r=0;t={"9" * 300}'),
        ("Retry-After", "9" * 5000),
    ],
)
def test_no_server_makes_it_wait_for_ever(
    stage: Stage, make: Make, header: tuple[str, str]
) -> None:
    request = stage.serve(SIZE)
    stage.hub.resolve_faults = [Fault(status=429, headers=(header,))] * 2
    manager = make()
    id = manager.add(request)
    waiting = reach(manager, id, State.WAITING)
    assert waiting.retry_in_s is not None
    assert 500 < waiting.retry_in_s <= 600
    manager.discard(id)
    wait_for(lambda: manager.downloads() == ())


def test_a_download_that_breaks_the_queue_leaves_the_others_alone(
    stage: Stage, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = stage.serve(SIZE, repo="org/bad"), stage.serve(SIZE, repo="org/good")
    news = Job.news

    def broken(job: Job) -> list[DownloadEvent]:
        if job.request.repo == "org/bad":
            raise ValueError("a figure that makes no sense")
        return news(job)

    monkeypatch.setattr(Job, "news", broken)
    manager = make()
    manager.add(bad)
    reach(manager, manager.add(good), State.DONE)
    assert "org/bad" in caplog.text


def test_a_token_that_cannot_be_one_asks_for_another(
    stage: Stage, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(SIZE)
    monkeypatch.setenv("HF_TOKEN", "hf_with space")
    manager = make()
    id = manager.add(request)
    halted = reach(manager, id, State.NEEDS_LOGIN)
    assert halted.error is not None
    assert "no token of the Hub" in halted.error.title
    assert "HF_TOKEN" in halted.error.hint
    monkeypatch.delenv("HF_TOKEN")
    manager.resume(id)
    reach(manager, id, State.DONE)


def test_only_what_was_removed_is_told_as_removed(stage: Stage, log: Log, make: Make) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 500_000
    manager = make()
    id = manager.add(request)
    reach(manager, id, State.DOWNLOADING)
    manager.remove(id)
    assert [download.id for download in manager.downloads()] == [id]
    assert DownloadRemoved(id=id) not in log.events
    stage.hub.rate = None
    reach(manager, id, State.DONE)
    manager.remove(id)
    wait_for(lambda: DownloadRemoved(id=id) in log.events)


def test_a_higher_limit_does_not_pay_for_the_old_one() -> None:
    limiter, stop = Limiter(1000), threading.Event()
    debtor = threading.Thread(target=limiter.take, args=(1_000_000, stop))
    debtor.start()
    wait_for(lambda: limiter._credit < 0)
    begun = time.monotonic()
    limiter.change(2000)
    limiter.take(1000, stop)
    assert time.monotonic() - begun < 10
    stop.set()
    limiter.wake()
    debtor.join()


def test_a_halt_is_not_kept_waiting_by_those_who_queue_for_an_address(stage: Stage) -> None:
    """One question runs into its time limit; those behind it are not asked any more."""
    request = stage.serve(SIZE)
    stage.hub.latency_s = 60
    made = SetRun(request, Records(stage.state), connections=8, timing=QUICK)

    def work() -> None:
        with contextlib.suppress(Cancelled):
            made.run()

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: "download-fetch-7" in {thread.name for thread in threading.enumerate()})
    begun = time.monotonic()
    made.halt()
    worker.join()
    assert time.monotonic() - begun < 3 * QUICK.stall_s


@pytest.mark.parametrize("digits", ["9" * 5000, "\u0663"])
def test_numbers_that_are_none(stage: Stage, digits: str) -> None:
    request = stage.serve(SIZE)
    source = HubSource(request.repo, request.commit, request.files[0], timing=QUICK)
    reply = urllib3.HTTPResponse(
        status=206, headers={"Content-Range": f"bytes 0-{digits}/{digits}"}, preload_content=False
    )
    with pytest.raises(TransientError, match="no Content-Range"):
        source._check(reply, stage.hub.endpoint, 0, SIZE)


def test_a_link_in_the_place_of_the_probe_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    request = stage.serve(SIZE)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    place = request.target(request.files[0]).parent
    place.mkdir(parents=True)
    for name in (".write-probe", ".write-probe-renamed"):
        (place / name).symlink_to(precious)
    preflight.check_disk(request, request.files)
    assert precious.read_text() == "mine"
    assert {path.name for path in place.iterdir()} <= {".write-probe", ".write-probe-renamed"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EACCES, DownloadError), (errno.EIO, TransientError), (errno.ESTALE, TransientError)],
)
def test_a_copy_that_may_not_be_read_is_not_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    request = stage.serve(SIZE)
    source = FolderSource(stage.source / "org/repo/file-0.bin", request.files[0])

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(kind):
        source.open(0, SIZE)


def test_a_slow_question_for_an_update_holds_up_neither_download_nor_close(
    stage: Stage, make: Make
) -> None:
    answer = threading.Event()

    def ask(_repo: str, commit: str) -> str:
        assert answer.wait(60)
        return commit

    manager = make(latest_commit=ask)
    try:
        reach(manager, manager.add(stage.serve(SIZE)), State.DONE)
        begun = time.monotonic()
        manager.close()
        assert time.monotonic() - begun < 3
    finally:
        answer.set()


def test_other_files_of_the_right_size_do_not_count_as_there(
    stage: Stage, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(SIZE, SIZE)
    target = request.target(request.files[0])
    target.parent.mkdir(parents=True)
    shutil.copy(stage.source / "org/repo/file-1.bin", request.target(request.files[1]))
    target.write_bytes(bytes(SIZE))
    usage = shutil.disk_usage(stage.source)
    monkeypatch.setattr(
        "app.download.preflight.shutil.disk_usage",
        lambda _place: usage._replace(free=units.GIB + SIZE - 1),
    )
    manager = make()
    id = manager.add(request)
    halted = reach(manager, id, State.NO_SPACE)
    assert halted.error is not None
    assert units.format_file_size(SIZE) in halted.error.detail, "the other file is right"
    assert stage.hub.sent_bytes == 0
    monkeypatch.undo()


def test_the_hubs_digest_is_compared_where_the_list_has_none(stage: Stage, make: Make) -> None:
    request = stage.serve(SIZE)
    file = dataclasses.replace(request.files[0], sha256=None)
    stage.hub.faults.linked_etag = "0" * 64
    manager = make()
    id = manager.add(dataclasses.replace(request, files=(file,)))
    assert reach(manager, id, State.FAILED).reason is Reason.DAMAGED
    assert not request.target(file).exists()


@pytest.mark.parametrize("right", [True, False])
def test_a_git_id_of_the_hub_proves_a_file_that_no_list_tells_a_digest_of(
    stage: Stage, log: Log, make: Make, right: bool
) -> None:
    request = stage.serve(SIZE)
    data = (stage.source / "org" / "repo" / "file-0.bin").read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    file = dataclasses.replace(request.files[0], sha256=None)
    stage.hub.faults.linked_etag = oid if right else "0" * 40
    manager = make()
    id = manager.add(dataclasses.replace(request, files=(file,)))
    if right:
        done = reach(manager, id, State.DONE)
        stage.assert_right(request)
        assert done.progress.verified_files == 1
        assert text.describe(done) == "done"
        assert [e for e in log.events if isinstance(e, FileVerified)]
        kept = manager.records.verified.last(request.target(file))
        assert kept is not None
        assert kept.git_oid == oid
    else:
        assert reach(manager, id, State.FAILED).reason is Reason.DAMAGED
        assert not request.target(file).exists()
        sent = stage.hub.sent_bytes
        stage.hub.faults.linked_etag = oid
        manager.resume(id)
        reach(manager, id, State.DONE)
        assert stage.hub.sent_bytes - sent >= SIZE, "nothing of what was damaged is taken on"
        stage.assert_right(request)
