"""What was measured is remembered, and thrown away when it no longer holds."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from datetime import date
from pathlib import Path

import pytest

from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan.measured import MOST_RESERVE, MeasuredStore
from app.plan.model import KvCacheType, LoadPlan, Objective, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.plan.tuned import TunedStore, tuned_from, tuned_plan
from app.units import GIB
from tests.helpers.machines import cards

HOST = PlanHost(total_bytes=8 * GIB, available_bytes=8 * GIB)
REQUEST = PlanRequest(context=2048, any_order=True)
DEVICES = cards([2, 1, 1], backend="rpc")


@pytest.fixture
def layout(starter_model: Path, tmp_path: Path) -> ModelLayout:
    """A model file of the test's own."""
    return read_layout(Path(shutil.copy2(starter_model, tmp_path / "model.gguf")))


@pytest.fixture
def store(layout: ModelLayout, tmp_path: Path) -> TunedStore:
    """Knows that all on the last device but the output is the fastest."""
    store = TunedStore(tmp_path / "tuned.json", "1.0")
    order = (DEVICES[2], DEVICES[0], DEVICES[1])
    request = dataclasses.replace(
        REQUEST, layer_counts=(30, 1, 0), any_order=False, micro_batch=256
    )
    plan = make_plan(layout, request, order, HOST)
    tuned = tuned_from(plan, 7.1, 60.0, date(2026, 11, 25))
    store.put(layout, DEVICES, REQUEST, plan.context, tuned)
    return store


def found(
    store: TunedStore,
    layout: ModelLayout,
    request: PlanRequest = REQUEST,
    devices: tuple[PlanDevice, ...] = DEVICES,
) -> LoadPlan | None:
    return tuned_plan(store, layout, request, devices, HOST)


def test_the_next_automatic_plan_is_the_measured_one_and_says_so(
    store: TunedStore, layout: ModelLayout
) -> None:
    plan = found(store, layout)
    assert plan is not None
    assert plan.fits
    assert [(s.device.id, s.layer_count) for s in plan.devices if s.used] == [("d2", 30), ("d0", 1)]
    assert plan.request.micro_batch == 256
    assert plan.note == "Measured fastest on 25 Nov 2026: 7.1 tokens/s."
    backwards = found(store, layout, devices=DEVICES[::-1])
    assert backwards is not None, "the order in which devices are found does not matter"
    assert backwards.tensor_split == plan.tensor_split


def test_an_automatic_context_counts_as_the_tokens_that_it_becomes(
    store: TunedStore, layout: ModelLayout
) -> None:
    automatic = dataclasses.replace(REQUEST, context=None)
    assert found(store, layout, automatic) is None
    context = make_plan(layout, automatic, DEVICES, HOST).context
    known = store.get(layout, DEVICES, REQUEST, 2048)
    assert known is not None
    store.put(layout, DEVICES, automatic, context, known)
    plan = found(store, layout, automatic)
    assert plan is not None
    assert plan.context == context


def test_who_fixes_the_split_or_wants_something_else_gets_that(
    store: TunedStore, layout: ModelLayout
) -> None:
    for changes in (
        {"layer_counts": (10, 10, 11)},
        {"any_order": False},
        {"objective": Objective.FEWEST},
        {"objective": Objective.LONGEST},
        {"context": 4096},
        {"kv_type_k": KvCacheType.Q8_0},
        {"micro_batch": 128},
    ):
        request = dataclasses.replace(REQUEST, **changes)
        assert found(store, layout, request) is None, changes
    assert found(store, layout, dataclasses.replace(REQUEST, objective=Objective.FASTEST))


def test_another_model_device_or_engine_knows_nothing_of_it(
    store: TunedStore, layout: ModelLayout, tmp_path: Path
) -> None:
    assert found(store, layout, devices=DEVICES[:2]) is None
    swapped = (*DEVICES[:2], dataclasses.replace(DEVICES[2], total_bytes=3 * GIB))
    assert found(store, layout, devices=swapped) is None
    assert found(TunedStore(tmp_path / "tuned.json", "1.1"), layout) is None
    moved = tmp_path / "elsewhere" / "model.gguf"
    moved.parent.mkdir()
    layout.files[0].rename(moved)
    assert found(store, read_layout(moved)), "the same file in another folder"
    os.utime(moved, ns=(1, 1))
    assert found(store, read_layout(moved)) is None


def test_what_no_longer_fits_is_forgotten(store: TunedStore, layout: ModelLayout) -> None:
    full = (*DEVICES[:2], dataclasses.replace(DEVICES[2], free_bytes=GIB // 16))
    quick = tuned_plan(store, layout, REQUEST, full, HOST, limits=False)
    assert quick is None
    assert found(store, layout), "a glance forgets nothing"
    assert found(store, layout, devices=full) is None
    assert found(store, layout) is None
    assert store.empty


def test_a_damaged_file_counts_as_empty_and_a_disk_that_takes_nothing_does_no_harm(
    store: TunedStore, layout: ModelLayout, tmp_path: Path
) -> None:
    known = store.get(layout, DEVICES, REQUEST, 2048)
    assert known is not None
    path = tmp_path / "tuned.json"
    path.write_text(path.read_text().replace('"micro_batch": 256', '"micro_batch": -1'))
    assert found(store, layout) is None
    path.write_text("[1, 2")
    assert store.empty
    blocked = TunedStore(tmp_path / "model.gguf" / "tuned.json", "1.0")
    blocked.put(layout, DEVICES, REQUEST, 2048, known)
    assert blocked.empty


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"d0",', '"d2",'),
        ('"d0",', '"other",'),
        ('"d0",', ""),
        ("30,", "99999,"),
        ("30,", "-30,"),
        ('"flash_attention": "auto"', '"flash_attention": "off"'),
    ],
)
def test_what_nobody_can_have_measured_is_forgotten(
    store: TunedStore, layout: ModelLayout, tmp_path: Path, written: str, instead: str
) -> None:
    path = tmp_path / "tuned.json"
    text = path.read_text()
    if "flash" in written:  # with a cache that needs it
        request = dataclasses.replace(REQUEST, kv_type_v=KvCacheType.Q8_0)
        known = store.get(layout, DEVICES, REQUEST, 2048)
        assert known is not None
        store.put(layout, DEVICES, request, 2048, known)
        text = path.read_text()
    else:
        request = REQUEST
    assert written in text
    path.write_text(text.replace(written, instead))
    assert found(store, layout, request) is None
    assert store.get(layout, DEVICES, request, 2048) is None


def test_a_number_of_any_length_is_no_reserve(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"gpu": {"unaccounted": 10**400}}))
    assert MeasuredStore(path).reserves() == {"gpu": MOST_RESERVE}
