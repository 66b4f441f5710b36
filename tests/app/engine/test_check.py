"""After a load: is all where the plan put it?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from app import units
from app.engine.check import deviations
from app.engine.model import ModelLoaded
from app.gguf.reader import read_layout
from app.plan.model import LoadPlan, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.units import GIB, MIB
from tests.helpers.engines import engine, is_loaded, load
from tests.helpers.rpc import rpc_servers

DEVICE = PlanDevice(
    id="rpc0", label="RPC 0", name="", engine_name="RPC0", backend="rpc",
    total_bytes=8 * GIB, free_bytes=8 * GIB,
)  # fmt: skip
HOST = PlanHost(total_bytes=8 * GIB, available_bytes=8 * GIB)


def planned(model: Path, layers: int) -> LoadPlan:
    request = PlanRequest(context=1024, layer_counts=(layers,))
    return make_plan(read_layout(model), request, (DEVICE,), HOST)


def test_what_lies_between_mapped_tensors_is_no_spill(starter_model: Path) -> None:
    plan = planned(starter_model, 20)
    with rpc_servers(1) as endpoints, engine() as (supervisor, events):
        command = load(
            starter_model, devices=("RPC0",), rpc_servers=endpoints, gpu_layers=plan.gpu_layers,
            tensor_split=plan.tensor_split, use_extra_buffers=False, load_mode="mapped",
        )  # fmt: skip
        supervisor.load(command)
        event = events.until(is_loaded)[-1]
        assert isinstance(event, ModelLoaded)
        (host_memory,) = (m for m in event.loaded.memory if m.device == "CPU")
        assert host_memory.weights_bytes > plan.host.weights_bytes + 32 * MIB, (
            "mapped with the rest"
        )
        assert deviations(plan, event.loaded) == ()
        supervisor.load(command.model_copy(update={"gpu_layers": 4, "tensor_split": (4,)}))
        event = events.until(is_loaded)[-1]
        assert isinstance(event, ModelLoaded)
    spilled, *_ = deviations(plan, event.loaded)
    (held,) = (m.weights_bytes for m in event.loaded.memory if m.device == "RPC0")
    lacking = plan.devices[0].weights_bytes - held
    assert spilled.spilled
    assert spilled.sentence.startswith(units.format_memory(lacking))


def test_a_real_load_is_as_planned_and_what_differs_is_told(starter_model: Path) -> None:
    plan = planned(starter_model, 31)
    with rpc_servers(1) as endpoints, engine() as (supervisor, events):
        command = load(
            starter_model, devices=("RPC0",), rpc_servers=endpoints, gpu_layers=plan.gpu_layers,
            tensor_split=plan.tensor_split, use_extra_buffers=False, load_mode="read",
        )  # fmt: skip
        supervisor.load(command)
        event = events.until(is_loaded)[-1]
        assert isinstance(event, ModelLoaded)
        loaded = event.loaded
        assert deviations(plan, loaded) == ()
        # The same model loaded with half of its layers on the host.
        supervisor.load(command.model_copy(update={"gpu_layers": 4, "tensor_split": (4,)}))
        event = events.until(is_loaded)[-1]
        assert isinstance(event, ModelLoaded)
    spilled, *others = deviations(plan, event.loaded)
    assert (spilled.device, spilled.spilled) == ("CPU", True)
    assert "main memory" in spilled.sentence
    assert any("holds 4 layers, planned were 31" in other.sentence for other in others)
    assert not any(other.spilled for other in others)
    gone = loaded.model_copy(update={"memory": loaded.memory[:1]})
    assert [d.device for d in deviations(plan, gone)] == ["RPC0"]
    bigger = dataclasses.replace(
        plan.devices[0], kv_cache_bytes=plan.devices[0].kv_cache_bytes + 80 * MIB
    )
    (kv,) = deviations(dataclasses.replace(plan, devices=(bigger,)), loaded)
    assert "KV cache" in kv.sentence
