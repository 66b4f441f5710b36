"""The page of downloads on the real queue, against a Hub on loopback."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app import units
from app.catalog.repository import FileSet, HubFile, Role
from app.download.model import DownloadState, Reason
from app.download.source import Timing
from app.errors import AppError
from app.service import AppService
from tests.app.download.conftest import Stage, stage
from tests.helpers.faulty_hub import Fault
from ui.downloads.controller import DownloadsController
from ui.downloads.downloads_view import DownloadsView

__all__ = ["stage"]
TIMEOUT_MS = 30_000
State = DownloadState


@dataclasses.dataclass(slots=True)
class Desk:
    """The page, the service behind it, and the Hub."""

    view: DownloadsView
    service: AppService
    stage: Stage
    qtbot: QtBot

    def enqueue(self, *sizes: int, repo: str = "org/repo", bare: bool = False) -> str:
        request = self.stage.serve(*sizes, repo=repo)
        files = tuple(
            HubFile(path=f.path, size_bytes=f.size_bytes, sha256=None if bare else f.sha256)
            for f in request.files
        )
        found = FileSet(
            repo=repo, commit=request.commit, name="file", role=Role.MODEL, quantization="",
            files=files, complete=True,
        )  # fmt: skip
        self.service.downloads.enqueue(found, "main")
        real = dataclasses.replace(request, folder=self.service.folders.models)
        return real.id

    def wait(self, id: str, state: DownloadState) -> None:
        def reached() -> bool:
            download = self.view.get(id)
            return download is not None and download.state is state

        self.qtbot.waitUntil(reached, timeout=TIMEOUT_MS)

    def wait_written(self, id: str, size: int) -> None:
        def reached() -> bool:
            download = self.view.get(id)
            return download is not None and download.progress.written_bytes >= size

        self.qtbot.waitUntil(reached, timeout=TIMEOUT_MS)


@pytest.fixture
def desk(qtbot: QtBot, stage: Stage) -> Iterator[Desk]:
    service = AppService()
    service.downloads._timing = Timing(connect_s=2, stall_s=2, first_retry_s=1, longest_retry_s=2)
    controller = DownloadsController(service)
    from ui.bridge import Bridge

    bridge = Bridge(controller)
    bridge.received.connect(
        lambda event: (
            controller.receive(event) if type(event).__module__.startswith("app.download") else None
        )
    )
    unsubscribe = service.subscribe(bridge.post)
    qtbot.addWidget(controller.view)
    controller.view.resize(1100, 800)
    controller.view.show()
    service.downloads.start()
    yield Desk(controller.view, service, stage, qtbot)
    unsubscribe()
    service.close()


def test_a_download_runs_pauses_by_keyboard_goes_on_and_is_verified(desk: Desk) -> None:
    board = desk.view.board
    assert desk.view.empty.isVisible()
    desk.stage.hub.rate = 1_000_000
    id = desk.enqueue(12_000_000, 3_000_000)
    desk.wait(id, State.DOWNLOADING)
    assert not desk.view.empty.isVisible()
    assert desk.view.busy
    desk.wait_written(id, 1)
    assert "MB/s" in board.speed.text()
    board.pause.setFocus()
    desk.qtbot.keyClick(board.pause, Qt.Key.Key_Space)
    desk.wait(id, State.PAUSED)
    kept = desk.view.get(id)
    assert kept is not None
    assert 0 < kept.progress.written_bytes < 15_000_000
    assert "kept" in board.state.word.text()
    assert not desk.view.busy
    desk.stage.hub.rate = None
    board.resume.click()
    desk.wait(id, State.DONE)
    assert board.percent.text() == "100 %"
    assert "SHA-256 matches" in board.state.word.text()
    assert board.load.isVisible()
    assert not board.pause.isVisible()


def test_an_outage_counts_down_and_says_what_was_kept(desk: Desk) -> None:
    desk.service.downloads.change_limit(4_000_000)
    id = desk.enqueue(40_000_000)
    desk.wait_written(id, 4_000_000)
    desk.stage.hub.outage.set()
    desk.wait(id, State.WAITING)
    board = desk.view.board
    assert board.state.word.text().startswith("Reconnecting")
    assert "kept" in board.state.word.text()
    assert "goes on by itself" in board.explanation.text()
    desk.stage.hub.outage.clear()
    desk.service.downloads.change_limit(None)
    desk.wait(id, State.DONE)
    assert desk.view.side._lines._values[1].text() != "0", "retries are counted"


def test_a_full_disk_is_said_in_words_and_can_be_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(Path.cwd())
    full = real._replace(free=100 * units.MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    id = desk.enqueue(300_000_000 // 100)
    desk.wait(id, State.NO_SPACE)
    board = desk.view.board
    assert "lacks space" in board.explanation.text()
    assert board.resume.text() == "Try again"
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: real)
    board.resume.click()
    desk.wait(id, State.DONE)


def test_a_gated_repository_asks_for_a_login(desk: Desk) -> None:
    desk.stage.hub.token = "hf_secret"
    id = desk.enqueue(2_000_000)
    desk.wait(id, State.NEEDS_LOGIN)
    board = desk.view.board
    assert board.login.isVisible()
    assert board.explanation.text()
    download = desk.view.get(id)
    assert download is not None
    assert download.reason is Reason.NEEDS_LOGIN


def test_the_queue_shows_what_comes_next_and_can_be_reordered(desk: Desk) -> None:
    desk.stage.hub.rate = 500_000
    first = desk.enqueue(8_000_000, repo="org/first")
    desk.wait(first, State.DOWNLOADING)
    second = desk.enqueue(8_000_000, repo="org/second")
    desk.qtbot.waitUntil(lambda: desk.view.get(second) is not None, timeout=TIMEOUT_MS)
    assert desk.view.queue.isVisible()
    assert desk.view.board.id == first, "what runs stays on the board"
    desk.view.queue.started.emit(second)
    desk.wait(second, State.DOWNLOADING)
    desk.wait(first, State.QUEUED)
    desk.view.queue.shown.emit(second)
    assert desk.view.board.id == second


def test_a_limit_is_in_force_at_once_and_stored(desk: Desk) -> None:
    desk.view.limit.menu().actions()[1].trigger()
    desk.qtbot.waitUntil(lambda: desk.service.settings.download_limit == 1_000_000)
    stored = desk.service.folders.config / "settings.json"
    desk.qtbot.waitUntil(lambda: stored.exists() and "1000000" in stored.read_text())
    id = desk.enqueue(3_000_000)
    desk.wait(id, State.DOWNLOADING)
    desk.qtbot.waitUntil(
        lambda: (d := desk.view.get(id)) is not None and d.progress.bytes_per_s > 0,
        timeout=TIMEOUT_MS,
    )
    download = desk.view.get(id)
    assert download is not None
    assert download.progress.bytes_per_s < 2_500_000


def test_what_could_not_be_done_is_said_on_the_page(desk: Desk) -> None:
    desk.view.show_error(AppError("It is not safe.", hint="Choose another."))
    assert desk.view.problem.isVisible()
    assert desk.view.problem.text() == "It is not safe. Choose another."
    desk.wait(desk.enqueue(1_000_000), State.DONE)
    assert not desk.view.problem.isVisible()


def test_a_fault_that_ends_it_is_named_and_kept_for_another_try(desk: Desk) -> None:
    desk.stage.hub.always = Fault(size=999)
    id = desk.enqueue(2_000_000)
    desk.wait(id, State.FAILED)
    board = desk.view.board
    assert "not the file" in board.explanation.text()
    assert board.discard.isVisible()
    assert board.resume.text() == "Try again"


def test_what_has_no_published_checksum_reads_as_complete_and_not_checked(desk: Desk) -> None:
    desk.stage.hub.faults.linked_etag = "of-its-own"
    id = desk.enqueue(units.MIB, 2 * units.MIB, bare=True)
    desk.wait(id, State.DONE)
    board = desk.view.board
    assert board.state.word.text() == "Complete, not checked (no checksum published)"
    assert [shard.state.word.text() for shard in board._shards] == ["Complete, not checked"] * 2
    assert [shard.right.text() for shard in board._shards] == ["No checksum published"] * 2
    shown = board.state.word.text() + "".join(s.state.word.text() for s in board._shards)
    assert not any(word in shown for word in ("matches", "erified", "amaged"))
    assert board.load.isVisibleTo(board), "it can be loaded all the same"


def test_of_many_files_those_are_shown_that_something_happens_to(desk: Desk) -> None:
    board = desk.view.board
    desk.stage.hub.rate = 100_000
    id = desk.enqueue(*[300_000] * 12)
    desk.wait_written(id, 1)

    def seen() -> list[int]:
        return [index for index, shard in enumerate(board._shards) if shard.box.isVisible()]

    assert 1 <= len(seen()) <= 3
    assert "to come" in board.folded.text()
    board.more.click()
    assert (seen(), board.more.text()) == (list(range(12)), "Show fewer")
    board.more.click()
    desk.stage.hub.rate = None
    desk.wait(id, State.DONE)
    desk.qtbot.waitUntil(lambda: board.folded.text() == "12 verified", timeout=TIMEOUT_MS)
    assert (seen(), board.more.text()) == ([], "Show all 12 files")
    other = desk.enqueue(*[1_000] * 2, repo="org/other")
    desk.wait(other, State.DONE)
    desk.view.show_download(other)
    assert (seen(), board.more.isVisible()) == ([0, 1], False)
