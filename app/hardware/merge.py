"""Puts the sources' answers together, by PCI bus id or UUID, never by index or name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from app.hardware.model import (
    BackendSupport,
    Device,
    DeviceKind,
    EngineDevice,
    EngineInfo,
    Program,
    Vendor,
)
from app.hardware.model import PcieLink as Link
from app.hardware.probes.apple import AppleMachine
from app.hardware.probes.nvml import NvmlGpu, NvmlReport
from app.hardware.probes.pci import normalise_bus_id
from app.hardware.probes.sysfs import SysfsGpu
from app.hardware.support import Why, support

_PREFERENCE = ("cuda", "metal", "rocm", "sycl", "vulkan")
"""Backends for one and the same device, the best first."""
_VENDORS = {
    "cuda": Vendor.NVIDIA,
    "metal": Vendor.APPLE,
    "rocm": Vendor.AMD,
    "sycl": Vendor.INTEL,
}
APPLE_ID = "apple:0"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the probes found.

    Attributes:
        own_pids: This app's engine processes; what they hold is not used by others.
        own_drm_bytes: What they hold through the kernel's DRM, by PCI bus id.
        visible: Environment variables that hide devices from the engine, as they are set.
    """

    nvml: NvmlReport = dataclasses.field(default_factory=NvmlReport)
    sysfs: tuple[SysfsGpu, ...] = ()
    apple: AppleMachine | None = None
    engine: EngineInfo = dataclasses.field(default_factory=EngineInfo)
    own_pids: frozenset[int] = frozenset()
    own_drm_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    visible: Mapping[str, str] = dataclasses.field(default_factory=dict)


def merge(sources: Sources) -> tuple[Device, ...]:
    """GPUs by PCI bus id, then what has none, then devices of RPC servers in the engine's order."""
    local = [d for d in sources.engine.devices if d.kind in ("gpu", "igpu") and d.backend != "rpc"]
    local.sort(key=lambda d: _rank(d.backend))
    by_bus: dict[str, EngineDevice] = {}
    placeless = []
    for device in local:
        if device.pci_bus_id:
            by_bus.setdefault(normalise_bus_id(device.pci_bus_id), device)
        else:
            placeless.append(device)
    why = Why(nvml=sources.nvml, engine=sources.engine, visible=sources.visible)
    found = _from_nvml(sources, by_bus, why)
    known = {device.pci_bus_id for device in found} | set(sources.nvml.unsliced_bus_ids)
    for gpu in sources.sysfs:
        if gpu.pci_bus_id not in known:
            found.append(_from_sysfs(gpu, by_bus.get(gpu.pci_bus_id), sources, why))
    known |= {gpu.pci_bus_id for gpu in sources.sysfs}
    found += [_from_engine(bus, device) for bus, device in by_bus.items() if bus not in known]
    found.sort(key=lambda device: (device.pci_bus_id or "", device.mig and device.label))
    if sources.apple is not None and sources.apple.silicon:
        metal = next((d for d in placeless if d.backend == "metal"), None)
        found.append(_from_apple(sources.apple, metal, why))
        placeless = [device for device in placeless if device is not metal]
    found += [_from_engine(None, device) for device in placeless]
    gpus = [dataclasses.replace(d, label=f"GPU {index}") for index, d in enumerate(found)]
    remote = [d for d in sources.engine.devices if d.backend == "rpc"]
    return (
        *_linked(gpus, sources.nvml),
        *(_remote(device, index, remote) for index, device in enumerate(remote)),
    )


def _rank(backend: str) -> int:
    return _PREFERENCE.index(backend) if backend in _PREFERENCE else len(_PREFERENCE)


def _kind(device: EngineDevice | None, *, integrated: bool | None = None) -> DeviceKind:
    if device is not None and integrated is None:
        integrated = device.kind == "igpu"
    return DeviceKind.INTEGRATED_GPU if integrated else DeviceKind.GPU


def _from_nvml(sources: Sources, by_bus: Mapping[str, EngineDevice], why: Why) -> list[Device]:
    gpus = sources.nvml.gpus
    kernel = {gpu.pci_bus_id: gpu for gpu in sources.sysfs}
    result = []
    for gpu in gpus:
        bus = gpu.pci_bus_id or ""
        match = by_bus.get(bus)
        if gpu.mig and gpu is not _visible_slice(gpus, bus, sources.visible):
            match = None
        result.append(_nvidia(gpu, match, bus in kernel, sources, why))
    return result


def _visible_slice(gpus: Sequence[NvmlGpu], bus: str, visible: Mapping[str, str]) -> NvmlGpu | None:
    """The one MIG slice that CUDA shows: the one asked for, else the first one of all."""
    asked = visible.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    slices = [gpu for gpu in gpus if gpu.mig and gpu.pci_bus_id == bus]
    if asked.startswith("MIG-"):
        return next((gpu for gpu in slices if gpu.uuid.startswith(asked)), None)
    return slices[0] if slices else None


def _nvidia(
    gpu: NvmlGpu, match: EngineDevice | None, in_sysfs: bool, sources: Sources, why: Why
) -> Device:
    own = sum(size for pid, size in gpu.processes.items() if pid in sources.own_pids)
    used = gpu.memory_used_bytes
    name = gpu.name or (match.description if match else "NVIDIA GPU")
    total, free = gpu.memory_total_bytes, gpu.memory_free_bytes
    if total is None and match is not None:  # unified memory: NVML has no answer, CUDA has
        total, free = match.memory_total_bytes, match.memory_free_bytes
    return Device(
        id=gpu.uuid or f"pci:{gpu.pci_bus_id}",
        label="",
        name=name,
        vendor=Vendor.NVIDIA,
        kind=_kind(match),
        uuid=gpu.uuid or None,
        pci_bus_id=gpu.pci_bus_id,
        memory_total_bytes=total,
        memory_free_bytes=free,
        used_by_others_bytes=max(0, used - own) if used is not None else None,
        programs=_programs(gpu, sources.own_pids),
        driver_version=sources.nvml.driver_version,
        compute_capability=gpu.compute_capability,
        pcie=Link(
            generation=gpu.pcie_generation,
            width=gpu.pcie_width,
            max_generation=gpu.pcie_max_generation,
            max_width=gpu.pcie_max_width,
        ),
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        power_limit_w=gpu.power_limit_w,
        utilisation_percent=gpu.utilisation_percent,
        mig=gpu.mig,
        support=support(name, Vendor.NVIDIA, match, why, mig_uuid=gpu.uuid if gpu.mig else None),
        sources=("nvml", *(("sysfs",) if in_sysfs else ()), *(("engine",) if match else ())),
    )


def _programs(gpu: NvmlGpu, own: frozenset[int]) -> tuple[Program, ...]:
    found = [
        Program(pid=pid, name=gpu.names.get(pid, ""), used_bytes=size)
        for pid, size in gpu.processes.items()
        if pid not in own
    ]
    return tuple(sorted(found, key=lambda program: -program.used_bytes))


def _from_sysfs(gpu: SysfsGpu, match: EngineDevice | None, sources: Sources, why: Why) -> Device:
    name = gpu.name or (match.description if match else f"{gpu.vendor} GPU {gpu.pci_id}")
    total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
    others = None
    free = None
    if total is not None and used is not None:
        free = total - used
        others = max(0, used - sources.own_drm_bytes.get(gpu.pci_bus_id, 0))
    integrated = gpu.integrated if match is None or gpu.integrated is not None else None
    kind = _kind(match, integrated=integrated)
    if match is not None and (total is None or match.kind == "igpu"):
        # Of an integrated GPU sysfs shows the carve-out only; the engine uses main memory too.
        total, free, others = match.memory_total_bytes, match.memory_free_bytes, None
    uuid = f"GPU-{gpu.unique_id}" if gpu.unique_id else None
    return Device(
        id=uuid or f"pci:{gpu.pci_bus_id}",
        label="",
        name=name,
        vendor=gpu.vendor,
        kind=kind,
        uuid=uuid,
        pci_bus_id=gpu.pci_bus_id,
        memory_total_bytes=total,
        memory_free_bytes=free,
        used_by_others_bytes=others,
        driver_version=gpu.driver,
        pcie=gpu.pcie,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        power_limit_w=gpu.power_limit_w,
        utilisation_percent=gpu.utilisation_percent,
        support=support(name, gpu.vendor, match, why, driver=gpu.driver),
        sources=("sysfs", "engine") if match else ("sysfs",),
    )


def _from_apple(machine: AppleMachine, metal: EngineDevice | None, why: Why) -> Device:
    total = machine.wired_limit_bytes or (metal.memory_total_bytes if metal else None)
    return Device(
        id=APPLE_ID,
        label="",
        name=machine.chip,
        vendor=Vendor.APPLE,
        kind=DeviceKind.INTEGRATED_GPU,
        memory_total_bytes=total,
        memory_free_bytes=metal.memory_free_bytes if metal else None,
        support=support(machine.chip, Vendor.APPLE, metal, why),
        sources=("sysctl", "engine") if metal else ("sysctl",),
    )


def _from_engine(bus: str | None, device: EngineDevice) -> Device:
    return Device(
        id=f"pci:{bus}" if bus else f"engine:{device.name}",
        label="",
        name=device.description,
        vendor=_VENDORS.get(device.backend, Vendor.OTHER),
        kind=_kind(device),
        pci_bus_id=bus,
        memory_total_bytes=device.memory_total_bytes,
        memory_free_bytes=device.memory_free_bytes,
        support=BackendSupport(backend=device.backend, engine_name=device.name),
        sources=("engine",),
    )


def _linked(gpus: Sequence[Device], nvml: NvmlReport) -> list[Device]:
    """The same devices, each with the ids of those that NVLink connects to it."""
    whole = {gpu.pci_bus_id: gpu for gpu in nvml.gpus if gpu.pci_bus_id and not gpu.mig}
    ids = {device.pci_bus_id: device.id for device in gpus if device.pci_bus_id in whole}
    switched = {bus for bus, gpu in whole.items() if gpu.nvlink_switch}
    result = []
    for device in gpus:
        own = whole.get(device.pci_bus_id or "")
        ends = set(own.nvlink_bus_ids) if own else set()
        if device.pci_bus_id in switched:
            ends |= switched
        peers = (ids[bus] for bus in sorted(filter(None, ends)) if bus in ids)
        result.append(
            dataclasses.replace(device, nvlink_peers=tuple(p for p in peers if p != device.id))
        )
    return result


def _remote(device: EngineDevice, index: int, remote: Sequence[EngineDevice]) -> Device:
    number = sum(1 for other in remote[:index] if other.endpoint == device.endpoint)
    return Device(
        id=f"rpc:{device.endpoint}/{number}",
        label=f"RPC {index}",
        name=device.endpoint or device.description,
        vendor=Vendor.OTHER,
        kind=DeviceKind.REMOTE,
        endpoint=device.endpoint,
        memory_total_bytes=device.memory_total_bytes,
        memory_free_bytes=device.memory_free_bytes,
        support=BackendSupport(backend="rpc", engine_name=device.name),
        sources=("engine",),
    )
