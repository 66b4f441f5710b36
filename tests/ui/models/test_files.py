"""Files on disk from the model's page: folder, import, verify, mend, delete, on the real service."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.download.model import DownloadState, DownloadStateChanged
from app.events import AppEvent, FoldersMeasured, ModelDeleted, ModelVerified, NoticeRaised
from app.service import AppService
from app.service.subjects import OfferKind
from tests.app.download.conftest import QUICK, Stage, stage
from tests.app.download.test_crash import flip
from tests.app.download.test_pull import model
from tests.app.service.test_models import EIGHT
from tests.helpers.hub import Repo
from ui.bridge import Bridge
from ui.models.controller import ModelsController
from ui.models.disk_lines import FROM_DISK, place_words, verified_words
from ui.models.model_page import ModelPage

__all__ = ["model", "stage"]
TIMEOUT_MS = 30_000
KEY = "hf:org/model"


@dataclasses.dataclass(slots=True)
class Desk:
    """The page, what is answered when it asks, and what it asked."""

    service: AppService
    controller: ModelsController
    stage: Stage
    qtbot: QtBot
    folder: str = ""
    yes: bool = True
    asked: list[str] = dataclasses.field(default_factory=list)

    def ask(self, _parent: QWidget, title: str) -> str:
        self.asked.append(title)
        return self.folder

    def agree(self, _parent: QWidget, _title: str, text: str) -> bool:
        self.asked.append(text)
        return self.yes

    @property
    def page(self) -> ModelPage:
        return self.controller.page

    def wait(self, condition: Callable[[], object]) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=TIMEOUT_MS)

    def wait_offer(self, kind: OfferKind) -> None:
        self.wait(lambda: self.page.offer.kind is kind)

    def open(self) -> None:
        """The repository's page with its three shards chosen."""
        self.controller.open(KEY)
        self.wait(lambda: not self.page.reading.text() and self.page.matrix.chosen_name)
        self.page.matrix.choose("Q4_1", 8_192)
        self.controller.show_offer()
        self.wait_offer(OfferKind.DOWNLOAD)
        self.wait(self.page.place.place.isVisible)

    def get(self) -> None:
        """Open it and download it."""
        self.open()
        self.page.primary.click()
        self.wait_offer(OfferKind.LOAD)
        self.wait(self.page.place.verify.isVisible)

    def choose(self, words: str) -> None:
        """Choose what begins with `words` in the menu below the button."""
        actions = self.page.place.menu.actions()
        next(a for a in actions if a.text().startswith(words)).trigger()

    @property
    def said(self) -> str:
        return self.page.check.state.word.text()


@pytest.fixture
def desk(
    qtbot: QtBot, stage: Stage, model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    monkeypatch.setenv("HOME", str(model.parents[2]))
    service = AppService()
    service.downloads._timing = QUICK
    service.models._machine = lambda: EIGHT
    desk: Desk
    controller = ModelsController(
        service, ask=lambda *a: desk.ask(*a), agree=lambda *a: desk.agree(*a)
    )
    desk = Desk(service, controller, stage, qtbot)

    def received(event: AppEvent) -> None:
        if isinstance(event, FoldersMeasured | ModelVerified | ModelDeleted):
            controller.files.receive(event)
        elif type(event).__module__ == "app.events" and not isinstance(event, NoticeRaised):
            controller.receive(event)  # type: ignore[arg-type]
        else:
            controller.show_offer()

    bridge = Bridge(controller)
    bridge.received.connect(received)
    unsubscribe = service.subscribe(bridge.post)
    qtbot.addWidget(controller.pages)
    controller.pages.resize(1190, 820)
    controller.pages.show()
    service.downloads.start()
    yield desk
    unsubscribe()
    service.close()


def test_a_gated_model_says_so_once_and_is_read_again_after_a_login(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    monkeypatch.setattr("app.catalog.tokens.keep", kept.append)
    monkeypatch.setattr("app.catalog.tokens.get", lambda: next(iter(kept), None))
    monkeypatch.setattr("ui.models.controller.ask_token", lambda _parent: "hf_right")
    desk.stage.hub.token = "hf_right"
    desk.stage.hub.repos["org/model"] = Repo(private=True)
    page, line = desk.page, desk.page.reason
    desk.controller.open(KEY)
    desk.wait(lambda: line.login.isVisible() and not page.reading.text())
    assert "needs a token" in line.words.text()
    assert "token" not in page.licence.text()
    assert not page.matrix.isVisible(), "there is nothing in it"
    assert "reading" not in shown(page)
    line.login.click()
    desk.wait(lambda: kept == ["hf_right"] and page.matrix.chosen_name)
    assert not line.login.isVisible()
    assert page.matrix.isVisible()
    assert {"KV cache", "Architecture"} <= set(shown(page))


def shown(page: ModelPage) -> list[str]:
    """Every text among the facts that can be seen."""
    return [part.text() for part in page.facts.findChildren(QLabel) if part.isVisible()]


def test_another_folder_is_asked_for_named_with_its_space_and_takes_the_download(
    desk: Desk, tmp_path: Path
) -> None:
    desk.open()
    assert desk.page.place.place.text().startswith("to ~/models, ")
    assert desk.page.place.place.text().endswith(" free")
    desk.choose("Another folder…")
    assert desk.service.settings.download_folders == (), "nothing was chosen"
    other = tmp_path / "disk two"
    other.mkdir()
    desk.folder = str(other)
    desk.choose("Another folder…")
    desk.wait(lambda: desk.page.place.place.toolTip() == str(other))
    folders = [a.text() for a in desk.page.place.menu.actions() if a.isCheckable()]
    assert len(folders) == 2
    assert all("free" in text for text in folders)
    desk.page.primary.click()
    desk.wait_offer(OfferKind.LOAD)
    assert len(list(other.rglob("*.gguf"))) == 3
    assert not list(desk.service.folders.models.rglob("*.gguf"))


def test_a_folder_that_is_gone_takes_nothing_and_says_so(desk: Desk, tmp_path: Path) -> None:
    gone = tmp_path / "usb"
    gone.mkdir()
    desk.service.files.use_folder(gone)
    gone.rmdir()
    desk.open()
    desk.wait(lambda: "not there now" in desk.page.place.place.text())
    desk.page.primary.click()
    assert desk.page.error.isVisible()
    assert f"{gone} is not there." in desk.page.error.text.text()
    desk.controller.show_offer()
    assert desk.page.error.isVisible()
    assert desk.service.downloads.all() == ()
    assert not gone.exists()


def test_a_set_is_copied_from_a_share(desk: Desk) -> None:
    desk.open()
    desk.folder = str(desk.stage.source / "split")
    sent = desk.stage.hub.sent_bytes
    desk.choose(FROM_DISK)
    desk.wait_offer(OfferKind.LOAD)
    assert desk.stage.hub.sent_bytes == sent
    assert len(list(desk.service.folders.models.rglob("*.gguf"))) == 3


def test_what_a_share_lacks_is_had_from_the_hub_after_a_click(desk: Desk, tmp_path: Path) -> None:
    desk.open()
    share = tmp_path / "share"
    share.mkdir()
    desk.folder = str(share)
    desk.choose(FROM_DISK)
    desk.wait_offer(OfferKind.RESUME)
    desk.wait(lambda: [a.text() for a in desk.page.place.menu.actions()][-1:] == [FROM_DISK])
    assert desk.page.reason.words.text(), "why it stopped"
    desk.choose("Get the rest from the Hub")
    desk.wait_offer(OfferKind.LOAD)


def test_verify_tells_damage_and_fetches_it_only_after_a_click(desk: Desk) -> None:
    desk.get()
    page = desk.page
    page.place.verify.click()
    desk.wait(lambda: desk.said.startswith("All 3 files are right"))
    assert not page.check.mend.isVisible()
    third = sorted(desk.service.folders.models.rglob("*.gguf"))[2]
    flip(third, 1_000_000)
    page.place.verify.click()
    desk.wait(lambda: desk.said.startswith("1 of 3 files is damaged or missing"))
    assert third.name in desk.said
    sent = desk.stage.hub.sent_bytes
    assert page.check.mend.isVisible()
    desk.controller.show_offer()
    assert page.check.isVisible(), "the result stays"
    states: list[DownloadState] = []
    desk.service.subscribe(
        lambda event: (
            states.append(event.download.state) if isinstance(event, DownloadStateChanged) else None
        )
    )
    with desk.qtbot.waitSignal(desk.controller.download_shown, timeout=TIMEOUT_MS):
        page.check.mend.click()
    desk.wait(lambda: states and states[-1] is DownloadState.DONE)
    assert 0 < desk.stage.hub.sent_bytes - sent < 1_200_000
    page.place.verify.click()
    desk.wait(lambda: desk.said.startswith("All 3 files are right"))


def test_delete_names_files_and_size_and_asks_first(desk: Desk) -> None:
    desk.get()
    desk.yes = False
    desk.page.place.delete.click()
    (text,) = desk.asked
    for path in desk.service.folders.models.rglob("*.gguf"):
        assert path.name in text
    assert "3 files, 96.6 MB" in text
    assert len(list(desk.service.folders.models.rglob("*.gguf"))) == 3
    desk.yes = True
    desk.page.place.delete.click()
    desk.wait_offer(OfferKind.DOWNLOAD)
    desk.wait(lambda: desk.said.startswith("Deleted 3 files, "))
    assert not list(desk.service.folders.models.rglob("*.gguf"))
    assert not desk.page.place.delete.isVisible()


def test_what_is_loaded_is_not_deleted_and_the_button_says_why(desk: Desk) -> None:
    desk.get()
    first = min(desk.service.folders.models.rglob("*.gguf"))
    desk.service.files._in_use = lambda: first
    desk.controller.show_offer()
    assert not desk.page.place.delete.isEnabled()
    assert "It is loaded" in desk.page.place.delete.toolTip()
    desk.controller.back()
    desk.controller.view.delete_clicked.emit(str(first))
    assert not desk.asked, "nobody is asked for what is not done"
    assert desk.page.error.isVisible()
    assert "It is loaded" in desk.page.error.text.text()
    assert first.exists()


def test_a_row_of_the_list_verifies_on_its_page_and_deletes(desk: Desk) -> None:
    desk.get()
    desk.controller.back()
    view = desk.controller.view
    desk.wait(lambda: [r for r in view.local.rows if "models" in r.values.key])
    row = next(r for r in view.local.rows if "org/model" in r.values.key)
    assert row._menu is not None
    verify = row._menu(row.values.key).actions()[1]
    assert verify.text() == "Verify"
    verify.trigger()
    assert desk.controller.pages.currentWidget() is desk.page
    desk.wait(lambda: desk.said.startswith("All 3 files are right"))
    row = next(r for r in view.local.rows if "org/model" in r.values.key)
    assert row._menu is not None
    row._menu(row.values.key).actions()[2].trigger()
    desk.wait(lambda: desk.controller.pages.currentWidget() is view)
    desk.wait(lambda: not [r for r in view.local.rows if "org/model" in r.values.key])


@pytest.fixture
def seeing(stage: Stage, model: Path, starter_model: Path) -> str:
    """A projector beside the model on the hub."""
    shutil.copy(starter_model, stage.source / "mmproj-F16.gguf")
    stage.hub.add("org/model/mmproj-F16.gguf", stage.source / "mmproj-F16.gguf")
    return "mmproj-F16.gguf"


def test_a_projector_is_offered_honestly_comes_along_and_goes_with_its_model(
    seeing: str, desk: Desk
) -> None:
    desk.open()
    line = desk.page.projector
    assert line.isVisible()
    assert line.switch.isVisible()
    assert not line.wanted, "nobody gets it unasked"
    assert "does not run it yet" in line.words.text()
    line.switch.click()
    desk.page.primary.click()
    desk.wait_offer(OfferKind.LOAD)
    desk.wait(lambda: seeing in line.words.text())
    assert not line.switch.isVisible()
    assert not line.get.isVisible()
    there = {path.name for path in desk.service.folders.models.rglob("*.gguf")}
    assert len(there) == 4
    assert seeing in there
    desk.page.place.verify.click()
    desk.wait(lambda: desk.said.startswith("All 4 files are right"))
    names = [row.name for row in desk.page._overview.rows] if desk.page._overview else []
    assert "F16" not in names, "it is no quantization"
    rows = desk.controller.view.local.rows
    assert "Q4_1, with projector" in [row.values.detail for row in rows]
    desk.page.place.delete.click()
    desk.wait(lambda: desk.said.startswith("Deleted 4 files, "))
    assert seeing in desk.asked[-1]


def test_a_projector_is_had_later_for_a_model_that_is_here(seeing: str, desk: Desk) -> None:
    desk.get()
    line = desk.page.projector
    desk.wait(line.get.isVisible)
    assert line.get.text().startswith("Get its projector, ")
    sent = desk.stage.hub.sent_bytes
    line.get.click()
    desk.wait(lambda: not line.get.isVisible() and seeing in line.words.text())
    assert desk.page.offer.kind is OfferKind.LOAD
    size = (desk.stage.source / seeing).stat().st_size
    assert desk.stage.hub.sent_bytes - sent < size + 100_000


def test_without_a_projector_none_is_offered(desk: Desk) -> None:
    desk.open()
    assert not desk.page.projector.isVisible()


def test_a_branch_that_has_moved_is_an_update_that_one_can_have(desk: Desk, tmp_path: Path) -> None:
    desk.get()
    assert not desk.page.place.update_.isVisible()
    third = sorted(desk.service.folders.models.rglob("*.gguf"))[2]
    name = f"org/model/{third.name}"
    new = shutil.copy(desk.stage.hub.files[name], tmp_path / "new.gguf")
    flip(Path(new), 20_000_000)
    desk.stage.hub.files[name] = Path(new)
    desk.stage.hub.revisions["main"] = "d" * 40
    before = third.read_bytes()
    desk.controller.back()
    desk.service.models.lookups.snapshot("org/model", refresh=True)  # the list is some minutes old
    desk.controller.open(KEY)
    desk.wait(lambda: desk.page.matrix.chosen_name and desk.page.place.update_.isVisible())
    assert desk.page.offer.kind is OfferKind.LOAD, "what is here can be loaded all the same"
    assert third.read_bytes() == before, "nothing is fetched unasked"
    desk.page.place.update_.click()
    desk.wait(lambda: third.read_bytes() == Path(new).read_bytes())
    desk.wait(lambda: not desk.page.place.update_.isVisible())
    desk.page.place.verify.click()
    desk.wait(lambda: desk.said.startswith("All 3 files are right"))


def test_what_has_no_published_checksum_is_complete_and_not_checked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = desk.stage.hub
    bare: list[dict[str, object]] = [
        {key: entry[key] for key in ("type", "path", "size")} for entry in hub.tree("org/model")
    ]
    monkeypatch.setattr(hub, "tree", lambda _name: bare)
    hub.faults.linked_etag = "of-its-own"
    desk.get()
    assert not desk.page.place.update_.isVisible()
    desk.page.place.verify.click()
    desk.wait(lambda: desk.said == "Complete, not checked (no checksum published).")
    assert not desk.page.check.mend.isVisible()
    third = sorted(desk.service.folders.models.rglob("*.gguf"))[2]
    with third.open("r+b") as stream:
        stream.truncate(30_000_000)
    desk.page.place.verify.click()
    desk.wait(lambda: third.name in desk.said)


def test_results_in_words() -> None:
    def words(**values: object) -> tuple[str, str]:
        return verified_words(ModelVerified(key="k", **values))  # type: ignore[arg-type]

    assert words(done_bytes=42, size_bytes=100) == ("Verifying 0.1 kB, 42 %", "busy")
    assert words(ended=True, files=1)[0] == "The file is right: the checksums match."
    assert words(ended=True, files=2, against="a/b")[0].endswith("as a/b has them now.")
    assert words(ended=True, stopped=True)[1] == ""
    some = words(ended=True, files=3, unchecked=1)
    assert some == ("Complete, 1 of 3 files not checked (no checksum published).", "")
    missing = words(ended=True, files=2, wrong=(Path("x"), Path("y")))
    assert missing == ("2 of 2 files are damaged or missing: x, y.", "error")
    assert place_words(Path("/mnt/a"), 77_400_000_000) == "/mnt/a, 77 GB free"
