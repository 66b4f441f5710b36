"""Every fault of a network or server, with the bytes fetched again counted by the server."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time

import pytest

from app import units
from app.download.model import DownloadError, DownloadRequest, Reason
from app.download.records import Records
from app.download.set_run import SetRun
from app.errors import Cancelled, ErrorKind
from tests.app.download.conftest import QUICK, Stage, wait_for
from tests.helpers.faulty_hub import Fault

SIZE = 24 * units.MIB + 12_345


def run(stage: Stage, request: DownloadRequest, connections: int = 4) -> SetRun:
    made = SetRun(request, Records(stage.state), connections=connections, timing=QUICK)
    made.run()
    stage.assert_right(request)
    return made


def refused(stage: Stage, request: DownloadRequest) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        SetRun(request, Records(stage.state), timing=QUICK).run()
    assert caught.value.hint
    return caught.value


def until_halted(made: SetRun) -> None:
    with contextlib.suppress(Cancelled):
        made.run()


def test_a_set_arrives_with_nothing_fetched_twice(stage: Stage) -> None:
    request = stage.serve(SIZE, 0, 1, units.MIB, 3 * units.MIB)
    made = run(stage, request)
    assert stage.hub.sent_bytes == request.size_bytes
    assert stage.hub.resolves == 4  # one for each file that is not empty
    assert made.progress().verified_files == 5
    assert made.progress().refetched_bytes == 0


@pytest.mark.parametrize(
    ("fault", "most_again"),
    [
        (Fault(cut_after=700_000), 0),
        (Fault(cut_after=0), 0),
        (Fault(cut_after=700_000, reset=True), 2 * units.MIB),  # what the kernel held is lost
        (Fault(status=500), 0),
        (Fault(status=503), 0),
        (Fault(status=429, headers=(("Retry-After", "0"),)), 0),
        (Fault(status=408), 0),
        (Fault(stall_after=700_000), 0),
        (Fault(whole=True), units.GIB),
        (Fault(moved=1), units.GIB),
        (Fault(short=1000), units.GIB),
        (Fault(squeezed=True), 0),
        (Fault(status=302, headers=(("Location", "/nowhere"),)), 0),
    ],
)
def test_faults_that_pass(stage: Stage, fault: Fault, most_again: int) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [None, fault, None, fault]
    made = run(stage, request)
    assert stage.hub.sent_bytes - SIZE <= most_again
    assert made.progress().refetched_bytes == 0
    assert made.progress().retries >= 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_busy(stage: Stage, status: int) -> None:
    request = stage.serve(SIZE)
    stage.hub.resolve_faults = [Fault(status=status), Fault(status=status)]
    run(stage, request)
    assert stage.hub.sent_bytes == SIZE


def test_retry_after_is_kept(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [Fault(status=429, headers=(("Retry-After", "1"),))]
    begun = time.monotonic()
    run(stage, request, connections=1)
    assert time.monotonic() - begun >= 1.0


def test_an_expired_address_is_asked_for_again(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 20_000_000
    worker = threading.Thread(target=lambda: run(stage, request))
    worker.start()
    wait_for(lambda: stage.hub.sent_bytes > 4_000_000)
    stage.hub.generation += 1
    stage.hub.storage_faults = [Fault(cut_after=100_000)] * 4
    worker.join()
    stage.assert_right(request)
    assert stage.hub.resolves == 2


def test_an_address_that_is_never_let_in_is_the_end(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.always = Fault(status=403)
    assert refused(stage, request).reason is Reason.BAD_SERVER
    assert stage.hub.storage_requests <= 20, "four connections, five addresses"


def test_a_wrong_byte_costs_the_file_once_more(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [Fault(flip_at=1_234_567)] * 2
    made = run(stage, request, connections=1)
    assert made.progress().refetched_bytes == SIZE
    assert stage.hub.sent_bytes == 2 * SIZE


def test_bytes_from_elsewhere_are_found(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [Fault(shift=4096)]
    run(stage, request)


def test_bytes_that_are_always_wrong_are_the_end(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.always = Fault(flip_at=1_234_567)
    error = refused(stage, request)
    assert (error.reason, error.kind) == (Reason.DAMAGED, ErrorKind.MODEL_FILE)
    assert stage.hub.sent_bytes == 2 * SIZE
    assert not request.target(request.files[0]).exists()


def test_a_server_without_ranges(stage: Stage) -> None:
    request = stage.serve(SIZE, units.MIB)
    stage.hub.always = Fault(whole=True)
    run(stage, request)


@pytest.mark.parametrize("fault", [Fault(etag='"other"'), Fault(size=SIZE + 1)])
def test_another_file_under_the_same_name_is_the_end(stage: Stage, fault: Fault) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [None, None, fault]
    assert refused(stage, request).reason is Reason.CHANGED
    assert not request.target(request.files[0]).exists()


def test_another_size_or_commit_on_the_hub_is_the_end(stage: Stage) -> None:
    request = stage.serve(SIZE)
    wrong = dataclasses.replace(request.files[0], size_bytes=SIZE - 1)
    assert refused(stage, dataclasses.replace(request, files=(wrong,))).reason is Reason.CHANGED
    wrong = dataclasses.replace(request.files[0], sha256="0" * 64)
    assert refused(stage, dataclasses.replace(request, files=(wrong,))).reason is Reason.CHANGED
    stage.hub.revisions = {request.commit: "d" * 40}
    assert refused(stage, request).reason is Reason.CHANGED
    assert stage.hub.sent_bytes == 0


def test_a_file_that_is_gone(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.files.clear()
    assert refused(stage, request).reason is Reason.NOT_FOUND


def test_a_gated_file_needs_the_token_which_the_storage_never_sees(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(SIZE)
    stage.hub.token = "hf_secret"
    error = refused(stage, request)
    assert error.reason is Reason.NEEDS_LOGIN
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run(stage, request)
    assert all(r.token is None for r in stage.hub.requests if r.host == "localhost")
    assert any(r.token for r in stage.hub.requests)


def test_an_outage_is_waited_for(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 20_000_000
    made = SetRun(request, Records(stage.state), timing=QUICK)
    worker = threading.Thread(target=made.run)
    worker.start()
    wait_for(lambda: stage.hub.sent_bytes > 5_000_000)
    stage.hub.outage.set()
    wait_for(lambda: made.phase()[0] == "waiting")
    before = made.progress().written_bytes
    wait_for(lambda: made.progress().retries >= 12)
    assert made.progress().written_bytes >= before
    stage.hub.outage.clear()
    worker.join()
    stage.assert_right(request)
    assert stage.hub.sent_bytes - SIZE <= 8 * units.MIB


def test_dead_for_good_keeps_what_there_is_until_it_is_stopped(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.rate = 20_000_000
    made = SetRun(request, Records(stage.state), timing=QUICK)
    worker = threading.Thread(target=until_halted, args=(made,))
    worker.start()
    wait_for(lambda: made.progress().written_bytes > 5_000_000)
    stage.hub.outage.set()
    wait_for(lambda: made.progress().retries >= 12)
    made.halt()
    worker.join()
    stage.hub.outage.clear()
    kept = SetRun(request, Records(stage.state)).progress().written_bytes
    assert kept >= 5_000_000
    sent = stage.hub.sent_bytes
    run(stage, request)
    assert stage.hub.sent_bytes - sent == SIZE - kept


def test_484_reconnects(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [Fault(cut_after=20_000)] * 484
    made = run(stage, request)
    assert made.progress().retries >= 484
    assert stage.hub.sent_bytes == SIZE
    assert stage.hub.resolves == 1


def test_a_stalled_connection_is_replaced(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.storage_faults = [Fault(stall_after=100_000)] * 4
    begun = time.monotonic()
    run(stage, request)
    assert QUICK.stall_s <= time.monotonic() - begun < 10 * QUICK.stall_s
    assert stage.hub.sent_bytes == SIZE


def test_nonsense_without_end_is_the_end(stage: Stage) -> None:
    request = stage.serve(SIZE)
    stage.hub.always = Fault(squeezed=True)
    assert refused(stage, request).reason is Reason.BAD_SERVER


@pytest.mark.parametrize("location", ["ftp://localhost/file", "file:///etc/passwd"])
def test_hostile_redirects(stage: Stage, location: str) -> None:
    request = stage.serve(SIZE)
    stage.hub.location = location
    assert refused(stage, request).reason is Reason.BAD_SERVER
    stage.hub.location = None
    stage.hub.always = Fault(status=302, headers=(("Location", location),))
    assert refused(stage, request).reason is Reason.BAD_SERVER


def test_redirects_in_a_circle(stage: Stage) -> None:
    request = stage.serve(SIZE)
    circle = f"http://localhost:{stage.hub.server_port}/org/repo/file-0.bin?sig=0"
    stage.hub.always = Fault(status=302, headers=(("Location", circle),))
    assert refused(stage, request).reason is Reason.BAD_SERVER


def test_a_small_file_has_gits_own_checksum(stage: Stage) -> None:
    request = stage.serve(300)
    data = (stage.source / "org/repo/file-0.bin").read_bytes()
    oid = hashlib.sha1(b"blob 300\0" + data).hexdigest()
    file = dataclasses.replace(request.files[0], sha256=None, git_oid=oid)
    request = dataclasses.replace(request, files=(file,))
    SetRun(request, Records(stage.state), timing=QUICK).run()
    assert request.target(file).read_bytes() == data
    wrong = dataclasses.replace(file, git_oid="0" * 40)
    request.target(file).unlink()
    assert refused(stage, dataclasses.replace(request, files=(wrong,))).reason is Reason.DAMAGED
