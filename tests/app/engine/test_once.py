"""Dry runs of models of which there is no file, on devices that are not there."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest

from app.engine import protocol
from app.engine.once import dry_run
from app.errors import AppError
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.settings.model import Settings
from app.settings.requests import load_command
from app.units import GIB, MIB

HOST = PlanHost(total_bytes=128 * GIB, available_bytes=128 * GIB)


def planned(layout: ModelLayout, count: int, size: int, request: PlanRequest) -> LoadPlan:
    devices = [
        PlanDevice(
            id=f"gpu-{index}", label=f"GPU {index}", name="", engine_name=f"CUDA{index}",
            backend="rpc", total_bytes=size, free_bytes=size,
        )
        for index in range(count)
    ]  # fmt: skip
    return make_plan(layout, request, devices, HOST)


def found(
    plan: LoadPlan, layout: ModelLayout, data: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[int, int, int]]:
    """The dry run's figures; leaves no file behind."""
    folder = data / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    try:
        return dry_run(load_command(plan, layout, Settings(), None), layout, data, stand_ins=True)
    finally:
        assert not list(folder.iterdir())
        folder.rmdir()


def held(layout: ModelLayout, first: int, last: int) -> int:
    """Bytes of these layers; each device with any gets its copy of the rope factors."""
    inside = sum(layer.size_bytes for layer in layout.layers[first : last + 1])
    output = sum(tensor.size_bytes for tensor in layout.output)
    rope = sum(tensor.size_bytes for tensor in layout.other)
    ends = last == layout.block_count
    return inside + (output if ends else 0) + (rope if first < layout.block_count else 0)


@pytest.mark.parametrize(
    ("name", "count", "size", "request_", "all_fit"),
    [
        (
            "nemotron-ultra-253b:Q4_K_M", 8, 24 * GIB,
            PlanRequest(context=32_768, kv_type_k=KvCacheType.Q8_0, kv_type_v=KvCacheType.Q8_0),
            True,
        ),
        ("nemotron-ultra-253b:IQ3_XXS", 3, 24 * GIB, PlanRequest(context=8192), False),
        ("nemotron-super-49b:Q5_K_M", 2, 32 * GIB, PlanRequest(context=16_384), True),
    ],
)  # fmt: skip
def test_llama_cpp_counts_what_the_plan_counts(
    name: str,
    count: int,
    size: int,
    request_: PlanRequest,
    all_fit: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = bundled.layout(name)
    plan = planned(layout, count, size, request_)
    assert (plan.gpu_layers == layout.block_count + 1) is all_fit
    counted = found(plan, layout, tmp_path, monkeypatch)
    for share in plan.devices:
        assert share.first_layer is not None
        assert share.last_layer is not None
        weights, kv_cache, compute = counted[share.device.engine_name]
        assert weights == held(layout, share.first_layer, share.last_layer)
        assert kv_cache == share.kv_cache_bytes
        assert compute <= share.compute_bytes + 16 * MIB
        # The rope factors' copy is all that may be missing from the plan.
        assert weights - share.weights_bytes in (0, 256)
    assert counted["CPU"][1] == plan.host.kv_cache_bytes


def test_without_devices_all_is_in_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = bundled.layout("nemotron-super-49b:Q8_0")
    plan = planned(layout, 0, 0, PlanRequest(context=4096))
    weights, kv_cache, _compute = found(plan, layout, tmp_path, monkeypatch)["CPU"]
    assert (weights, kv_cache) == (layout.size_bytes, plan.host.kv_cache_bytes)


def test_more_devices_than_llama_cpp_takes_are_refused(tmp_path: Path) -> None:
    command = protocol.Load(model_path="absent.gguf", devices=("CUDA0",) * 16, context=512)
    with pytest.raises(AppError, match="at most 15 devices"):
        dry_run(command, bundled.layout("nemotron-super-49b"), tmp_path)


def test_a_header_that_llama_cpp_refuses_is_told(tmp_path: Path, home: Path) -> None:
    layout = dataclasses.replace(bundled.layout("nemotron-super-49b"), architecture="unheard-of")
    command = protocol.Load(model_path="absent.gguf", context=512)
    with pytest.raises(AppError, match=r"architecture “unheard-of” of absent.gguf"):
        dry_run(command, layout, tmp_path)
