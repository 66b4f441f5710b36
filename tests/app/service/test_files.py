"""Models on disk through the service: where they go, verify, mend, delete, on the real queue."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.catalog import repository
from app.catalog.library import LocalModel, State
from app.catalog.places import Origin
from app.catalog.repository import FileSet, named_sets
from app.download.model import DownloadFile, DownloadRemoved, DownloadState, DownloadStateChanged
from app.events import (
    FoldersMeasured,
    LibraryScanned,
    ModelDeleted,
    ModelVerified,
    OperationFailed,
)
from app.service import AppService
from app.service.files import targets
from tests.app.download.conftest import QUICK, Stage, stage
from tests.app.download.test_crash import flip
from tests.app.download.test_pull import model
from tests.app.service.test_models import Log

__all__ = ["model", "stage"]


@dataclasses.dataclass(slots=True)
class Desk:
    """The service with its queue, and what it says."""

    service: AppService
    log: Log
    stage: Stage

    def found(self, kind: str = "Q4_1") -> FileSet:
        return named_sets(repository.read_snapshot("org/model"))[kind]

    def get(
        self, kind: str = "Q4_1", folder: Path | None = None, source: Path | None = None
    ) -> LocalModel:
        """Download a set; returns it as it is found on disk."""
        self.service.downloads.enqueue(self.found(kind), "main", folder=folder, source=source)
        done = self.log.wait(
            DownloadStateChanged,
            lambda event: event.download.state in (DownloadState.DONE, DownloadState.FAILED),
        ).download
        assert done.state is DownloadState.DONE, done.error
        return self.local(done.request.target(done.request.files[0]))

    def local(self, path: Path) -> LocalModel:
        def here(event: LibraryScanned) -> bool:
            return any(path in m.files for m in event.library.models)

        library = self.log.wait(LibraryScanned, here).library
        return next(m for m in library.models if path in m.files)

    def verified(self, model: LocalModel) -> ModelVerified:
        self.log.events.clear()
        self.service.files.verify(model)
        return self.log.wait(ModelVerified, lambda event: event.ended)


@pytest.fixture
def desk(stage: Stage, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("HOME", str(model.parents[3]))
    service, log = AppService(), Log()
    service.downloads._timing = QUICK
    service.subscribe(log)
    service.downloads.start()
    yield Desk(service, log, stage)
    service.close()


def test_a_download_goes_to_the_folder_that_was_chosen_and_is_found_there(
    desk: Desk, tmp_path: Path
) -> None:
    other = tmp_path / "second disk"
    other.mkdir()
    desk.service.files.use_folder(other)
    told = desk.log.wait(FoldersMeasured).folders
    assert [folder for folder, _ in told] == [other, desk.service.folders.models]
    free = shutil.disk_usage(other).free
    assert told[0][1] == pytest.approx(free, rel=0.2)
    assert told[1][1] is not None, "a folder that is still to be made counts by its disk"
    local = desk.get(folder=other)
    assert local.state is State.COMPLETE
    assert local.repo == "org/model", "it is offered as what it is, not fetched twice"
    assert local.files[0].is_relative_to(other / "org" / "model")
    desk.service.close()
    again = AppService()
    try:
        assert again.files.folders[0] == other, "remembered"
    finally:
        again.close()


def test_a_folder_whose_disk_is_gone_has_no_free_space(desk: Desk, tmp_path: Path) -> None:
    gone = tmp_path / "usb"
    gone.mkdir()
    desk.service.files.use_folder(gone)
    desk.log.wait(FoldersMeasured, lambda event: event.folders[0][1])
    gone.rmdir()
    desk.service.files.measure()
    desk.log.wait(FoldersMeasured, lambda event: event.folders[0] == (gone, None))


def test_a_set_from_a_share_is_copied_and_checked(desk: Desk) -> None:
    sent = desk.stage.hub.sent_bytes
    local = desk.get(source=desk.stage.source / "split")
    assert len(local.files) == 3
    assert desk.stage.hub.sent_bytes - sent < 100_000
    found = desk.found()
    flip(desk.stage.source / "split" / local.files[1].name, 1_000)
    shutil.rmtree(local.files[0].parent)
    desk.log.events.clear()
    desk.service.downloads.enqueue(found, "main", source=desk.stage.source / "split")
    failed = desk.log.wait(
        DownloadStateChanged, lambda event: event.download.state is DownloadState.FAILED
    )
    assert failed.download.error is not None
    assert failed.download.error.reason == "damaged"


def test_verify_calls_nothing_damaged_that_it_cannot_check(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = desk.get()
    known = desk.service.files._records.verified.last

    def without_digest(path: Path) -> DownloadFile | None:
        file = known(path)
        return file and dataclasses.replace(file, sha256=None, git_oid=None)

    monkeypatch.setattr(desk.service.files._records.verified, "last", without_digest)
    told = desk.verified(local)
    assert (told.files, told.unchecked, told.wrong, told.error) == (3, 3, (), None)
    assert not told.can_mend


def test_verify_finds_damage_and_only_a_click_mends_it(desk: Desk) -> None:
    local = desk.get()
    right = desk.verified(local)
    assert (right.files, right.wrong, right.against) == (3, (), "")
    marks = [e.done_bytes for e in desk.log.events if isinstance(e, ModelVerified)]
    assert len(marks) > 10
    assert marks == sorted(marks)
    flip(local.files[2], 1_000_000)
    sent = desk.stage.hub.sent_bytes
    damaged = desk.verified(local)
    assert damaged.wrong == (local.files[2],)
    assert damaged.can_mend
    assert desk.stage.hub.sent_bytes == sent, "nothing is fetched unasked"
    desk.log.events.clear()
    desk.service.files.mend(local)
    desk.log.wait(DownloadStateChanged, lambda event: event.download.state is DownloadState.DONE)
    assert desk.stage.hub.sent_bytes - sent < 1_200_000, "only the block that is damaged"
    assert not desk.verified(local).wrong
    local.files[1].unlink()
    assert desk.verified(local).wrong == (local.files[1],)


def test_a_model_of_unknown_origin_says_that_nobody_knows_its_checksum(
    desk: Desk, starter_model: Path
) -> None:
    folder = desk.service.folders.models / "mine"
    folder.mkdir(parents=True)
    shutil.copy(starter_model, folder / "mine.gguf")
    desk.service.models.scan()
    told = desk.verified(desk.local(folder / "mine.gguf"))
    assert told.error is not None
    assert "is not known" in str(told.error)


def test_what_another_program_brought_is_compared_with_its_repository(
    desk: Desk, starter_model: Path
) -> None:
    folder = desk.service.folders.models / "org" / "model"
    folder.mkdir(parents=True)
    shutil.copy(starter_model, folder / "tiny-Q8_0.gguf")
    desk.service.models.scan()
    local = desk.local(folder / "tiny-Q8_0.gguf")
    same = desk.verified(local)
    assert (same.files, same.wrong, same.against) == (1, (), "org/model")
    flip(folder / "tiny-Q8_0.gguf", 50_000_000)
    assert desk.verified(local).wrong == (folder / "tiny-Q8_0.gguf",)


def test_verifying_stops_when_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    local = desk.get()
    desk.log.events.clear()
    # The first figure stops it: what is left is not read.
    desk.service.subscribe(stop_at_first(desk))
    desk.service.files.verify(local)
    ended = desk.log.wait(ModelVerified, lambda event: event.ended)
    assert ended.stopped
    assert not ended.files


def stop_at_first(desk: Desk) -> Callable[[object], None]:
    def listener(event: object) -> None:
        if isinstance(event, ModelVerified) and event.done_bytes:
            desk.service.files.stop()

    return listener


def test_delete_takes_files_records_and_the_entry_of_the_queue(desk: Desk) -> None:
    local = desk.get()
    size = sum(path.stat().st_size for path in local.files)
    desk.service._keep(model_path=str(local.files[0]))
    desk.service.files.delete(local)
    told = desk.log.wait(ModelDeleted)
    assert told.files == 3
    assert told.freed_bytes == pytest.approx(size, rel=0.01)
    assert not (desk.service.folders.models / "org").exists(), "no empty folders"
    assert desk.service.folders.models.exists()
    desk.log.wait(DownloadRemoved)
    assert desk.service.downloads.all() == ()
    desk.log.wait(LibraryScanned, lambda event: local.files[0] not in all_files(event))
    assert desk.service.settings.model_path is None
    records = desk.service.folders.data / "downloads"
    assert not list((records / "verified").iterdir())
    assert not list((records / "journals").iterdir())


def all_files(event: LibraryScanned) -> set[Path]:
    return {path for m in event.library.models for path in m.files}


def test_what_is_loaded_unfinished_or_anothers_is_not_deleted(desk: Desk) -> None:
    local = desk.get()
    files = desk.service.files
    assert not files.kept_because(local)
    files._in_use = lambda: local.files[0]
    assert "It is loaded" in files.kept_because(local)
    files.delete(local)
    failed = desk.log.wait(OperationFailed)
    assert "It is loaded" in str(failed.error)
    assert all(path.exists() for path in local.files)
    files._in_use = lambda: None
    from app.catalog.places import Origin

    ollamas = dataclasses.replace(local, origin=Origin.OLLAMA)
    assert files.kept_because(ollamas) == "It belongs to Ollama: delete it there."
    desk.stage.hub.rate = 1_000_000
    desk.log.events.clear()
    desk.service.downloads.enqueue(desk.found("Q8_0"), "main")
    begun = desk.log.wait(
        DownloadStateChanged, lambda event: event.download.state is DownloadState.DOWNLOADING
    ).download
    part = dataclasses.replace(
        local, files=(begun.request.target(begun.request.files[0]),), state=State.INCOMPLETE
    )
    assert "not finished" in files.kept_because(part)


def test_targets_are_all_shards_whichever_is_there(tmp_path: Path) -> None:
    part = tmp_path / "a-00002-of-00003.gguf.part"
    local = LocalModel(
        name="a", origin=Origin.APP, files=(part,), state=State.INCOMPLETE, size_bytes=1
    )
    assert [path.name for path in targets(local)] == [f"a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
