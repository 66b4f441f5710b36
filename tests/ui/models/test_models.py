"""The list and the page of models, as a person uses them: values in, what is said and asked for out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, Qt
from PySide6.QtGui import QFontMetrics
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from app.catalog import entries
from app.catalog.cache import Answer
from app.catalog.library import Library, LocalModel, State
from app.catalog.places import Origin
from app.catalog.repository import FileSet, HubFile, Role
from app.catalog.search import FoundRepository
from app.errors import AppError, ErrorKind
from app.events import ChoicePlanned, HubSearched, ModelExplained, ModelStudied, RepositoriesRead
from app.gguf import bundled
from app.plan import overview, recommend
from app.plan.model import PlanHost, Verdict
from app.plan.overview import Fit, Machine, Overview
from app.service import AppService
from app.service.subjects import Offer, OfferKind, of_entry
from app.units import GIB
from tests.helpers.machines import cards
from ui.models.controller import ModelsController
from ui.models.matrix import FIRST, Matrix, cell_text
from ui.models.model_page import ModelPage
from ui.models.models_view import ModelsView
from ui.models.row import ModelRow, RowValues

EIGHT = Machine(
    devices=cards([24] * 8), host=PlanHost(total_bytes=128 * GIB, available_bytes=120 * GIB)
)
KINDS = ("IQ4_XS", "Q4_K_M", "Q6_K", "BF16")


@pytest.fixture(scope="module")
def rows() -> tuple[overview.Row, ...]:
    return tuple(
        overview.row(kind, bundled.layout(f"nemotron-ultra-253b:{kind}"), EIGHT) for kind in KINDS
    )


@pytest.fixture
def view(qtbot: QtBot) -> ModelsView:
    view = ModelsView()
    qtbot.addWidget(view)
    view.resize(1100, 800)
    view.show()
    fits = {
        "nemotron-ultra-253b": Fit(
            verdict=Verdict.FITS, quantization="Q4_K_M", size_bytes=150_900_000_000
        )
    }
    view.set_catalog(entries.entries(), fits)
    return view


def found(repo: str) -> FoundRepository:
    return FoundRepository(
        repo=repo, downloads=7, likes=1, modified=None, gated=False, private=False,
        parameters=8_000_000_000, architecture="llama", context_length=8192,
    )  # fmt: skip


def test_the_catalog_comes_first_with_size_licence_and_fit(view: ModelsView) -> None:
    ultra = view.catalog.rows[0]
    assert ultra.values.size == "Q4_K_M, 150.9 GB"
    assert ultra.values.verdict == "Fits"
    assert "NVIDIA Open Model License" in ultra.accessibleName()
    assert len(view.catalog.rows) == len(entries.entries())


def test_typing_filters_at_once_and_asks_the_hub_on_return(qtbot: QtBot, view: ModelsView) -> None:
    with qtbot.waitSignal(view.searched) as asked:
        qtbot.keyClicks(view.field, "super")
        assert {row.values.key for row in view.catalog.rows} == {
            "nemotron-super-49b", "nemotron-super-49b-v1.5",
        }  # fmt: skip
        qtbot.keyClick(view.field, Qt.Key.Key_Return)
    assert asked.args == ["super", False]
    assert "Asking the Hub" in view.hub.empty.text()
    answer = Answer(value=(found("org/super-GGUF"),), age_s=7200.0, notice="The Hub is away.")
    view.set_found(HubSearched(words="other", answer=answer, fits={}))
    assert not view.hub.rows, "an answer to another question"
    view.set_found(HubSearched(words="super", answer=answer, fits={}))
    assert [row.values.key for row in view.hub.rows] == ["hf:org/super-GGUF"]
    assert "The Hub is away." in view.hub.note.text()
    assert "2 h ago" in view.hub.note.text()


def test_offline_is_said_where_results_would_be_and_asked_again(
    qtbot: QtBot, view: ModelsView
) -> None:
    qtbot.keyClicks(view.field, "super")
    error = AppError("The Hub cannot be reached.", kind=ErrorKind.NETWORK)
    view.set_found(HubSearched(words="super", answer=None, fits={}, error=error))
    assert view.hub.empty.isVisible()
    assert "cannot be reached" in view.hub.empty.text()
    with qtbot.waitSignal(view.searched) as asked:
        view.hub.more.click()
    assert asked.args == ["super", True]


def test_arrows_go_from_row_to_row_and_return_opens(qtbot: QtBot, view: ModelsView) -> None:
    rows = view.catalog.rows
    rows[0].setFocus()
    qtbot.keyClick(rows[0], Qt.Key.Key_Down)
    assert rows[1].hasFocus()
    with qtbot.waitSignal(view.opened) as opened:
        qtbot.keyClick(rows[1], Qt.Key.Key_Return)
    assert opened.args == [rows[1].values.key]
    qtbot.keyClick(rows[0], Qt.Key.Key_Up)
    assert view.field.hasFocus()


def local(name: str, state: State, reason: str = "") -> LocalModel:
    return LocalModel(
        name=name, origin=Origin.OLLAMA, files=(Path(f"/m/{name}.gguf"),), state=state,
        reason=reason, size_bytes=10**9, quantization="Q4_K_M",
    )  # fmt: skip


def test_sections_keep_their_own_rows_while_words_are_typed(qtbot: QtBot, view: ModelsView) -> None:
    names = ("super-nova", "supper", "other")
    models = tuple(local(name, State.COMPLETE) for name in names)
    view.set_library(Library(models=models), {})
    for words in ("su", "super", "supe", "o", ""):
        view.field.setText(words)
        hits = (found("org/super"),) if "super" in words else ()
        view.set_found(HubSearched(words=words, answer=Answer(value=hits), fits={}))
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        known = {entry.id for entry in entries.entries()}
        assert {row.values.key for row in view.catalog.rows} <= known
        assert [r.values.name for r in view.local.rows] == [n for n in names if words in n]
        assert all(map(isValid, view.local.rows))
        assert [row.values.name for row in view.hub.rows] == [hit.repo for hit in hits]


@pytest.mark.parametrize("pinned", [True, False])
def test_of_a_long_name_both_ends_are_seen_and_the_quantization_if_it_matters(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    drawn: list[str] = []
    metrics = QFontMetrics.elidedText

    def elided(self: QFontMetrics, text: str, how: Qt.TextElideMode, width: int) -> str:
        drawn.append(metrics(self, text, how, width))
        return drawn[-1]

    monkeypatch.setattr(QFontMetrics, "elidedText", elided)
    name = "unsloth/Llama-3_3-Nemotron-Super-49B-v1_5-abliterated-reasoning-GGUF"
    row = ModelRow(RowValues(key="k", name=name, detail="Q4_K_M", pinned=pinned), last=True)
    qtbot.addWidget(row)
    row.resize(780, 40)
    row.grab()
    assert drawn[0].startswith("unsloth/")
    assert drawn[0].endswith("-GGUF")
    assert len(drawn[0]) < len(name)
    assert ("Q4_K_M" in drawn) is pinned


def test_models_here_tell_damage_from_fit(view: ModelsView) -> None:
    assert "Looking into folders" in view.local.empty.text()
    models = (local("good", State.COMPLETE), local("cut", State.DAMAGED, "Cut."))
    view.set_library(Library(models=models), {"/m/good.gguf": Fit(verdict=Verdict.PARTLY)})
    assert [row.values.verdict for row in view.local.rows] == ["Partly in RAM", "Damaged"]
    assert [row.values.licence for row in view.local.rows] == ["Ollama", "Ollama"]


@pytest.fixture
def page(qtbot: QtBot) -> ModelPage:
    page = ModelPage()
    qtbot.addWidget(page)
    page.resize(1190, 820)
    page.show()
    entry = entries.find("nemotron-ultra-253b")
    assert entry is not None
    page.set_subject(of_entry(entry))
    return page


def texts(matrix: Matrix, row: int) -> list[str]:
    model = matrix.model()
    return [str(model.index(row, c).data()) for c in range(FIRST, model.columnCount())]


def test_the_matrix_says_what_fits_and_what_is_missing(
    page: ModelPage, rows: tuple[overview.Row, ...]
) -> None:
    page.set_studied(
        ModelStudied(
            key="k", overview=Overview(machine=EIGHT, rows=rows[:1], pending=KINDS[1:]),
            reading="Reading layers, 2 of 4",
        )
    )  # fmt: skip
    assert page.reading.text() == "Reading layers, 2 of 4"
    assert page.matrix.model().rowCount() == 4, "rows that are still to come have their place"
    page.set_studied(ModelStudied(key="k", overview=Overview(machine=EIGHT, rows=rows)))
    assert page.answer.word.text() == "Yes, with Q4_K_M"
    assert "2 of 4 quantizations fit" in page.note.text()
    assert texts(page.matrix, 1) == ["f16", "f16", "f16", "q8_0", "q4_0, tight"]
    missing = texts(page.matrix, 2)
    assert all(text.startswith("+") for text in missing)
    told = recommend.missing_bytes(rows[2].cells[0].choice, EIGHT.devices, EIGHT.host)
    assert rows[2].cells[0].missing_bytes <= told
    assert page.matrix.chosen_name == "Q4_K_M"
    assert page.matrix.chosen_context == 65_536
    spoken = page.matrix.model().index(1, FIRST + 3).data(Qt.ItemDataRole.AccessibleTextRole)
    assert spoken.startswith("Q4_K_M with 65,536 tokens: fits with q8_0")


def test_a_cell_chosen_by_keys_is_planned_and_its_devices_are_shown(
    qtbot: QtBot, page: ModelPage, rows: tuple[overview.Row, ...]
) -> None:
    page.set_studied(ModelStudied(key="k", overview=Overview(machine=EIGHT, rows=rows)))
    page.matrix.setFocus()
    with qtbot.waitSignal(page.cell_chosen) as chosen:
        qtbot.keyClick(page.matrix, Qt.Key.Key_Left)
        qtbot.keyClick(page.matrix, Qt.Key.Key_Up)
    name, cell = chosen.args
    assert (name, cell.context, cell_text(cell)) == ("IQ4_XS", 32_768, "f16")
    exact = recommend.exactly(cell.choice, EIGHT.devices, EIGHT.host)
    assert not page.strip.isVisible()
    page.set_plan(ChoicePlanned(key="k", name="IQ4_XS", layout=exact.layout, plan=exact.plan))
    assert page.strip.isVisible()
    assert "all 162 layers on 8 devices" in page.strip.verdict.word.text()
    page.set_studied(ModelStudied(key="k", overview=Overview(machine=EIGHT, rows=rows)))
    assert page.matrix.chosen_name == "IQ4_XS", "news do not move what a person chose"


def test_what_would_not_run_here_is_said_before_it_is_downloaded(
    page: ModelPage, rows: tuple[overview.Row, ...]
) -> None:
    page.set_studied(ModelStudied(key="k", overview=Overview(machine=EIGHT, rows=rows)))
    offer = Offer(kind=OfferKind.DOWNLOAD, words="Download Q4_K_M, 150.9 GB")
    page.set_offer(offer)
    assert page.primary.isEnabled()
    assert not page.reason.isVisible()
    page.matrix.choose("BF16", 8_192)
    page.set_offer(offer)
    assert page.primary.isEnabled()
    assert page.reason.words.text().startswith("It would not run here.")
    page.set_offer(Offer(kind=OfferKind.NONE, words="Download", reason="Nobody has it."))
    assert not page.primary.isEnabled()
    assert page.reason.words.text() == "Nobody has it."


def test_a_machine_without_room_is_told_no_and_the_nearest_is_chosen(page: ModelPage) -> None:
    small = Machine(devices=(), host=PlanHost(total_bytes=24 * GIB, available_bytes=20 * GIB))
    rows = tuple(
        overview.row(kind, bundled.layout(f"nemotron-ultra-253b:{kind}"), small)
        for kind in ("IQ1_S", "Q4_K_M")
    )
    page.set_studied(ModelStudied(key="k", overview=Overview(machine=small, rows=rows)))
    assert page.answer.word.text() == "No"
    assert page.matrix.chosen_name == "IQ1_S"


def test_a_way_out_opens_the_page_on_what_is_to_be_downloaded(
    qtbot: QtBot, rows: tuple[overview.Row, ...]
) -> None:
    service = AppService()
    controller = ModelsController(service)
    qtbot.addWidget(controller.pages)
    other_name = dataclasses.replace(bundled.layout("nemotron-ultra-253b"), name="my upload")
    relative = bundled.layout("nemotron-super-49b").name
    controller.open_way(f"{relative} at Q4_K_M", other_name)
    assert controller.page.title.text() == relative
    controller.open_way("IQ4_XS", other_name)
    assert "Ultra" in controller.page.title.text()
    controller.page.set_studied(ModelStudied(key="k", overview=Overview(machine=EIGHT, rows=rows)))
    assert controller.page.matrix.chosen_name == "IQ4_XS", "though Q4_K_M is the best that fits"
    service.close()


@pytest.mark.parametrize("name", [e.id for e in entries.entries()])
def test_the_page_says_how_to_use_a_model(page: ModelPage, name: str) -> None:
    entry = entries.find(name)
    assert entry is not None
    page.set_subject(of_entry(entry))
    page.set_explained(ModelExplained(key="k", answers=(), related=()))
    said = "\n".join(part.text() for part in page.findChildren(QLabel))
    assert entry.tool_calls.value in said
    assert all(source.title in page.sources.text() for source in entry.sources)
    if entry.reasoning is not None:
        assert f"on: system prompt “{entry.reasoning.on_prompt}”" in said
        assert f"off: system prompt “{entry.reasoning.off_prompt}”" in said
    for sampling in entry.sampling:
        assert f"{sampling.mode}: " in said
    assert all(known.repo in said for known in entry.repositories)


def test_what_can_be_had_is_said_only_of_a_row_that_cannot(
    qtbot: QtBot, rows: tuple[overview.Row, ...]
) -> None:
    service = AppService()
    controller = ModelsController(service)
    qtbot.addWidget(controller.pages)
    controller.open("hf:org/model")
    whole = FileSet(
        repo="org/model", commit="c" * 40, name="m-IQ4_XS", role=Role.MODEL,
        quantization="IQ4_XS", files=(HubFile(path="m-IQ4_XS.gguf", size_bytes=9),), complete=True,
    )  # fmt: skip
    broken = dataclasses.replace(whole, complete=False, reason="Shard 2 is missing.")
    line = controller.page.reason.words

    def read(sets: dict[str, FileSet]) -> str:
        controller.receive(RepositoriesRead(key="hf:org/model", answers=(), sets=sets))
        return line.text()

    assert read({"IQ4_XS": whole}) == ""
    assert read({"IQ4_XS": broken}) == "m-IQ4_XS: Shard 2 is missing."
    assert read({}) == "It holds no GGUF model."
    read({"IQ4_XS": whole})
    controller.receive(
        ModelStudied(key="hf:org/model", overview=Overview(machine=EIGHT, rows=rows))
    )
    controller.page.matrix.choose("Q6_K", 8_192)
    controller.show_offer()
    assert line.text() == "The repositories known here have IQ4_XS."
    service.close()


def test_an_error_stays_until_it_is_dismissed_or_replaced(page: ModelPage) -> None:
    page.show_error(AppError("The disk is full.", hint="Free some space."))
    page.set_offer(Offer(kind=OfferKind.SHOW_DOWNLOAD, words="Downloading, 12 %"))
    page.set_offer(Offer(kind=OfferKind.SHOW_DOWNLOAD, words="Downloading, 13 %"))
    assert page.error.isVisible()
    assert "The disk is full." in page.error.text.text()
    page.show_error(AppError("The Hub is away."))
    assert "disk" not in page.error.text.text()
    page.error.dismiss.click()
    assert not page.error.isVisible()
    page.show_error(AppError("Again."))
    entry = entries.find("nemotron-super-49b")
    assert entry is not None
    page.set_subject(of_entry(entry))
    assert not page.error.isVisible(), "it was about another model"
