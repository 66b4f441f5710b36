"""Devices as the planner sees them, from what was found on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.hardware import gpu_table
from app.hardware.model import HardwareReport
from app.plan.model import PlanDevice


def plan_devices(
    report: HardwareReport,
    *,
    order: Sequence[str] = (),
    disabled: Sequence[str] = (),
    learned: Mapping[str, int] | None = None,
) -> tuple[PlanDevice, ...]:
    """The devices that the engine can use, those of `order` first, without `disabled` (ids).

    `learned` are bytes beyond llama.cpp's account that loads took on this machine, by id.
    """
    usable = {d.id: d for d in report.usable_devices if d.id not in disabled}
    ordered = [*(i for i in order if i in usable), *(i for i in usable if i not in order)]
    result = []
    for device in (usable[i] for i in ordered):
        total, free = device.memory_total_bytes or 0, device.memory_free_bytes or 0
        others = device.used_by_others_bytes
        known = gpu_table.find(device.name)
        result.append(
            PlanDevice(
                id=device.id,
                label=device.label,
                name=device.name,
                engine_name=device.support.engine_name or "",
                backend=device.support.backend or "",
                total_bytes=total,
                free_bytes=total - others if others is not None else free,
                others_bytes=others if others is not None else total - free,
                shares_host_memory=_is_here(device.endpoint),
                bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known else None,
                prompt_flops_per_s=known.prompt_flops_per_s if known else None,
                learned_reserve_bytes=(learned or {}).get(device.id),
            )
        )
    return tuple(result)


_ENGINE_NAMES = {"cuda": "CUDA", "vulkan": "Vulkan", "metal": "MTL", "rpc": "RPC"}


def imagined_device(
    gpu: gpu_table.Gpu, number: int, *, backend: str = "", index: int | None = None
) -> PlanDevice:
    """A GPU that nobody else uses, the `number`th of a machine that a person thinks of.

    Args:
        gpu: What it is.
        number: From 0.
        backend: Other than the usual one of such a GPU.
        index: Its number among those of its backend, where that is another.
    """
    backend = backend or gpu_table.backend(gpu)
    name = _ENGINE_NAMES.get(backend, "CUDA")
    return PlanDevice(
        id=f"gpu-{number}",
        label=f"GPU {number}",
        name=gpu.name,
        engine_name=f"{name}{number if index is None else index}",
        backend=backend,
        total_bytes=gpu.memory_bytes,
        free_bytes=gpu.memory_bytes,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        prompt_flops_per_s=gpu.prompt_flops_per_s,
    )


def _is_here(endpoint: str | None) -> bool:
    """True for an RPC server on this machine, whose devices are its main memory."""
    host = (endpoint or "").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
