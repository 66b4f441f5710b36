"""The launcher with plans of the largest model on machines that are described, not owned."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLabel, QPushButton
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState, EngineStateChanged
from app.engine.protocol import DeviceMemory, Loaded
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.plan.devices import plan_devices
from app.plan.model import Basis, KvCacheType, LoadPlan, PlanHost, Remedy
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.verdicts import confirmed
from app.settings.model import Settings, SplitMode
from app.settings.requests import make_request, with_remedy
from app.units import GIB, MIB
from tests.helpers import described
from ui.launcher.launcher_view import LauncherView

LONG = Settings(context=32_768, kv_type_k=KvCacheType.Q8_0, kv_type_v=KvCacheType.Q8_0)


def ultra() -> ModelLayout:
    return bundled.layout("nemotron-ultra-253b:Q4_K_M")


@functools.cache
def planned(gpus: str, settings: str, backend: str = "cuda") -> LoadPlan:
    """As the service plans; `settings` as JSON, so that plans are made once."""
    wanted = Settings.model_validate_json(settings)
    report = described.report(gpus, ram_gib=128, backend=backend)
    devices = plan_devices(report)
    ram = report.memory
    host = PlanHost(total_bytes=ram.total_bytes, available_bytes=ram.available_bytes)
    layout = ultra()
    plan = make_plan(layout, make_request(wanted, layout, devices), devices, host)
    return with_remedies(plan, layout, devices, host, bundled.relatives(layout))


@pytest.fixture
def view(qtbot: QtBot) -> LauncherView:
    view = LauncherView()
    qtbot.addWidget(view)
    view.set_layout_of(ultra())
    view.resize(1200, 820)
    view.show()
    return view


def show(view: LauncherView, gpus: str, settings: Settings, backend: str = "cuda") -> LoadPlan:
    plan = planned(gpus, settings.model_dump_json(), backend)
    view.set_plan(plan, current=True)
    settle()
    return plan


def settle() -> None:
    """Layouts and what was added to them show themselves by posted events."""
    QApplication.processEvents()


def texts(view: LauncherView) -> list[str]:
    return [each.text() for each in view.findChildren(QLabel) if each.isVisibleTo(view)]


def links(view: LauncherView) -> dict[str, QPushButton]:
    found = view.outcome.findChildren(QPushButton)
    return {each.text(): each for each in found if each.isVisibleTo(view)}


def test_each_remedy_is_told_in_order_and_one_click_applies_it(
    qtbot: QtBot, view: LauncherView
) -> None:
    settings = Settings(context=131_072)
    plan = show(view, "8x RTX 3090", settings)
    told = [text for text in texts(view) if text in map(str, plan.remedies)]
    helpful = [str(remedy) for remedy in plan.remedies if not remedy.missing]
    assert [text for text in told if text in helpful] == helpful
    assert len(helpful) >= 3
    chosen: list[Remedy] = []
    view.remedy_chosen.connect(chosen.append)
    assert list(links(view)) == ["Use q4_0", f"Use {_context(plan):,} tokens"]
    for link in list(links(view).values()):
        link.setFocus()
        qtbot.keyClick(link, Qt.Key.Key_Space)
    assert len(chosen) == 2
    for remedy in chosen:
        changed = with_remedy(settings, remedy)
        assert changed != settings
        assert planned("8x RTX 3090", changed.model_dump_json()).fits, remedy.sentence


def _context(plan: LoadPlan) -> int:
    found = [remedy.changes["context"] for remedy in plan.remedies if "context" in remedy.changes]
    assert isinstance(found[0], int)
    return found[0]


def test_a_measured_speed_stands_in_the_place_of_the_estimate(view: LauncherView) -> None:
    plan = show(view, "8x RTX 3090", LONG)
    assert view.outcome.speed.text().startswith("Likely ")
    note = "Measured fastest on 25 Nov 2026: 7.1 tokens/s."
    view.set_plan(dataclasses.replace(plan, note=note), current=True)
    settle()
    assert view.outcome.speed.text() == note
    assert view.outcome.speed.isVisibleTo(view)


def test_an_even_split_that_does_not_fit_is_reset_by_one_click(view: LauncherView) -> None:
    even = LONG.model_copy(update={"split_mode": SplitMode.EVEN})
    plan = show(view, "8x RTX 3090", even)
    assert view.outcome.verdict.text().startswith("Does not fit: GPU 7 lacks")
    assert not view.outcome.speed.isVisible(), "what does not run has no speed"
    chosen: list[Remedy] = []
    view.remedy_chosen.connect(chosen.append)
    links(view)["Reset"].click()
    assert with_remedy(even, chosen[0]).split_mode is SplitMode.AUTOMATIC
    assert plan.remedies[0] == chosen[0]
    show(view, "8x RTX 3090", LONG)
    assert not links(view), "what fits needs no remedy"
    assert "prompts" in view.outcome.speed.text()
    assert "GPU-Benchmarks" in view.outcome.speed.toolTip(), "the source is told"


def test_tensors_apart_are_summed_up_and_listed_on_request(view: LauncherView) -> None:
    plan = show(view, "6x RTX 3090", LONG)
    apart = view.card.apart
    size = sum(each.size_bytes for each in plan.tensor_overrides) / GIB
    assert f"{len(plan.tensor_overrides)} tensors of layers" in apart.summary.text()
    assert f"in main memory, {size:.1f} GiB" in apart.summary.text()
    names = [each.tensor for each in plan.tensor_overrides]
    assert not set(names) & set(texts(view))
    apart.toggle.click()
    settle()
    assert set(names) <= set(texts(view))
    assert any("For a split with all layers on devices" in text for text in texts(view))
    assert "with all layers on devices" in view.outcome.speed.text()
    show(view, "8x RTX 3090", LONG)
    assert not apart.isVisible()


def test_a_tensor_that_its_backend_cannot_hold_says_why(view: LauncherView) -> None:
    show(view, "8x RX 7900 XTX", LONG, "vulkan")
    words = view.card.apart.summary.text()
    assert words.startswith("1 tensor of layer 134 in main memory, 5.3 GiB.")
    assert "Vulkan" in words


def test_the_basis_is_told_and_a_load_stands_beside_the_plan(view: LauncherView) -> None:
    plan = show(view, "8x RTX 3090", LONG)
    asked: list[bool] = []
    view.confirm_clicked.connect(lambda: asked.append(True))
    assert view.card.footnote.text().startswith("Computed")
    assert "Difference" not in texts(view)
    view.card.confirm.click()
    assert asked
    figures = {
        share.device.engine_name: (share.weights_bytes, share.kv_cache_bytes, share.compute_bytes)
        for share in plan.devices
    }
    host = plan.host
    figures["CPU"] = (host.weights_bytes, host.kv_cache_bytes, host.compute_bytes)
    view.set_plan(confirmed(plan, figures), current=True)
    assert view.card.footnote.text().startswith("Confirmed")
    assert not view.card.confirm.isVisible()
    memory = [
        DeviceMemory(device=name, weights_bytes=weights, kv_cache_bytes=kv, compute_bytes=compute)
        for name, (weights, kv, compute) in figures.items()
    ]
    memory[2] = memory[2].model_copy(update={"compute_bytes": memory[2].compute_bytes + 34 * MIB})
    view.set_loaded(
        Loaded(
            context=32_768,
            train_context=131_072,
            memory=tuple(memory),
            duration_s=60,
            threads=8,
            has_chat_template=True,
        )
    )
    settle()
    shown = texts(view)
    assert "Difference" in shown
    assert "+34 MiB" in shown
    assert "within 34 MiB" in view.card.footnote.text()
    view.set_plan(dataclasses.replace(plan, basis=Basis.ESTIMATED), current=False)
    settle()
    assert "Difference" not in texts(view), "another plan is not compared with what is loaded"
    assert "the numbers are estimates" in view.card.footnote.text()
    assert view.card.confirm.isVisible()


@pytest.mark.parametrize("width", [872, 1192])
def test_nothing_is_cut_off_at_the_sides(qtbot: QtBot, view: LauncherView, width: int) -> None:
    view.set_report(described.report("8x RTX 3090", ram_gib=128))
    for gpus, settings in itertools.product(("8x RTX 3090", "6x RTX 3090"), (LONG,)):
        show(view, gpus, settings)
        view.resize(width, 640)
        qtbot.waitUntil(lambda: view.area.horizontalScrollBar().maximum() == 0)


def test_what_the_engine_asks_and_warns_of_has_the_whole_width_of_a_narrow_foot(
    qtbot: QtBot, view: LauncherView
) -> None:
    view.resize(960 - 88, 640)
    view.show()
    view.set_engine(EngineStateChanged(state=EngineState.READY))
    view.status.alarm.show_error("GPU 2 holds 1.4 GiB of the model in main memory.")
    view.status.question.ask("Nothing was heard of the engine for 45 s.")
    whole = view.width() - 2 * 32
    for line in (view.status.alarm, view.status.question):
        qtbot.waitUntil(lambda one=line: one.width() == whole)  # type: ignore[misc]
    assert view.status.question.geometry().bottom() < view._primary.geometry().top()


def test_what_is_left_of_a_machine_fills_the_strip(view: LauncherView) -> None:
    for gpus in ("3x RTX 3090", "1x RTX 3090"):
        view.set_report(described.report(gpus, ram_gib=128))
        QApplication.processEvents()
    last = view.strip._cells[-1][1].box
    assert last.geometry().right() > view.strip.width() - 20


def test_a_model_whose_engine_ended_is_loaded_again(view: LauncherView) -> None:
    show(view, "8x RTX 3090", LONG)
    view.set_engine(EngineStateChanged(state=EngineState.CRASHED))
    assert view._primary.text() == "Reload"
    view.set_engine(EngineStateChanged(state=EngineState.STOPPED))
    assert view._primary.text() == "Load"
