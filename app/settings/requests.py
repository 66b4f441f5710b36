"""What the settings mean for the planner and for the engine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

from app.engine import protocol
from app.engine.defaults import sampling_for
from app.engine.visible import visible
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport
from app.plan import placement, tensor_parallel
from app.plan.model import LoadPlan, PlanDevice, PlanRequest, Remedy
from app.plan.text import DEFAULT_BATCH, split_of
from app.settings.model import Overflow, Settings, SplitMode

_OVERFLOW: dict[Overflow, Literal["stop", "drop_oldest", "summarise"]] = {
    Overflow.STOP: "stop",
    Overflow.DROP_OLDEST: "drop_oldest",
    Overflow.SUMMARISE: "summarise",
    Overflow.ENLARGE: "stop",  # then the model is loaded again
}


def with_remedy(settings: Settings, remedy: Remedy) -> Settings:
    """The settings with what the remedy changes."""
    changes = dict(remedy.changes)
    if changes.keys() & {"layer_counts", "gpu_layers"}:
        del changes["layer_counts"], changes["gpu_layers"]
        changes |= {"split_mode": SplitMode.AUTOMATIC, "layers": {}}
    if remedy.layers:
        changes |= {"split_mode": SplitMode.MANUAL, "layers": dict(remedy.layers)}
    return Settings.model_validate(settings.model_dump() | changes)


def make_request(
    settings: Settings, layout: ModelLayout, devices: tuple[PlanDevice, ...]
) -> PlanRequest:
    """What the settings ask of the planner; layers are split where tensors cannot be."""
    total = layout.block_count + 1
    counts: tuple[int, ...] | None = None
    if devices:
        match settings.split_mode:
            case SplitMode.AUTOMATIC | SplitMode.TENSOR:
                counts = None
            case SplitMode.EVEN:
                counts = placement.even(total, len(devices))
            case SplitMode.BY_MEMORY:
                counts = placement.by_memory(total, [device.free_bytes for device in devices])
            case SplitMode.MANUAL:
                chosen = tuple(settings.layers.get(device.id, 0) for device in devices)
                counts = chosen if 0 < sum(chosen) <= total else None
    request = PlanRequest(
        context=settings.context,
        kv_type_k=settings.kv_type_k,
        kv_type_v=settings.kv_type_v,
        flash_attention=settings.flash_attention,
        batch=max(DEFAULT_BATCH, settings.micro_batch),
        micro_batch=settings.micro_batch,
        layer_counts=counts,
        reserves=settings.reserves,
        objective=settings.objective,
        any_order=settings.split_mode is SplitMode.AUTOMATIC and not settings.device_order,
    )
    if settings.split_mode is SplitMode.TENSOR:
        allowed = not tensor_parallel.withheld(layout, request, devices)
        return dataclasses.replace(request, tensor_parallel=allowed, any_order=not allowed)
    return request


def _servers(
    names: Sequence[str], settings: Settings, report: HardwareReport | None
) -> tuple[str, ...]:
    """The RPC servers of devices with these names, and those before: llama.cpp numbers the devices of all."""
    devices = report.devices if report is not None else ()
    there = {device.endpoint for device in devices}
    wanted = {device.endpoint for device in devices if device.support.engine_name in names}
    answering = [server for server in settings.rpc_servers if server in there]
    last = max((index for index, server in enumerate(answering) if server in wanted), default=-1)
    return tuple(answering[: last + 1])


def load_command(
    plan: LoadPlan, layout: ModelLayout, settings: Settings, report: HardwareReport | None
) -> protocol.Load:
    """What to tell the worker so that it loads the model as planned."""
    used = [share for share in plan.devices if share.used]
    on_devices = not plan.host.layer_count and not plan.tensor_overrides
    names = tuple(share.device.engine_name for share in used)
    seen = visible(report, names, os.environ)
    return protocol.Load(
        model_path=str(layout.files[0]),
        devices=names,
        rpc_servers=_servers(names, settings, report),
        gpu_layers=plan.gpu_layers,
        split_mode="tensor" if plan.request.tensor_parallel else "layer",
        tensor_split=split_of(plan),
        context=plan.context,
        batch=plan.request.batch,
        micro_batch=plan.request.micro_batch,
        kv_type_k=plan.request.kv_type_k,
        kv_type_v=plan.request.kv_type_v,
        flash_attention="on"
        if plan.request.tensor_parallel
        else plan.request.flash_attention.value,
        tensor_overrides=tuple((o.pattern, o.device) for o in plan.tensor_overrides),
        op_offload=on_devices,
        load_mode="read" if settings.load_mode.reads(on_devices) else "mapped",
        threads=settings.threads,
        environment=dict(seen.environment),
        bus_ids=dict(seen.bus_ids),
    )


def advice(settings: Settings, layout: ModelLayout | None) -> protocol.Sampling:
    """What the model's makers advise; whether it reasons stands in the system prompt."""
    if layout is None:
        return protocol.Sampling()
    return sampling_for(layout, system_prompt=settings.system_prompt)


def sampling_in_force(settings: Settings, layout: ModelLayout | None) -> protocol.Sampling:
    """Options that a person set, and all others as advised."""
    advised = advice(settings, layout).model_dump()
    return protocol.Sampling.model_validate(advised | settings.sampling)


def generate_command(
    settings: Settings,
    layout: ModelLayout | None,
    turn: int,
    messages: tuple[protocol.ChatMessage, ...],
    max_tokens: int | None = None,
    *,
    continue_last: bool = False,
) -> protocol.Generate:
    """What to ask of the worker."""
    return protocol.Generate(
        turn=turn,
        messages=messages,
        sampling=sampling_in_force(settings, layout),
        max_tokens=max_tokens,
        overflow=_OVERFLOW[settings.overflow],
        reserve=settings.reply_reserve,
        continue_last=continue_last,
    )
