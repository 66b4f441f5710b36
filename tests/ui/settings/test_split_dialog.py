"""The dialog on a real model's plan, for three cards of different size that are described, not owned."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.errors import AppError
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.hardware.model import BackendSupport, Device, DeviceKind, Vendor
from app.plan.model import FlashAttention, LoadPlan, Objective, PlanDevice, PlanHost
from app.plan.planner import make_plan
from app.settings.model import Settings, SplitMode
from app.settings.requests import make_request
from app.units import GIB
from ui.settings.split_dialog import SplitDialog


def card(index: int, size: int) -> Device:
    return Device(
        id=f"GPU-{index}",
        label=f"GPU {index}",
        name="card",
        vendor=Vendor.NVIDIA,
        kind=DeviceKind.GPU,
        memory_total_bytes=size,
        memory_free_bytes=size,
        support=BackendSupport(backend="cuda", engine_name=f"CUDA{index}"),
    )


CARDS = (card(0, 2 * GIB), card(1, 1 * GIB), card(2, 1 * GIB))


@pytest.fixture(scope="module")
def layout(starter_model: Path) -> ModelLayout:
    return read_layout(starter_model)


@pytest.fixture
def dialog(qtbot: QtBot, layout: ModelLayout) -> SplitDialog:
    def preview(settings: Settings, *, limits: bool = True) -> LoadPlan:
        order = [
            *settings.device_order,
            *(c.id for c in CARDS if c.id not in settings.device_order),
        ]
        known = {c.id: c for c in CARDS if c.id not in settings.disabled_devices}
        devices = tuple(
            PlanDevice(
                id=c.id,
                label=c.label,
                name=c.name,
                engine_name=c.support.engine_name or "",
                backend="cuda",
                total_bytes=c.memory_total_bytes or 0,
                free_bytes=c.memory_total_bytes or 0,
            )
            for c in (known[i] for i in order if i in known)
        )
        host = PlanHost(total_bytes=8 * GIB, available_bytes=8 * GIB)
        request = make_request(settings, layout, devices)
        return make_plan(layout, request, devices, host, limits=limits)

    order = tuple(card.id for card in CARDS)
    settings = Settings(context=2048, device_order=order)
    dialog = SplitDialog(settings, CARDS, layout.block_count + 1, preview)
    qtbot.addWidget(dialog)
    dialog.show()
    return dialog


def numbers(dialog: SplitDialog) -> list[int]:
    return [row.number.value() for row in dialog._rows]


def test_the_total_stays_and_locked_cards_keep_theirs(dialog: SplitDialog) -> None:
    dialog._rows[0].number.setValue(10)
    dialog._rows[1].number.setValue(9)
    assert numbers(dialog) == [10, 9, 12]
    dialog._rows[1].lock.setChecked(True)
    dialog._rows[0].number.setValue(14)
    assert numbers(dialog) == [14, 9, 8]
    dialog.layers.cut_moved.emit(1, 20)
    assert numbers(dialog) == [14, 9, 8], "a cut beside a locked card does not move it"
    assert "locked" in dialog._problem.text()
    dialog._rows[1].lock.setChecked(False)
    dialog.layers.cut_moved.emit(1, 20)
    assert numbers(dialog) == [14, 6, 11]
    assert dialog.mode is SplitMode.MANUAL
    assert dialog.chosen().layers == {"GPU-0": 14, "GPU-1": 6, "GPU-2": 11}


def test_a_reserve_that_leaves_no_room_is_named_and_cannot_be_applied(dialog: SplitDialog) -> None:
    dialog._rows[0].number.setValue(30)
    dialog._rows[0].number.setValue(31)
    assert numbers(dialog) == [31, 0, 0]
    assert dialog.apply_button.isEnabled()
    dialog._rows[0].reserve.setValue(2.0)
    assert "GPU 0 lacks" in dialog._verdict.text()
    assert not dialog.apply_button.isEnabled()
    assert dialog.chosen().reserves == {"GPU-0": 2 * GIB}


def test_a_card_that_is_off_or_moved_changes_the_plan_and_reset_undoes_it(
    dialog: SplitDialog,
) -> None:
    before = numbers(dialog)
    dialog._rows[0].use.setChecked(False)
    assert dialog._rows[0].needs.text() == "off"
    assert sum(numbers(dialog)[1:]) == 31
    dialog._rows[2].up.click()
    assert [row.device.id for row in dialog._rows] == ["GPU-0", "GPU-2", "GPU-1"]
    dialog._reset()
    assert dialog.mode is SplitMode.AUTOMATIC
    assert sum(numbers(dialog)) == sum(before) == 31
    assert dialog.chosen().device_order == (), "the order is the planner's again"
    spans = [row.span.text() for row in dialog._rows if row.number.value()]
    assert spans[0].startswith("0"), "rows stand in the order of the layers"
    assert spans[-1].endswith("output")


def test_a_wrong_address_is_said_and_nothing_can_be_applied(dialog: SplitDialog) -> None:
    dialog.choices.servers.setText("not an address")
    assert "not an address" in dialog._problem.text()
    assert not dialog.apply_button.isEnabled()
    dialog.choices.servers.setText("")
    assert dialog.apply_button.isEnabled()


def test_every_tile_says_what_would_come_of_it(dialog: SplitDialog) -> None:
    notes = dialog._tiles._notes
    assert all("GiB" in notes[m].text() for m in SplitMode if m is not SplitMode.MANUAL)
    dialog.choices.context.setValue(8192)
    dialog._rows[0].reserve.setValue(1.9)
    assert "GPU 0 needs" in notes[SplitMode.EVEN].text()


def test_tensors_are_split_where_that_is_possible(dialog: SplitDialog) -> None:
    tile = dialog._tiles._tiles[SplitMode.TENSOR]
    assert tile.isVisible()
    assert tile.isEnabled()
    assert dialog._tiles._notes[SplitMode.TENSOR].text().startswith("Experimental, ")
    tile.click()
    assert dialog.mode is SplitMode.TENSOR
    assert not dialog.layers.isVisible()
    assert not any(row.number.isEnabled() for row in dialog._rows)
    assert [row.span.text() for row in dialog._rows] == ["33 % of all"] * 3
    assert "Experimental" in dialog._verdict.text()
    assert dialog.apply_button.isEnabled()
    assert dialog.chosen().split_mode is SplitMode.TENSOR
    flash_attention = dialog.choices.flash_attention
    flash_attention.setCurrentIndex(flash_attention.findData(FlashAttention.OFF))
    assert not tile.isEnabled()
    dialog._reset()
    assert dialog.layers.isVisible()
    assert all(row.number.isEnabled() for row in dialog._rows)


def test_the_fastest_is_looked_for_with_what_is_chosen(qtbot: QtBot, dialog: SplitDialog) -> None:
    dialog.choices.context.setValue(4096)
    with qtbot.waitSignal(dialog.fastest_wanted) as wanted:
        dialog.fastest_button.click()
    assert wanted.args == [dialog.chosen()]
    for row in dialog._rows:
        row.reserve.setValue(2.0)
    dialog._rows[0].number.setValue(30)
    assert not dialog.apply_button.isEnabled()
    assert not dialog.fastest_button.isEnabled()


def test_what_is_chosen_reaches_the_planner_and_the_outcome_follows(
    qtbot: QtBot, dialog: SplitDialog, layout: ModelLayout
) -> None:
    choices = dialog.choices
    fields = (choices.objective, choices.micro_batch, choices.flash_attention)
    assert all(field.accessibleName() and field.accessibleDescription() for field in fields)
    choices.context.setValue(8192)
    dialog._rows[0].reserve.setValue(1.63)
    assert sum(1 for count in numbers(dialog) if count) == 3
    choices.objective.setFocus()
    qtbot.keyClick(choices.objective, Qt.Key.Key_Down)
    assert sum(1 for count in numbers(dialog) if count) < 3, "the fewest devices"
    choices.micro_batch.setCurrentIndex(choices.micro_batch.findData(4096))
    choices.flash_attention.setCurrentIndex(choices.flash_attention.findData(FlashAttention.OFF))
    applied: list[Settings] = []
    dialog.applied.connect(applied.append)
    dialog.apply_button.click()
    request = make_request(applied[0], layout, ())
    assert request.objective is Objective.FEWEST
    assert (request.micro_batch, request.batch) == (4096, 4096)
    assert request.flash_attention is FlashAttention.OFF


def test_an_objective_is_for_automatic_splits_of_several_devices(
    qtbot: QtBot, dialog: SplitDialog
) -> None:
    assert dialog.choices.objective.isEnabled()
    dialog._rows[0].number.setValue(10)
    assert not dialog.choices.objective.isEnabled()
    assert "choose Automatic" in dialog.choices.objective.toolTip()
    alone = SplitDialog(Settings(), CARDS[:1], dialog._total, lambda _s, *, limits=True: None)
    qtbot.addWidget(alone)
    alone.show()
    assert not alone.choices.objective.isVisible()
    assert alone.choices.micro_batch.isVisible()


def test_the_exact_plan_is_asked_for_elsewhere_and_a_late_answer_does_not_count(
    qtbot: QtBot, dialog: SplitDialog
) -> None:
    with qtbot.waitSignal(dialog.studied) as asked:
        dialog.choices.context.setValue(4096)
    assert dialog._facts.text().endswith("checking what fits")
    settings = asked.args[0] if asked.args else Settings()
    exact = dialog._preview(settings, limits=True)
    assert exact is not None
    dialog.choices.context.setValue(1024)
    dialog.show_exact(settings, exact, None)
    assert dialog._facts.text() == "1,024 tokens, checking what fits"
    with qtbot.waitSignal(dialog.studied):
        dialog.choices.context.setValue(4096)
    dialog.show_exact(settings, exact, None)
    assert dialog._facts.text() == f"4,096 tokens, up to {exact.max_context:,} fit"
    dialog.show_exact(settings, None, AppError("Impossible."))
    assert "Impossible" in dialog._problem.text()
    assert not dialog.apply_button.isEnabled()


def test_enter_in_a_field_changes_no_split(qtbot: QtBot, dialog: SplitDialog) -> None:
    dialog._rows[0].number.setValue(10)
    dialog.choices.servers.setFocus()
    qtbot.keyClick(dialog.choices.servers, Qt.Key.Key_Return)
    assert dialog.mode is SplitMode.MANUAL
    assert not dialog.isVisible(), "Enter applies"


def test_nothing_is_cut_off_at_the_sides_of_the_smallest_dialog(
    qtbot: QtBot, dialog: SplitDialog
) -> None:
    dialog.resize(dialog.minimumSize())
    dialog._rows[0].number.setValue(0)
    dialog.grab()
    assert dialog._table.horizontalScrollBar().maximum() == 0
