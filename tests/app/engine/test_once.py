"""Dry runs of models of which there is no file, on devices that are not there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.engine import protocol
from app.engine.once import dry_run, load_once
from app.errors import AppError
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.plan.model import (
    DevicePlan,
    HostPlan,
    KvCacheType,
    LoadPlan,
    PlanDevice,
    PlanHost,
    PlanRequest,
)
from app.plan.planner import make_plan
from app.settings.model import Settings
from app.settings.requests import load_command
from app.units import GIB
from tests.helpers.rpc import rpc_servers

HOST = PlanHost(total_bytes=128 * GIB, available_bytes=128 * GIB)


Q8 = PlanRequest(
    context=16_384,
    kv_type_k=KvCacheType.Q8_0,
    kv_type_v=KvCacheType.Q8_0,
    reserves={f"gpu-{index}": 0 for index in range(8)},
)


def planned(layout: ModelLayout, sizes: Sequence[int], request: PlanRequest) -> LoadPlan:
    devices = [
        PlanDevice(
            id=f"gpu-{index}", label=f"GPU {index}", name="", engine_name=f"CUDA{index}",
            backend="rpc", total_bytes=size, free_bytes=size,
        )
        for index, size in enumerate(sizes)
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


@pytest.mark.parametrize(
    ("name", "sizes", "request_", "apart"),
    [
        ("nemotron-ultra-253b:Q4_K_M", (24,) * 8, dataclasses.replace(Q8, context=32_768), None),
        ("nemotron-ultra-253b:IQ3_XXS", (24,) * 3, PlanRequest(context=8192), "CPU"),
        ("nemotron-ultra-253b:IQ3_XXS", (23, 23, 23.5, 31.5), Q8, "CUDA"),
        ("nemotron-super-49b:Q5_K_M", (32, 32), PlanRequest(context=16_384), None),
    ],
)
def test_llama_cpp_counts_what_the_plan_counts(
    name: str,
    sizes: tuple[float, ...],
    request_: PlanRequest,
    apart: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = bundled.layout(name)
    plan = planned(layout, [round(size * GIB) for size in sizes], request_)
    assert {override.device.rstrip("0123456789") for override in plan.tensor_overrides} == (
        {apart} if apart else set()
    )
    counted = found(plan, layout, tmp_path, monkeypatch)
    shares: list[DevicePlan | HostPlan] = [*plan.devices, plan.host]
    for share in shares:
        place = "CPU" if isinstance(share, HostPlan) else share.device.engine_name
        weights, kv_cache, compute = counted[place]
        assert (weights, kv_cache) == (share.weights_bytes, share.kv_cache_bytes)
        assert compute == pytest.approx(share.compute_bytes, abs=64 * 1024)


def test_without_devices_all_is_in_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = bundled.layout("nemotron-super-49b:Q8_0")
    plan = planned(layout, (), PlanRequest(context=4096))
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


def test_a_real_load_puts_tensors_apart_where_the_plan_says(
    starter_model: Path, tmp_path: Path
) -> None:
    layout = read_layout(starter_model)
    moved = {t.name: t for t in layout.layers[20].tensors}["blk.20.ffn_down.weight"]
    with rpc_servers(2) as endpoints:
        command = protocol.Load(
            model_path=str(starter_model),
            devices=("RPC0", "RPC1"),
            rpc_servers=endpoints,
            gpu_layers=31,
            tensor_split=(15, 16),
            context=512,
            op_offload=False,
        )
        plain = load_once(command, tmp_path)
        override = (r"^blk\.20\.ffn_down\.weight$", "RPC0")
        apart = load_once(command.model_copy(update={"tensor_overrides": (override,)}), tmp_path)
    before = {memory.device: memory.weights_bytes for memory in plain.memory}
    after = {memory.device: memory.weights_bytes for memory in apart.memory}
    assert after["RPC0"] - before["RPC0"] == moved.size_bytes
    assert before["RPC1"] - after["RPC1"] == moved.size_bytes
