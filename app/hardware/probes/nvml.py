"""NVIDIA's NVML through nvidia-ml-py, asked in a child process since a bad driver can hang it.

Run as a module it prints what it found as JSON. Sizes in bytes, power in watts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pydantic


class NvmlGpu(pydantic.BaseModel):
    """One GPU, or one MIG slice of it, as NVML tells; None where it does not."""

    uuid: str
    name: str
    pci_bus_id: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_used_bytes: int | None = None
    processes: dict[int, int] = {}
    compute_capability: str | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    nvlink_bus_ids: tuple[str, ...] = ()
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation_percent: float | None = None
    mig: bool = False


class NvmlReport(pydantic.BaseModel):
    """What NVML said; `error` is its own word where it cannot be used."""

    driver_version: str | None = None
    gpus: tuple[NvmlGpu, ...] = ()
    error: str = ""
    absent: bool = False


def normalise_bus_id(bus_id: str) -> str:
    """`00000000:01:00.0` as ggml and sysfs write it: `0000:01:00.0`."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def read() -> NvmlReport:
    """Ask NVML in this process; use `python -m` on this module to be safe from hangs."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = error.value in (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        )
        return NvmlReport(error=str(error), absent=absent)
    try:
        gpus: list[NvmlGpu] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpus += _device(pynvml.nvmlDeviceGetHandleByIndex(index))
        return NvmlReport(driver_version=pynvml.nvmlSystemGetDriverVersion(), gpus=tuple(gpus))
    except pynvml.NVMLError as error:
        return NvmlReport(error=str(error))
    finally:
        pynvml.nvmlShutdown()


def _ask(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - as NVML
    """The answer, or None where this device does not support the question."""
    import pynvml

    try:
        return function(*arguments)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _device(handle: object) -> list[NvmlGpu]:
    """The GPU, or its slices where MIG is on."""
    import pynvml

    whole = _gpu(handle)
    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [whole]
    slices = []
    for index in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if part is not None:
            shared = whole.model_dump(exclude={"uuid", "name", "memory_total_bytes"})
            own = _gpu(part).model_dump(exclude_none=True, exclude_defaults=True)
            slices.append(NvmlGpu.model_validate(shared | own | {"mig": True}))
    return slices


def _gpu(handle: object) -> NvmlGpu:
    import pynvml as n

    memory = _ask(n.nvmlDeviceGetMemoryInfo, handle)
    bus = _ask(n.nvmlDeviceGetPciInfo, handle)
    capability = _ask(n.nvmlDeviceGetCudaComputeCapability, handle)
    power = _ask(n.nvmlDeviceGetPowerUsage, handle)
    limit = _ask(n.nvmlDeviceGetEnforcedPowerLimit, handle)
    rates = _ask(n.nvmlDeviceGetUtilizationRates, handle)
    running = _ask(n.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return NvmlGpu(
        uuid=_ask(n.nvmlDeviceGetUUID, handle) or "",
        name=_ask(n.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        pci_bus_id=normalise_bus_id(_text(bus.busId)) if bus else None,
        memory_total_bytes=memory.total if memory else None,
        memory_free_bytes=memory.free if memory else None,
        memory_used_bytes=memory.used if memory else None,
        processes={p.pid: p.usedGpuMemory or 0 for p in running},
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        pcie_generation=_ask(n.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        pcie_width=_ask(n.nvmlDeviceGetCurrPcieLinkWidth, handle),
        pcie_max_generation=_ask(n.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        pcie_max_width=_ask(n.nvmlDeviceGetMaxPcieLinkWidth, handle),
        nvlink_bus_ids=_nvlinks(handle),
        temperature_c=_ask(n.nvmlDeviceGetTemperature, handle, n.NVML_TEMPERATURE_GPU),
        power_w=power / 1000 if power is not None else None,
        power_limit_w=limit / 1000 if limit is not None else None,
        utilisation_percent=rates.gpu if rates else None,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _nvlinks(handle: object) -> tuple[str, ...]:
    import pynvml

    peers = set()
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        if _ask(pynvml.nvmlDeviceGetNvLinkState, handle, link) != 1:
            continue
        remote = _ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if remote is not None:
            peers.add(normalise_bus_id(_text(remote.busId)))
    return tuple(sorted(peers))


if __name__ == "__main__":
    json.dump(read().model_dump(), sys.stdout)
