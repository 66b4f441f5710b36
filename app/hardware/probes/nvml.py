"""NVIDIA's NVML through nvidia-ml-py, asked in a child since a bad driver can hang it.

Run as a module it prints what it found as one line of JSON; with `--watch`, one line of live
readings for every line on stdin. Sizes in bytes, power in watts.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import psutil
import pydantic

from app.hardware.probes import children
from app.hardware.probes.pci import normalise_bus_id

MODULE = "app.hardware.probes.nvml"
WATCH = "--watch"
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""Hardware slowdown, heat in software and hardware, power brake (nvmlClocksEventReasons, nvml.h)."""


class NvmlGpu(pydantic.BaseModel):
    """One GPU, or one MIG slice of it, as NVML tells; None where it does not."""

    uuid: str = ""
    name: str = ""
    pci_bus_id: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_used_bytes: int | None = None
    processes: dict[int, int] = {}
    """Bytes by process id, where the driver tells; other containers' processes may be missing."""
    names: dict[int, str] = {}
    """Of those processes, as far as the system tells."""
    compute_capability: str | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    nvlink_bus_ids: tuple[str, ...] = ()
    nvlink_switch: bool = False
    """True if an NVLink leads to an NVSwitch, which connects all cards that lead there."""
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation_percent: float | None = None
    mig: bool = False


class NvmlReport(pydantic.BaseModel):
    """What NVML said; `error` is its own word where it cannot be used, `error_code` its number.

    Attributes:
        unreadable: Cards that NVML counts but cannot open, each in its own words.
        unsliced_bus_ids: Cards in MIG mode that have no slice, so nothing can use them.
    """

    driver_version: str | None = None
    gpus: tuple[NvmlGpu, ...] = ()
    unreadable: tuple[str, ...] = ()
    unsliced_bus_ids: tuple[str, ...] = ()
    error: str = ""
    error_code: int | None = None


class NvmlReading(pydantic.BaseModel):
    """Live values of one GPU or MIG slice."""

    uuid: str
    memory_used_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    utilisation_percent: float | None = None
    throttling: bool = False


class NvmlReadings(pydantic.BaseModel):
    """One line of `--watch`."""

    gpus: tuple[NvmlReading, ...]


def read() -> NvmlReport:
    """Ask NVML in this very process; only its child does that."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return NvmlReport(error=str(error), error_code=error.value)
    gpus: list[NvmlGpu] = []
    unreadable: list[str] = []
    unsliced: list[str] = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            unreadable.append(f"card {index} of NVML: {error}")
            continue
        if not _mig_is_on(handle):
            gpus.append(_gpu(handle))
            continue
        slices = [_slice(part, handle) for part in _slices(handle)]
        gpus += slices
        if not slices:
            unsliced.append(_bus_id(handle) or f"card {index}")
    return NvmlReport(
        driver_version=_text(_ask(pynvml.nvmlSystemGetDriverVersion)) or None,
        gpus=tuple(gpus),
        unreadable=tuple(unreadable),
        unsliced_bus_ids=tuple(unsliced),
    )


def _ask(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - as NVML
    """The answer, or None where this device does not support the question."""
    import pynvml

    try:
        return function(*arguments)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, UnicodeDecodeError):
        return None


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _bus_id(handle: object) -> str | None:
    import pynvml

    pci = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    return normalise_bus_id(_text(pci.busId)) if pci else None


def _mig_is_on(handle: object) -> bool:
    import pynvml

    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    return bool(mode) and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def _slices(handle: object) -> Iterator[object]:
    import pynvml

    for index in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if part is not None:
            yield part


def _slice(part: object, card: object) -> NvmlGpu:
    """A MIG slice: its own identity and memory; the card's place on the bus."""
    own, whole = _gpu(part), _gpu(card)
    return own.model_copy(
        update={
            "mig": True,
            "name": own.name or whole.name,
            "pci_bus_id": whole.pci_bus_id,
            "compute_capability": own.compute_capability or whole.compute_capability,
            "pcie_generation": whole.pcie_generation,
            "pcie_width": whole.pcie_width,
            "pcie_max_generation": whole.pcie_max_generation,
            "pcie_max_width": whole.pcie_max_width,
            "temperature_c": whole.temperature_c,
        }
    )


def _gpu(handle: object) -> NvmlGpu:
    import pynvml as n

    memory = _ask(n.nvmlDeviceGetMemoryInfo, handle)
    capability = _ask(n.nvmlDeviceGetCudaComputeCapability, handle)
    limit = _ask(n.nvmlDeviceGetEnforcedPowerLimit, handle)
    running = _ask(n.nvmlDeviceGetComputeRunningProcesses, handle) or []
    running += _ask(n.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    processes = {p.pid: p.usedGpuMemory or 0 for p in running}
    peers, switch = _nvlinks(handle)
    return NvmlGpu(
        name=_text(_ask(n.nvmlDeviceGetName, handle)),
        pci_bus_id=_bus_id(handle),
        memory_total_bytes=memory.total if memory else None,
        memory_free_bytes=memory.free if memory else None,
        processes=processes,
        names={pid: name for pid in processes if (name := _program(pid))},
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        pcie_generation=_ask(n.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        pcie_width=_ask(n.nvmlDeviceGetCurrPcieLinkWidth, handle),
        pcie_max_generation=_ask(n.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        pcie_max_width=_ask(n.nvmlDeviceGetMaxPcieLinkWidth, handle),
        nvlink_bus_ids=peers,
        nvlink_switch=switch,
        power_limit_w=limit / 1000 if limit is not None else None,
        **_reading(handle).model_dump(),
    )


def _program(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""


def _reading(handle: object) -> NvmlReading:
    import pynvml as n

    memory = _ask(n.nvmlDeviceGetMemoryInfo, handle)
    power = _ask(n.nvmlDeviceGetPowerUsage, handle)
    rates = _ask(n.nvmlDeviceGetUtilizationRates, handle)
    return NvmlReading(
        uuid=_text(_ask(n.nvmlDeviceGetUUID, handle)),
        memory_used_bytes=memory.used if memory else None,
        temperature_c=_ask(n.nvmlDeviceGetTemperature, handle, n.NVML_TEMPERATURE_GPU),
        power_w=power / 1000 if power is not None else None,
        utilisation_percent=rates.gpu if rates else None,
        throttling=bool((_ask(n.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0) & _SLOWED),
    )


def _nvlinks(handle: object) -> tuple[tuple[str, ...], bool]:
    """PCI bus ids at the other ends of active links, and whether one of them is a switch."""
    import pynvml

    peers, switch = set(), False
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        if _ask(pynvml.nvmlDeviceGetNvLinkState, handle, link) != pynvml.NVML_FEATURE_ENABLED:
            continue
        kind = _ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        switch = switch or kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        remote = _ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if remote is not None and kind != pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            peers.add(normalise_bus_id(_text(remote.busId)))
    return tuple(sorted(peers)), switch


def _watch(output: TextIO, requests: queue.SimpleQueue[str]) -> None:
    """Answer every request until stdin ends, which ends this process."""
    import pynvml

    pynvml.nvmlInit()
    handles: list[object] = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            handles += list(_slices(handle)) if _mig_is_on(handle) else [handle]
    while True:
        requests.get()
        readings = NvmlReadings(gpus=tuple(_reading(handle) for handle in handles))
        print(readings.model_dump_json(), file=output, flush=True)


def main() -> None:
    """Print the report, or live readings on request."""
    output = children.private_stdout()
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    children.exit_with_parent(requests.put)
    if WATCH in sys.argv[1:]:
        _watch(output, requests)
    else:
        print(read().model_dump_json(), file=output, flush=True)


if __name__ == "__main__":
    main()
