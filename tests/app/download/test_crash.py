"""kill -9, power cuts, damage on disk, other processes: what is on disk counts, and only that."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import signal
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import units
from app.download import journal, preflight
from app.download.hub_source import HubSource
from app.download.model import DownloadError, DownloadFile, DownloadRequest, Reason
from app.download.records import Records
from app.download.set_run import SetRun, only_writer
from app.download.transfer import Transfer
from app.errors import Cancelled
from tests.app.download.conftest import QUICK, Stage, wait_for
from tests.app.download.test_faults import run
from tests.helpers import puller
from tests.helpers.faulty_hub import Fault

SIZE = 24 * units.MIB + 12_345
SEGMENT = journal.SEGMENT_BYTES


def partial(stage: Stage, request: DownloadRequest, bytes_at_least: int) -> int:
    """Download a part and stop; returns the bytes that count."""
    stage.hub.rate = 20_000_000
    made = SetRun(request, Records(stage.state), timing=QUICK)

    def work() -> None:
        with contextlib.suppress(Cancelled):
            made.run()

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: made.progress().written_bytes >= bytes_at_least)
    made.halt()
    worker.join()
    stage.hub.rate = None
    wait_for(lambda: not stage.hub.pouring)
    return SetRun(request, Records(stage.state)).progress().written_bytes


def test_kill_9(stage: Stage, tmp_path: Path) -> None:
    request = stage.serve(16 * units.MIB, 16 * units.MIB, 8 * units.MIB + 77)
    stage.hub.rate = 4_000_000
    chance, kills, lost = random.Random(4), 0, 0
    while True:
        puller.describe(tmp_path / "wanted", request, stage.state, restored=kills > 0)
        before = stage.hub.sent_bytes
        kept = SetRun(request, Records(stage.state)).progress().written_bytes
        with puller.start(tmp_path / "wanted", stage.hub.endpoint) as process:
            if kills < 5:
                moment = before + request.size_bytes * chance.random() / 5
                wait_for(functools.partial(stage.hub.has_sent, moment))
                process.kill()
            code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        now = SetRun(request, Records(stage.state)).progress().written_bytes
        assert now >= kept
        wait_for(lambda: not stage.hub.pouring)
        loss = stage.hub.sent_bytes - before - (now - kept)
        assert loss <= 8 * units.MIB
        lost += loss
    assert kills == 5
    stage.assert_right(request)
    assert stage.hub.sent_bytes <= request.size_bytes + lost
    assert not list((stage.state / "jobs").iterdir())


def test_resume_fetches_the_rest_only(stage: Stage) -> None:
    request = stage.serve(SIZE)
    kept = partial(stage, request, 10 * units.MIB)
    sent = stage.hub.sent_bytes
    run(stage, request)
    assert stage.hub.sent_bytes - sent == SIZE - kept


def journal_of(stage: Stage, request: DownloadRequest) -> tuple[Path, Path]:
    target = request.target(request.files[0])
    return Records(stage.state).journal(target), preflight.part_of(target)


def test_a_torn_line_ends_the_record(stage: Stage) -> None:
    request = stage.serve(SIZE)
    partial(stage, request, 10 * units.MIB)
    record, _part = journal_of(stage, request)
    with record.open("ab") as stream:
        stream.write(b"3 0000")
    known = journal.read(record, request.commit, request.files[0])
    assert known is not None
    assert known.digests.get(3) != 0
    with record.open("ab") as stream:
        stream.write(b"\x00\x00\n5 00000000\n")
    assert journal.read(record, request.commit, request.files[0]) == known
    run(stage, request)


def test_a_commit_that_leaves_the_file_alone_costs_nothing(stage: Stage) -> None:
    request = stage.serve(SIZE)
    kept = partial(stage, request, 10 * units.MIB)
    stage.hub.revisions = {"main": "d" * 40}
    sent = stage.hub.sent_bytes
    run(stage, dataclasses.replace(request, commit="d" * 40))
    assert stage.hub.sent_bytes - sent == SIZE - kept


def test_without_a_digest_a_record_of_another_commit_is_of_no_use(tmp_path: Path) -> None:
    file = DownloadFile(path="a.bin", size_bytes=SEGMENT)
    journal.Journal(tmp_path / "journal", "c" * 40, file).close()
    assert journal.read(tmp_path / "journal", "c" * 40, file) is not None
    assert journal.read(tmp_path / "journal", "d" * 40, file) is None


def test_a_record_of_a_later_version_is_of_no_use(stage: Stage) -> None:
    request = stage.serve(SIZE)
    partial(stage, request, 10 * units.MIB)
    record, _part = journal_of(stage, request)
    text = record.read_text().replace('"version": 1', '"version": 99')
    record.write_text(text)
    assert journal.read(record, request.commit, request.files[0]) is None
    sent = stage.hub.sent_bytes
    run(stage, request)
    assert stage.hub.sent_bytes - sent == SIZE


def test_a_power_cut_costs_what_had_not_reached_the_disk(stage: Stage) -> None:
    """Segments that the record names, but whose data was lost, are told by their digest."""
    request = stage.serve(SIZE)
    kept = partial(stage, request, 10 * units.MIB)
    record, part = journal_of(stage, request)
    lines = record.read_text().splitlines()
    segments = [line for line in lines[1:] if not line.startswith("synced")]
    lost = [int(line.split()[0]) for line in segments[-2:]]
    record.write_text("\n".join([lines[0], *segments[:3], "synced 3", *segments[3:], ""]))
    with part.open("r+b") as stream:
        for index in lost:
            stream.seek(index * SEGMENT)
            stream.write(bytes(SEGMENT))
    sent = stage.hub.sent_bytes
    made = run(stage, request)
    assert stage.hub.sent_bytes - sent == SIZE - kept + 2 * SEGMENT
    assert made.progress().refetched_bytes == 0


def test_damage_in_a_part_costs_the_segment(stage: Stage) -> None:
    request = stage.serve(SIZE)
    kept = partial(stage, request, 10 * units.MIB)
    record, part = journal_of(stage, request)
    index = int(record.read_text().splitlines()[1].split()[0])
    flip(part, index * SEGMENT + 99)
    sent = stage.hub.sent_bytes
    made = run(stage, request)
    assert stage.hub.sent_bytes - sent == SIZE - kept + SEGMENT
    assert made.progress().refetched_bytes == SEGMENT


def test_damage_in_a_finished_file_costs_the_segment(stage: Stage) -> None:
    request = stage.serve(SIZE, units.MIB)
    run(stage, request)
    flip(request.target(request.files[0]), 5 * units.MIB + 7)
    sent = stage.hub.sent_bytes
    made = run(stage, request)
    assert stage.hub.sent_bytes - sent == SEGMENT
    assert made.progress().refetched_bytes == SEGMENT


def test_damage_while_it_is_downloaded_costs_the_segment(stage: Stage) -> None:
    """The hash has not come there yet, so that only the digests of receipt can tell."""
    request = stage.serve(SIZE)
    stage.hub.rate = 10_000_000
    target = request.target(request.files[0])
    made = SetRun(request, Records(stage.state), timing=QUICK)
    worker = threading.Thread(target=made.run)
    worker.start()
    wait_for(lambda: made.progress().written_bytes > 4 * units.MIB)
    record = Records(stage.state).journal(target)
    hashed = made.progress().hashed_bytes // SEGMENT
    lines = [line.split() for line in record.read_text().splitlines()[1:-1]]
    ahead = [int(line[0]) for line in lines if line[0].isdigit() and int(line[0]) > hashed + 2]
    flip(preflight.part_of(target), ahead[-1] * SEGMENT + 5)
    stage.hub.rate = None
    worker.join()
    stage.assert_right(request)
    assert made.progress().refetched_bytes == SEGMENT
    assert stage.hub.sent_bytes == SIZE + SEGMENT


def flip(path: Path, offset: int) -> None:
    """Another byte there."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def test_a_record_with_larger_segments_is_taken_on(stage: Stage) -> None:
    """As an earlier version may have written it."""
    request = stage.serve(SIZE)
    file = request.files[0]
    record, part = journal_of(stage, request)
    part.parent.mkdir(parents=True)
    data = (stage.source / "org/repo" / file.path).read_bytes()
    part.write_bytes(data[: 8 * units.MIB])
    digests = {i: zlib.crc32(data[i * 4 * units.MIB :][: 4 * units.MIB]) for i in range(2)}
    known = journal.Record(segment_bytes=4 * units.MIB, digests=digests)
    journal.Journal(record, request.commit, file, known).close()
    run(stage, request)
    assert stage.hub.sent_bytes == SIZE - 8 * units.MIB


def test_one_writer_for_each_file(stage: Stage) -> None:
    request = stage.serve(SIZE)
    with only_writer(Records(stage.state), request.target(request.files[0])):
        with pytest.raises(DownloadError) as caught:
            SetRun(request, Records(stage.state)).run()
        assert caught.value.reason is Reason.OTHER_PROCESS
    run(stage, request)


def test_the_files_of_a_new_commit_replace_the_old_ones_together(stage: Stage) -> None:
    old = stage.serve(SIZE, units.MIB)
    run(stage, old)
    stage.hub.revisions = {"main": "d" * 40}
    new = dataclasses.replace(stage.serve(SIZE, units.MIB, seed=50), commit="d" * 40)
    stage.hub.storage_faults = [None] * 8 + [Fault(status=404)] * 40
    with pytest.raises(DownloadError):
        SetRun(new, Records(stage.state), timing=QUICK).run()
    for file in old.files:
        assert old.target(file).stat().st_size == file.size_bytes
        assert Records(stage.state).verified.knows(old.target(file), file)
    stage.hub.storage_faults.clear()
    run(stage, new)


def test_a_set_that_lacks_a_shard_is_never_of_two_commits(stage: Stage) -> None:
    old = stage.serve(SIZE, units.MIB, units.MIB)
    run(stage, old)
    old.target(old.files[0]).unlink()
    stage.hub.revisions = {"main": "d" * 40}
    new = dataclasses.replace(stage.serve(SIZE, units.MIB, units.MIB, seed=50), commit="d" * 40)
    stage.hub.files.pop("org/repo/file-1.bin")
    with pytest.raises(DownloadError):
        SetRun(new, Records(stage.state), timing=QUICK).run()
    assert preflight.part_of(new.target(new.files[0])).exists()
    assert not new.target(new.files[0]).exists()
    for file in old.files[1:]:
        assert Records(stage.state).verified.knows(old.target(file), file)
    stage.hub.add("org/repo/file-1.bin", stage.source / "org/repo/file-1.bin")
    run(stage, new)


def test_transfer_is_cancelled_before_it_runs(stage: Stage) -> None:
    request = stage.serve(SIZE)
    record, part = journal_of(stage, request)
    source = HubSource(request.repo, request.commit, request.files[0], timing=QUICK)
    transfer = Transfer(request.files[0], part, record, request.commit, source)
    transfer.halt()
    with transfer.handle, pytest.raises(Cancelled):
        transfer.run()
    assert stage.hub.sent_bytes == 0


@contextlib.contextmanager
def running(stage: Stage, request: DownloadRequest) -> Iterator[SetRun]:
    """A run that has begun, and goes on slowly."""
    stage.hub.rate = 1_000_000
    made = SetRun(request, Records(stage.state), timing=QUICK)
    worker = threading.Thread(target=made.run)
    worker.start()
    try:
        wait_for(lambda: made.progress().written_bytes > 0)
        yield made
    finally:
        stage.hub.rate = None
        worker.join()


def second_writer(request: DownloadRequest, state: Path) -> Reason:
    with pytest.raises(DownloadError) as caught:
        SetRun(request, Records(state), timing=QUICK).run()
    return caught.value.reason


def test_one_writer_through_a_link_to_the_folder(stage: Stage, tmp_path: Path) -> None:
    request = stage.serve(8 * units.MIB)
    request.folder.mkdir()
    (tmp_path / "link").symlink_to(request.folder)
    linked = dataclasses.replace(request, folder=tmp_path / "link")
    records = Records(stage.state)
    target = request.target(request.files[0])
    assert records.journal(target) == records.journal(linked.target(linked.files[0]))
    with running(stage, request):
        assert second_writer(linked, stage.state) is Reason.OTHER_PROCESS
    stage.assert_right(request)
    assert stage.hub.sent_bytes == request.size_bytes


def test_one_writer_though_the_records_are_elsewhere(stage: Stage, tmp_path: Path) -> None:
    """Two homes of the app that share a folder of models."""
    request = stage.serve(8 * units.MIB)
    with running(stage, request):
        assert second_writer(request, tmp_path / "other") is Reason.OTHER_PROCESS
    stage.assert_right(request)
    assert stage.hub.sent_bytes == request.size_bytes


def test_a_part_that_was_swapped_gets_no_name(stage: Stage) -> None:
    request = stage.serve(8 * units.MIB)
    target = request.target(request.files[0])
    stage.hub.rate = 1_000_000
    made, errors = SetRun(request, Records(stage.state), timing=QUICK), list[Exception]()

    def work() -> None:
        try:
            made.run()
        except DownloadError as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: made.progress().written_bytes > 0)
    part = preflight.part_of(target)
    part.rename(part.with_name("moved"))
    part.write_bytes(bytes(8 * units.MIB))
    stage.hub.rate = None
    worker.join()
    assert [type(error) for error in errors] == [DownloadError]
    assert not target.exists()
