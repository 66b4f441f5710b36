"""Puts the probes' answers together, by PCI bus id or UUID, never by index or name."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path

from app.hardware.model import (
    BackendSupport,
    Device,
    DeviceKind,
    EngineDevice,
    EngineInfo,
    Evidence,
    HardwareReport,
    Notice,
    PcieLink,
    Vendor,
)
from app.hardware.probes import children, sysfs, system
from app.hardware.probes.engine_devices import EngineList
from app.hardware.probes.nvml import NvmlGpu, NvmlReport
from app.hardware.probes.sysfs import SysfsGpu

NVML_TIMEOUT_S = 10.0
ENGINE_TIMEOUT_S = 30.0
_PREFERENCE = ("cuda", "metal", "vulkan")


@dataclasses.dataclass(slots=True)
class _Notes:
    notices: list[Notice] = dataclasses.field(default_factory=list)
    evidence: list[Evidence] = dataclasses.field(default_factory=list)


def detect(
    *,
    model_folder: Path,
    rpc_servers: Sequence[str] = (),
    own_pids: frozenset[int] = frozenset(),
    nvml_timeout_s: float = NVML_TIMEOUT_S,
    engine_timeout_s: float = ENGINE_TIMEOUT_S,
    sysfs_root: Path = Path("/sys"),
) -> HardwareReport:
    """Look at the machine. Every source fails alone and leaves a notice.

    Args:
        model_folder: Where models go; its disk is reported.
        rpc_servers: `host:port` of RPC servers, whose devices count as devices.
        own_pids: This app's engine processes; their GPU memory is not used by others.
        nvml_timeout_s: How long NVML may take before it counts as hung.
        engine_timeout_s: How long the engine may take to list its devices.
        sysfs_root: Where the kernel shows AMD and Intel GPUs.
    """
    notes = _Notes()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        nvml_future = pool.submit(_ask_nvml, nvml_timeout_s, notes)
        engine_future = pool.submit(_ask_engine, tuple(rpc_servers), engine_timeout_s, notes)
        nvml, engine = nvml_future.result(), engine_future.result()
    disk = system.disk(model_folder)
    return HardwareReport(
        devices=_merge(nvml, sysfs.read(sysfs_root), engine, own_pids),
        cpu=system.cpu(),
        memory=system.memory(),
        disks=(disk,) if disk else (),
        engine=engine,
        system=platform.platform(),
        notices=tuple(notes.notices),
        evidence=tuple(notes.evidence),
    )


def _ask_nvml(timeout_s: float, notes: _Notes) -> NvmlReport:
    try:
        text = children.ask("app.hardware.probes.nvml", timeout_s=timeout_s)
        notes.evidence.append(Evidence(source="nvml", text=text))
        report = NvmlReport.model_validate_json(text)
    except (children.ProbeError, ValueError) as error:
        notes.evidence.append(Evidence(source="nvml", text=str(error)))
        notes.notices.append(
            Notice(
                title=f"NVIDIA's driver could not be asked: {error}.",
                hint="Restart the machine, or install the driver again.",
            )
        )
        return NvmlReport(error=str(error))
    if report.error and not report.absent:
        hint = "Restart the machine, or install the driver again."
        notes.notices.append(
            Notice(title=f"NVIDIA's driver does not work: {report.error}.", hint=hint)
        )
    return report


def _ask_engine(servers: tuple[str, ...], timeout_s: float, notes: _Notes) -> EngineInfo:
    """Ask with all RPC servers; if the child dies, without, then each alone: one bad server hides none."""
    module = "app.hardware.probes.engine_devices"

    def once(asked: tuple[str, ...]) -> EngineList:
        text = children.ask(module, *asked, timeout_s=timeout_s)
        notes.evidence.append(Evidence(source="engine", text=text))
        return EngineList.model_validate_json(text)

    try:
        answer = once(servers)
        silent, listed = list(answer.silent_servers), list(answer.devices)
    except (children.ProbeError, ValueError) as first:
        try:
            answer = once(())
        except (children.ProbeError, ValueError):
            notes.evidence.append(Evidence(source="engine", text=str(first)))
            title = f"The engine could not list its devices: {first}."
            notes.notices.append(Notice(title=title, hint="Run `make engine` to build it again."))
            return EngineInfo(error=str(first))
        silent, listed = [], list(answer.devices)
        for server in servers:
            try:
                alone = once((server,))
                silent += alone.silent_servers
                listed += [d for d in alone.devices if d.backend == "rpc"]
            except (children.ProbeError, ValueError):
                silent.append(server)
    for server in silent:
        hint = "Start it, or remove it in the settings."
        notes.notices.append(Notice(title=f"No RPC server answers at {server}.", hint=hint))
    devices = tuple(EngineDevice(**device.model_dump()) for device in listed)
    backends = sorted({d.backend for d in devices} | {"cpu"})
    return EngineInfo(version=answer.version, backends=tuple(backends), devices=devices)


def _merge(
    nvml: NvmlReport, kernel: Sequence[SysfsGpu], engine: EngineInfo, own_pids: frozenset[int]
) -> tuple[Device, ...]:
    listed = [d for d in engine.devices if d.kind in ("gpu", "igpu") or d.backend == "rpc"]
    remote = [d for d in listed if d.backend == "rpc"]
    local = sorted(
        (d for d in listed if d.backend != "rpc"),
        key=lambda d: (
            _PREFERENCE.index(d.backend) if d.backend in _PREFERENCE else len(_PREFERENCE)
        ),
    )
    found: dict[str, Device] = {}
    for gpu in sorted(nvml.gpus, key=lambda g: (g.pci_bus_id or "", g.uuid)):
        match = next((d for d in local if d.pci_bus_id and d.pci_bus_id == gpu.pci_bus_id), None)
        device = _from_nvml(gpu, nvml, match, engine, own_pids)
        found[device.id] = device
    for card in kernel:
        match = next((d for d in local if d.pci_bus_id == card.pci_bus_id), None)
        device = _from_sysfs(card, match, engine)
        found[device.id] = device
    known = {device.pci_bus_id for device in found.values() if device.pci_bus_id}
    for listed_device in local:
        bus = listed_device.pci_bus_id
        if bus and bus in known:
            continue
        known.add(bus) if bus else None
        device = _from_engine(listed_device)
        found[device.id] = device
    labelled = [
        dataclasses.replace(device, label=f"GPU {index}")
        for index, device in enumerate(found.values())
    ]
    bus_to_id = {device.pci_bus_id: device.id for device in labelled if device.pci_bus_id}
    labelled = [
        dataclasses.replace(
            device, nvlink_peers=tuple(bus_to_id[p] for p in device.nvlink_peers if p in bus_to_id)
        )
        for device in labelled
    ]
    return (*labelled, *(_remote(device, index, remote) for index, device in enumerate(remote)))


def _from_nvml(
    gpu: NvmlGpu,
    nvml: NvmlReport,
    match: EngineDevice | None,
    engine: EngineInfo,
    own_pids: frozenset[int],
) -> Device:
    own = sum(size for pid, size in gpu.processes.items() if pid in own_pids)
    used = gpu.memory_used_bytes
    return Device(
        id=gpu.uuid or f"pci:{gpu.pci_bus_id}",
        label="",
        name=gpu.name,
        vendor=Vendor.NVIDIA,
        kind=DeviceKind.GPU,
        uuid=gpu.uuid or None,
        pci_bus_id=gpu.pci_bus_id,
        memory_total_bytes=gpu.memory_total_bytes,
        memory_free_bytes=gpu.memory_free_bytes,
        used_by_others_bytes=max(0, used - own) if used is not None else None,
        driver_version=nvml.driver_version,
        compute_capability=gpu.compute_capability,
        pcie=PcieLink(
            generation=gpu.pcie_generation,
            width=gpu.pcie_width,
            max_generation=gpu.pcie_max_generation,
            max_width=gpu.pcie_max_width,
        ),
        nvlink_peers=gpu.nvlink_bus_ids,
        temperature_c=gpu.temperature_c,
        power_w=gpu.power_w,
        power_limit_w=gpu.power_limit_w,
        utilisation_percent=gpu.utilisation_percent,
        mig=gpu.mig,
        support=_support(gpu.name, match, engine),
        sources=("nvml", "engine") if match else ("nvml",),
    )


def _from_sysfs(card: SysfsGpu, match: EngineDevice | None, engine: EngineInfo) -> Device:
    total, used = card.memory_total_bytes, card.memory_used_bytes
    free = total - used if total is not None and used is not None else None
    if match is not None and total is None:
        total, free = match.memory_total_bytes, match.memory_free_bytes
    return Device(
        id=card.uuid or f"pci:{card.pci_bus_id}",
        label="",
        name=card.name,
        vendor=card.vendor,
        kind=card.kind,
        uuid=card.uuid,
        pci_bus_id=card.pci_bus_id,
        memory_total_bytes=total,
        memory_free_bytes=free,
        driver_version=card.driver,
        pcie=card.pcie,
        temperature_c=card.temperature_c,
        power_w=card.power_w,
        utilisation_percent=card.utilisation_percent,
        support=_support(card.name, match, engine, missing="Vulkan"),
        sources=("sysfs", "engine") if match else ("sysfs",),
    )


def _support(
    name: str, match: EngineDevice | None, engine: EngineInfo, *, missing: str = "CUDA or Vulkan"
) -> BackendSupport:
    """`missing` names the backends that could use the card."""
    if match is not None:
        return BackendSupport(backend=match.backend, engine_name=match.name)
    if engine.error:
        return BackendSupport(
            reason=f"{name} found, but the engine does not start.",
            remedy="Run `make engine` to build it again.",
        )
    if not set(missing.lower().split(" or ")) & set(engine.backends):
        toolkit = "the CUDA toolkit (nvcc)" if "CUDA" in missing else "libvulkan-dev and glslc"
        return BackendSupport(
            reason=f"{name} found, but this engine is built without {missing}.",
            remedy=f"Install {toolkit}, then run `make engine`.",
        )
    return BackendSupport(
        reason=f"{name} found, but the engine does not list it.",
        remedy="Check CUDA_VISIBLE_DEVICES and the driver's version.",
    )


def _from_engine(device: EngineDevice) -> Device:
    identity = f"pci:{device.pci_bus_id}" if device.pci_bus_id else f"engine:{device.name}"
    return Device(
        id=identity,
        label="",
        name=device.description,
        vendor=Vendor.APPLE if device.backend == "metal" else Vendor.OTHER,
        kind=DeviceKind.INTEGRATED_GPU if device.kind == "igpu" else DeviceKind.GPU,
        pci_bus_id=device.pci_bus_id,
        memory_total_bytes=device.memory_total_bytes,
        memory_free_bytes=device.memory_free_bytes,
        support=BackendSupport(backend=device.backend, engine_name=device.name),
        sources=("engine",),
    )


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
