"""Models and machines out of the ordinary."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from app.errors import AppError
from app.gguf import bundled
from app.gguf.reader import read_layout
from app.plan.model import Basis, FlashAttention, KvCacheType, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.recommend import matrix
from app.plan.verdicts import confirmed
from app.units import GIB
from tests.helpers.machines import HOST, ULTRA, cards, ultra
from tests.helpers.models import FAMILIES, random_model


@pytest.mark.parametrize("family", FAMILIES)
def test_architectures_that_are_not_known_are_estimated(family: str, tmp_path: Path) -> None:
    layout = read_layout(random_model(random.Random(3), family).write(tmp_path / "m.gguf"))
    layout = dataclasses.replace(layout, architecture="unheard-of")
    for index in (0, 3, 6):
        layers = tuple(
            dataclasses.replace(layer, tensors=layer.tensors[:index] + layer.tensors[index + 1 :])
            for layer in layout.layers
        )
        odd = dataclasses.replace(layout, layers=layers)
        plan = make_plan(odd, PlanRequest(context=1000), cards([24, 24]), HOST)
        assert plan.basis is Basis.ESTIMATED
        assert plan.devices[0].compute_bytes + plan.devices[1].compute_bytes > 0


def test_a_latent_cache_has_one_type(tmp_path: Path) -> None:
    chance = random.Random(1)
    while True:
        layout = read_layout(random_model(chance, "deepseek2").write(tmp_path / "m.gguf"))
        if any(key.endswith("key_length_mla") for key in layout.metadata):
            break
    request = PlanRequest(context=512, kv_type_k=KvCacheType.Q8_0)
    with pytest.raises(AppError, match="both need the same type"):
        make_plan(layout, request, cards([24]), HOST)


def test_flash_attention_is_off_where_it_would_run_apart_from_its_layer(tmp_path: Path) -> None:
    chance = random.Random(5)
    while True:
        layout = read_layout(random_model(chance, "nemotron_h").write(tmp_path / "m.gguf"))
        pairs = zip(layout.layers, layout.layers[1:], strict=False)
        cut = next((i + 1 for i, (a, b) in enumerate(pairs) if a.head_count_kv and b.recurrent), 0)
        if cut:
            break
    counts = (layout.block_count + 1 - cut,)
    request = PlanRequest(context=65_536, layer_counts=counts)
    plan = make_plan(layout, request, cards([80], backend="rpc"), HOST)
    assert plan.request.flash_attention is FlashAttention.OFF
    with_it = dataclasses.replace(request, flash_attention=FlashAttention.ON)
    other = make_plan(layout, with_it, cards([80], backend="rpc"), HOST)
    assert plan.devices[0].compute_bytes > 2 * other.devices[0].compute_bytes
    needed = dataclasses.replace(request, kv_type_v=KvCacheType.Q8_0)
    plan = make_plan(layout, needed, cards([80], backend="rpc"), HOST)
    assert plan.request.flash_attention is FlashAttention.ON


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("Q4_K_M", [24] * 5), ("Q6_K", [24] * 5), ("Q8_0", [32] * 4), ("BF16", [80] * 4)],
)
def test_no_tensor_is_counted_twice_or_not_at_all(kind: str, sizes: list[float]) -> None:
    plan = ultra(kind, sizes, 4096, backend="vulkan")
    names = [override.tensor for override in plan.tensor_overrides]
    assert len(set(names)) == len(names)
    layout = bundled.layout(f"{ULTRA}:{kind}")
    by_name = {override.tensor: override.device for override in plan.tensor_overrides}
    for share in plan.devices:
        if share.first_layer is None or share.last_layer is None:
            continue
        layers = [
            layer for layer in layout.layers if share.first_layer <= layer.index <= share.last_layer
        ]
        tensors = [t for layer in layers for t in layer.tensors if t.name not in by_name]
        tensors += [
            t
            for layer in layout.layers
            for t in layer.tensors
            if by_name.get(t.name) == share.device.engine_name
        ]
        if share.holds_output:
            tensors += layout.output
        true = sum(t.size_bytes for t in tensors)
        assert share.weights_bytes == pytest.approx(true, abs=64 * len(tensors) + 4096)
        assert all(t.size_bytes < 2**32 for t in tensors)


def test_more_devices_than_llama_cpp_takes() -> None:
    layout = bundled.layout("nemotron-super-49b:Q8_0")
    plan = make_plan(layout, PlanRequest(context=4096), cards([4] * 18 + [8, 8]), HOST)
    assert len(plan.devices) == 15
    assert {"d18", "d19"} <= {share.device.id for share in plan.devices}
    assert plan.warnings == ("llama.cpp takes at most 15 devices: 5 of 20 are left out.",)
    two = make_plan(layout, PlanRequest(context=4096), cards([4] * 17), HOST)
    told = [device.label for device in cards([4] * 17)[15:]]
    assert two.warnings == (f"llama.cpp takes at most 15 devices: {', '.join(told)} are left out.",)
    one = make_plan(layout, PlanRequest(context=4096), cards([8] * 15 + [4]), HOST)
    assert "is left out" in one.warnings[0]
    assert not make_plan(layout, PlanRequest(context=4096), cards([8] * 15), HOST).warnings


def test_rpc_devices_of_this_machine_limit_the_context_too() -> None:
    layout = bundled.layout("nemotron-super-49b:Q4_K_M")
    device = dataclasses.replace(cards([40], backend="rpc")[0], shares_host_memory=True)
    host = PlanHost(total_bytes=40 * GIB, available_bytes=40 * GIB)
    plan = make_plan(layout, PlanRequest(context=8192), (device,), host)
    assert make_plan(layout, PlanRequest(context=plan.max_context), (device,), host).fits
    beyond = PlanRequest(context=plan.max_context + 2048)
    assert not make_plan(layout, beyond, (device,), host).fits


@pytest.mark.parametrize("sizes", [[24, 24], [20, 30], [48]])
def test_the_most_context_fits_and_more_does_not(sizes: list[float]) -> None:
    layout = bundled.layout("nemotron-super-49b:Q4_K_M")
    plan = make_plan(layout, PlanRequest(context=8192), cards(sizes), HOST)
    assert plan.fits
    at_most = make_plan(layout, PlanRequest(context=plan.max_context), cards(sizes), HOST)
    assert at_most.fits
    assert not at_most.tensor_overrides
    if plan.max_context < layout.context_length:
        beyond = make_plan(
            layout, PlanRequest(context=plan.max_context * 21 // 20), cards(sizes), HOST
        )
        assert not beyond.fits or beyond.tensor_overrides


def test_a_model_trained_for_few_tokens(starter_model: Path) -> None:
    layout = dataclasses.replace(read_layout(starter_model), context_length=128)
    plan = make_plan(layout, PlanRequest(), cards([24]), HOST)
    assert (plan.context, plan.max_context) == (128, 128)


def test_what_is_confirmed_has_its_own_verdict_and_sentence() -> None:
    layout = bundled.layout("nemotron-super-49b:Q4_K_M")
    plan = make_plan(
        layout, PlanRequest(context=4096, layer_counts=(41, 40)), cards([15, 15]), HOST
    )
    assert "lacks" in plan.sentence
    less = {
        s.device.engine_name: (s.weights_bytes // 2, s.kv_cache_bytes, s.compute_bytes)
        for s in plan.devices
    }
    host = (plan.host.weights_bytes, plan.host.kv_cache_bytes, plan.host.compute_bytes)
    found = confirmed(plan, {**less, "CPU": host})
    assert found.verdict is Verdict.FITS
    assert "lacks" not in found.sentence
    assert found.basis is Basis.CONFIRMED


def test_cells_of_the_matrix_agree_with_their_plans() -> None:
    layouts = [bundled.layout(f"{ULTRA}:{kind}") for kind in ("Q4_K_M", "Q4_1")]
    machine = cards([23.6] * 8)
    for choice in matrix(layouts, PlanRequest(any_order=True), machine, HOST):
        plan = make_plan(choice.layout, choice.plan.request, machine, HOST)
        assert (choice.plan.verdict is Verdict.FITS) is (
            plan.verdict is Verdict.FITS and not plan.tensor_overrides
        )
