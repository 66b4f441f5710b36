"""The dialog that finds the fastest plan, on values of described cards, and what it asks of the service."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.engine.tuner import (
    CandidateMeasured,
    Result,
    TuningEnded,
    TuningProgressed,
    TuningProposed,
    TuningStarted,
)
from app.errors import AppError
from app.gguf import bundled
from app.plan.candidates import Candidate, candidates
from app.plan.model import PlanRequest
from app.service import AppService
from app.settings.model import Settings
from tests.helpers.machines import HOST, cards
from ui.settings.split_dialog import SplitDialog
from ui.settings.tuner_controller import TunerController
from ui.settings.tuner_dialog import TunerDialog

FOUND = candidates(
    bundled.layout("nemotron-super-49b:Q4_K_M"),
    PlanRequest(context=8192, any_order=True),
    cards([48, 24, 24]),
    HOST,
)


def measured(candidate: Candidate, rate: float, turn_s: float) -> Result:
    return Result(
        candidate=candidate,
        load_s=3.0,
        tokens_per_s=rate,
        prompt_tokens_per_s=10 * rate,
        turn_s=turn_s,
        spread=0.02,
        repeats=3,
    )


RESULTS = (
    measured(FOUND[0], 6.0, 60.0),
    measured(FOUND[1], 7.5, 48.0),
    Result(candidate=FOUND[2], error=AppError("There was not enough memory on GPU 1.")),
)
PROPOSED = TuningProposed(candidates=FOUND[:3], estimate_s=352.0)
STARTED = TuningStarted(candidates=FOUND[:3], estimate_s=352.0)


@pytest.fixture
def dialog(qtbot: QtBot) -> TunerDialog:
    dialog = TunerDialog()
    qtbot.addWidget(dialog)
    dialog.show()
    return dialog


def test_what_it_costs_is_said_before_anything_runs(qtbot: QtBot, dialog: TunerDialog) -> None:
    assert not dialog.start_button.isEnabled()
    dialog.propose(PROPOSED)
    assert dialog.lead.text() == "About 6 minutes, 3 loads."
    assert [row.choice.isEnabled() for row in dialog._rows] == [False] * 3
    with qtbot.waitSignal(dialog.start_clicked):
        qtbot.keyClick(dialog.start_button, Qt.Key.Key_Space)
    with qtbot.waitSignal(dialog.left):
        dialog.reject()


def test_each_result_appears_and_the_fastest_is_chosen(qtbot: QtBot, dialog: TunerDialog) -> None:
    dialog.propose(PROPOSED)
    dialog.begin()
    dialog.advance(TuningProgressed(index=1, stage="measuring", fraction=0.5, left_s=130.0))
    assert dialog.lead.text() == "Plan 2 of 3 is being measured. About 2 minutes left."
    assert dialog.progress.value() == round(1000 * (1 + 0.75) / 3)
    for index, result in enumerate(RESULTS):
        dialog.measure(CandidateMeasured(index=index, result=result))
    dialog.end(TuningEnded(results=RESULTS, kept=1))
    assert "25 % faster" in dialog.lead.text()
    assert [row.choice.isEnabled() for row in dialog._rows] == [True, True, False]
    assert "not enough memory" in dialog._rows[2]._layers.text()
    assert dialog._rows[1].choice.isChecked()
    assert dialog._rows[1].choice.accessibleDescription().startswith("7.5 tokens/s")
    with qtbot.waitSignal(dialog.used) as used:
        dialog.use_button.click()
    assert used.args == [1]
    assert not dialog.isVisible()


def test_escape_stops_what_runs_and_only_then_leaves(qtbot: QtBot, dialog: TunerDialog) -> None:
    dialog.propose(PROPOSED)
    dialog.begin()
    with qtbot.waitSignal(dialog.stop_clicked):
        qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    dialog.close()
    assert dialog.isVisible()
    dialog.end(TuningEnded(results=RESULTS[:1], kept=0, cancelled=True))
    assert "only the plan that you have" in dialog.lead.text()
    with qtbot.waitSignal(dialog.left):
        qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible()


def test_an_error_is_said_and_nothing_can_be_used(dialog: TunerDialog) -> None:
    dialog.end(TuningEnded(error=AppError("There is no model.", hint="Choose one.")))
    assert dialog.lead.text() == "There is no model. Choose one."
    assert not dialog.use_button.isVisible()
    assert dialog.close_button.isVisible()


def test_a_plan_without_rival_starts_nothing(dialog: TunerDialog) -> None:
    dialog.propose(dataclasses.replace(PROPOSED, candidates=FOUND[:1]))
    assert "no other plan" in dialog.lead.text()
    assert not dialog.start_button.isEnabled()


@pytest.fixture
def service() -> Iterator[AppService]:
    service = AppService()
    yield service
    service.close()


def test_the_service_is_asked_and_what_it_found_is_put_in_force(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, object]] = []
    tuning, wanted = service.tuning, Settings(context=8192)
    monkeypatch.setattr(tuning, "propose", lambda settings: calls.append(("propose", settings)))
    monkeypatch.setattr(tuning, "start", lambda settings: calls.append(("start", settings)))
    monkeypatch.setattr(tuning, "cancel", lambda: calls.append(("cancel", None)))
    monkeypatch.setattr(tuning, "restore", lambda: calls.append(("restore", None)))
    monkeypatch.setattr(tuning, "apply", lambda index: calls.append(("apply", index)))
    split = SplitDialog(wanted, (), 31, lambda _settings, *, limits=True: None)
    qtbot.addWidget(split)
    controller = TunerController(service, split)
    controller.attach(split)
    controller.receive(PROPOSED)  # nobody asked: nothing happens
    split.fastest_wanted.emit(wanted)
    dialog = controller.dialog
    assert dialog is not None
    controller.receive(PROPOSED)
    dialog.start_button.click()
    controller.receive(STARTED)
    dialog.stop_button.click()
    for index, result in enumerate(RESULTS):
        controller.receive(CandidateMeasured(index=index, result=result))
    controller.receive(TuningEnded(results=RESULTS, kept=1, cancelled=True))
    with qtbot.waitSignal(split.accepted):
        dialog.use_button.click()
    assert calls == [("propose", wanted), ("start", wanted), ("cancel", None), ("apply", 1)]


def test_plans_that_are_told_after_the_dialogs_are_gone_are_no_error(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.tuning, "propose", lambda _settings: None)
    controller = TunerController(service)
    split = SplitDialog(Settings(), (), 31, lambda _settings, *, limits=True: None)
    controller.attach(split)
    split.fastest_wanted.emit(Settings())
    assert controller.dialog is not None
    controller.dialog.close_button.click()
    with qtbot.waitSignal(split.destroyed):
        split.deleteLater()
    controller.receive(PROPOSED)
