"""Devices that are not of a load are hidden from its worker, and those that are keep their names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil
import pytest

from app.engine import protocol
from app.engine.load_devices import Devices, LoadFailedError
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded
from app.engine.visible import NONE, Visible, visible
from app.ggml import RegisteredDevice
from app.hardware.model import BackendSupport, HardwareReport
from tests.helpers import described
from tests.helpers.engines import answer, engine, is_loaded, load, talk
from tests.helpers.rpc import rpc_servers


def report(*backends: str) -> HardwareReport:
    """A machine with one card a backend, as its probes would tell."""
    machine = described.report(f"{len(backends)}x RTX 3090", ram_gib=64)
    counts = {backend: iter(range(len(backends))) for backend in backends}
    names = {"cuda": "CUDA", "rocm": "ROCm", "vulkan": "Vulkan", "rpc": "RPC"}
    devices = tuple(
        dataclasses.replace(
            device,
            uuid=f"GPU-{index}",
            pci_bus_id=f"0000:0{index}:00.0",
            support=BackendSupport(
                backend=backend, engine_name=f"{names[backend]}{next(counts[backend])}"
            ),
        )
        for index, (device, backend) in enumerate(zip(machine.devices, backends, strict=True))
    )
    return dataclasses.replace(machine, devices=devices)


def test_cards_that_are_switched_off_are_hidden_by_uuid() -> None:
    machine = report("cuda", "cuda", "cuda", "cuda")
    seen = visible(machine, ("CUDA3", "CUDA1"), {})
    assert seen.environment == {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-3"}
    assert seen.bus_ids == {"CUDA1": "0000:01:00.0", "CUDA3": "0000:03:00.0"}
    assert visible(machine, (), {}).environment == {"CUDA_VISIBLE_DEVICES": NONE}
    everything = tuple(f"CUDA{index}" for index in range(4))
    assert visible(machine, everything, {}) == Visible(), "there is nothing to hide"
    assert visible(None, ("CUDA0",), {}) == Visible()
    unknown = dataclasses.replace(machine.devices[1], uuid=None)
    blind = dataclasses.replace(machine, devices=(machine.devices[0], unknown))
    assert visible(blind, ("CUDA1",), {}) == Visible(), "no UUID to name it by"


def test_other_backends_are_hidden_where_that_is_sure() -> None:
    rocm = report("rocm", "rocm")
    hidden = {"ROCR_VISIBLE_DEVICES": "GPU-1"}
    assert visible(rocm, ("ROCm1",), {}).environment == hidden
    assert visible(rocm, ("ROCm1",), {"HIP_VISIBLE_DEVICES": "1"}) == Visible()
    mixed = visible(report("cuda", "cuda", "rocm"), ("CUDA0", "ROCm0"), {})
    assert mixed == Visible(), "ROCm would take CUDA's variable for its own"
    assert visible(report("vulkan", "vulkan"), ("Vulkan1",), {}) == Visible()
    served = visible(report("cuda", "rpc", "rpc"), ("RPC0",), {})
    assert served == Visible(environment={"CUDA_VISIBLE_DEVICES": NONE})


def registered(name: str, bus: str | None, handle: int) -> RegisteredDevice:
    return RegisteredDevice(
        handle=handle, name=name, description="a card", backend=name.rstrip("0123456789").lower(),
        kind="gpu", pci_bus_id=bus, endpoint="10.0.0.2:50052" if name.startswith("RPC") else None,
        memory_total_bytes=1, memory_free_bytes=1,
    )  # fmt: skip


def test_what_moved_up_is_found_by_its_bus_id_and_told_by_its_old_name() -> None:
    command = protocol.Load(
        model_path="m.gguf", context=512, devices=("CUDA3", "RPC0", "CUDA1"),
        tensor_overrides=(("^a$", "CUDA1"), ("^b$", "CPU")),
        bus_ids={"CUDA1": "0000:01:00.0", "CUDA3": "0000:03:00.0"},
    )  # fmt: skip
    found = (
        registered("CUDA0", "0000:01:00.0", 1),
        registered("CUDA1", "00000000:03:00.0", 3),
        # The same card once more, by another backend.
        registered("Vulkan0", "0000:03:00.0", 8),
        registered("CPU", None, 9),
        registered("RPC0", None, 5),
    )
    devices = Devices(command, found)
    assert devices.handles == {"CPU": 9, "CUDA3": 3, "RPC0": 5, "CUDA1": 1}
    assert devices.local_names["CUDA1"] == "CUDA0"
    assert devices.name_of("CUDA0") == "CUDA1"
    assert devices.name_of("CUDA1") == "CUDA3"
    assert devices.name_of("RPC0[10.0.0.2:50052]") == devices.name_of("RPC0") == "RPC0"
    assert devices.name_of("CUDA_Host") == devices.name_of("CPU_Mapped") == "CPU"
    assert devices.name_of("CUDA7") is None
    with pytest.raises(LoadFailedError, match="CUDA3"):
        Devices(command, found[:1] + found[2:])


def test_a_worker_starts_with_what_its_load_says_and_without_it_where_that_fails(
    starter_model: Path,
) -> None:
    with rpc_servers(1) as endpoints, engine() as (supervisor, events):
        command = load(
            starter_model, devices=("RPC0",), rpc_servers=endpoints, gpu_layers=31,
            tensor_split=(31,), environment={"CUDA_VISIBLE_DEVICES": "GPU-1"},
        )  # fmt: skip
        supervisor.load(command)
        loaded = events.until(is_loaded)[-1]
        assert psutil.Process(supervisor.pid).environ()["CUDA_VISIBLE_DEVICES"] == "GPU-1"
        assert isinstance(loaded, ModelLoaded)
        assert loaded.loaded.memory[1].layer_count == 31
        # A driver that knows no such card: then nothing is hidden, and it loads.
        supervisor.load(command.model_copy(update={"bus_ids": {"RPC0": "0000:01:00.0"}}))
        seen = events.until(is_loaded)
        starts = [
            e for e in seen if isinstance(e, EngineStateChanged) and e.state is EngineState.STARTING
        ]
        assert len(starts) == 2
        assert "CUDA_VISIBLE_DEVICES" not in psutil.Process(supervisor.pid).environ()
        assert answer(supervisor, events, talk("Hello"), limit=4).text
