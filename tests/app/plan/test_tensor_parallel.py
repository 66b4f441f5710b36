"""Where tensors can be split over devices, and what each takes then. Real loads are in the engine's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.errors import AppError, ErrorKind
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan import text
from app.plan.model import Basis, FlashAttention, LoadPlan, Objective, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.speed import estimate
from app.plan.tensor_parallel import withheld
from app.settings.model import Settings, SplitMode
from app.settings.requests import load_command, make_request, with_remedy
from app.units import MIB
from tests.helpers.machines import HOST, cards
from tests.helpers.small_models import recurrent, sliding_window

REQUEST = PlanRequest(context=2048, tensor_parallel=True)


@pytest.fixture(scope="module")
def layout(starter_model: Path) -> ModelLayout:
    return read_layout(starter_model)


def planned(layout: ModelLayout, sizes: Sequence[float], **changes: object) -> LoadPlan:
    request = dataclasses.replace(REQUEST, **changes)  # type: ignore[arg-type]
    return make_plan(layout, request, cards(sizes), HOST)


def test_it_is_offered_where_llama_cpp_allows_it(layout: ModelLayout, tmp_path: Path) -> None:
    two = cards([2, 2])
    assert withheld(layout, REQUEST, two) == ""
    mixed = (two[0], dataclasses.replace(two[1], backend="vulkan"))
    no_flash = dataclasses.replace(REQUEST, flash_attention=FlashAttention.OFF)
    mamba = read_layout(recurrent(tmp_path / "mamba.gguf"))
    one_head = read_layout(sliding_window(tmp_path / "one.gguf", kv_heads=1))
    four_heads = read_layout(sliding_window(tmp_path / "four.gguf"))
    assert withheld(four_heads, REQUEST, two) == ""
    for model, request, devices, word in (
        (layout, REQUEST, two[:1], "two devices"),
        (layout, REQUEST, mixed, "one backend"),
        (layout, no_flash, two, "flash attention"),
        (mamba, REQUEST, two, "mamba"),
        (one_head, REQUEST, two, "KV heads"),
        (bundled.layout("nemotron-ultra-253b:Q4_K_M"), REQUEST, two, "no attention"),
    ):
        assert word in withheld(model, request, devices)
        with pytest.raises(AppError) as error:
            make_plan(model, request, devices, HOST)
        assert error.value.kind is ErrorKind.USAGE
        assert "layers" in error.value.hint


def test_each_device_takes_its_part_and_what_all_hold(layout: ModelLayout) -> None:
    alone = make_plan(layout, PlanRequest(context=2048), cards([2]), HOST).devices[0]
    two, four = planned(layout, [2, 2]), planned(layout, [2] * 4)
    assert two.verdict is Verdict.FITS
    assert two.basis is Basis.ESTIMATED
    assert two.gpu_layers == layout.block_count + 1
    assert two.tensor_split == (1, 1)
    first, second = two.devices
    assert first.model_bytes == second.model_bytes
    assert first.kv_cache_bytes == alone.kv_cache_bytes // 2
    whole = 2 * first.weights_bytes - alone.weights_bytes
    assert alone.weights_bytes * 0.25 < whole < alone.weights_bytes * 0.35, "the tied output"
    assert first.compute_bytes >= alone.compute_bytes - MIB
    assert four.devices[0].weights_bytes < first.weights_bytes
    assert two.max_context == layout.context_length
    assert estimate(two, layout).generation is None
    assert "estimate" in text.describe(two, "model.gguf")


def test_devices_of_unlike_room_take_unlike_parts(layout: ModelLayout) -> None:
    even = planned(layout, [4, 2])
    assert even.tensor_split == (1, 1), "as fast as the slower one: even where that fits"
    tight = planned(layout, [2, 0.77, 2], context=4096)
    assert tight.verdict is Verdict.FITS
    parts = tight.tensor_split
    assert parts[0] > parts[1]
    assert abs(sum(parts) - 1000) <= 1
    longest = planned(layout, [0.8, 0.8], context=None, objective=Objective.LONGEST)
    assert longest.verdict is Verdict.FITS
    assert longest.context == longest.max_context > 1024
    assert planned(layout, [0.8, 0.8], context=longest.context + 256).shortfall_bytes > 0
    assert planned(layout, [0.7, 0.7]).verdict is Verdict.TOO_LARGE
    assert "lacks" in planned(layout, [0.7, 0.7]).sentence


def test_what_would_help_is_tried_with_split_tensors(layout: ModelLayout) -> None:
    sizes = [0.9, 0.75]
    request = dataclasses.replace(REQUEST, context=4096)
    plan = planned(layout, sizes, context=4096)
    assert not plan.runs
    remedies = with_remedies(plan, layout, cards(sizes), HOST).remedies
    first, *others = [remedy for remedy in remedies if remedy.changes]
    assert "layers split instead" in first.sentence
    assert (
        with_remedy(Settings(split_mode=SplitMode.TENSOR), first).split_mode is SplitMode.AUTOMATIC
    )
    for remedy in others:
        changed = dataclasses.replace(request, **remedy.changes)  # type: ignore[arg-type]
        made = make_plan(layout, changed, cards(sizes), HOST)
        assert made.runs, remedy.sentence
        assert made.request.tensor_parallel


def test_settings_ask_for_it_where_it_is_possible(layout: ModelLayout) -> None:
    settings = Settings(split_mode=SplitMode.TENSOR, context=2048)
    devices = cards([2, 2])
    request = make_request(settings, layout, devices)
    assert request.tensor_parallel
    plan = make_plan(layout, request, devices, HOST)
    command = load_command(plan, layout, settings, None)
    assert (command.split_mode, command.tensor_split) == ("tensor", (1, 1))
    assert command.flash_attention == "on"
    assert command.gpu_layers == 31
    assert " -ts 1,1 -sm tensor " in text.command_line(plan, "model.gguf")
    alone = make_request(settings, layout, devices[:1])
    assert not alone.tensor_parallel
    assert (
        load_command(make_plan(layout, alone, devices[:1], HOST), layout, settings, None).split_mode
        == "layer"
    )
