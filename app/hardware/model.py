"""Frozen values that describe a machine. Sizes are bytes; None means that no source could tell."""

from __future__ import annotations

import dataclasses
import enum


class Vendor(enum.StrEnum):
    """Who made a device."""

    NVIDIA = "NVIDIA"
    AMD = "AMD"
    INTEL = "Intel"
    APPLE = "Apple"
    OTHER = "other"


class DeviceKind(enum.StrEnum):
    """What a device is."""

    GPU = "gpu"
    INTEGRATED_GPU = "integrated_gpu"
    REMOTE = "remote"
    """A device of an RPC server, possibly on another machine."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PcieLink:
    """A device's PCIe link, now and at most. An idle card may run at a lower generation."""

    generation: int | None = None
    width: int | None = None
    max_generation: int | None = None
    max_width: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevice:
    """A device as llama.cpp lists it.

    Attributes:
        name: What the engine calls it, for example `CUDA0`, `Vulkan1`, `RPC0[127.0.0.1:50052]`.
        description: The engine's description, for example the marketing name.
        backend: Backend in lower case: `cuda`, `vulkan`, `metal`, `rpc`, `cpu`, ...
        kind: `gpu`, `igpu`, `accel` or `cpu`, as ggml says.
        pci_bus_id: PCI bus id in the form `0000:01:00.0`, where the backend tells.
        endpoint: `host:port` of the RPC server that holds the device.
        memory_total_bytes: What the backend reports.
        memory_free_bytes: What the backend reports.
    """

    name: str
    description: str
    backend: str
    kind: str
    pci_bus_id: str | None = None
    endpoint: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackendSupport:
    """Whether the engine as built can use a device.

    Attributes:
        backend: The backend that will be used, or None.
        engine_name: The device's name in the engine (`CUDA0`), or None.
        reason: Why no backend can use it; empty if one can.
        remedy: What to do about that; empty if nothing is wrong.
    """

    backend: str | None = None
    engine_name: str | None = None
    reason: str = ""
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that holds memory of a device; the name is empty where the system does not tell it."""

    pid: int
    name: str
    used_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU of this machine, or a device of an RPC server: whatever may hold layers.

    Attributes:
        id: Stable across restarts and reordering: the UUID, else `pci:0000:01:00.0`,
            else `rpc:host:port/0`. Settings are keyed by it, never by an index.
        label: Short name for charts, unique in a report: `GPU 0`, `RPC 1`.
        name: Marketing name as the driver reports it.
        used_by_others_bytes: Memory held now by programs other than this app's engine.
        programs: Who they are, as far as the driver tells, those with most memory first.
        nvlink_peers: Ids of the devices that an NVLink connects to this one.
        mig: True for a MIG slice.
        sources: Which probes contributed (`nvml`, `sysfs`, `engine`, ...).
    """

    id: str
    label: str
    name: str
    vendor: Vendor
    kind: DeviceKind
    uuid: str | None = None
    pci_bus_id: str | None = None
    endpoint: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    used_by_others_bytes: int | None = None
    programs: tuple[Program, ...] = ()
    driver_version: str | None = None
    compute_capability: str | None = None
    pcie: PcieLink = PcieLink()
    nvlink_peers: tuple[str, ...] = ()
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation_percent: float | None = None
    mig: bool = False
    support: BackendSupport = BackendSupport()
    sources: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """True if the engine as built can put layers on it."""
        return self.support.engine_name is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor.

    Attributes:
        instruction_sets: Those that matter to llama.cpp's kernels, for example `AVX2`, `AVX512F`, `AMX-INT8`.
    """

    name: str
    physical_cores: int
    logical_cores: int
    instruction_sets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Main memory (RAM)."""

    total_bytes: int
    available_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk on which a folder lies."""

    folder: str
    total_bytes: int
    free_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """The engine as built here; `error` says why it could not be asked."""

    version: str | None = None
    backends: tuple[str, ...] = ()
    devices: tuple[EngineDevice, ...] = ()
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something about a probe that a person should know: one sentence and the way out."""

    title: str
    hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a source said, unprocessed, for diagnostics."""

    source: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HardwareReport:
    """All that was found out about the machine.

    Attributes:
        devices: GPUs by PCI bus id, then devices of RPC servers in the order of the settings.
    """

    devices: tuple[Device, ...]
    cpu: Cpu
    memory: Memory
    disks: tuple[Disk, ...]
    engine: EngineInfo
    system: str
    notices: tuple[Notice, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    @property
    def usable_devices(self) -> tuple[Device, ...]:
        """Devices that the engine can put layers on."""
        return tuple(device for device in self.devices if device.usable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One live reading of a device; `throttling` is True if heat or power slows it down."""

    device_id: str
    memory_used_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    utilisation_percent: float | None = None
    throttling: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSampled:
    """Event: the devices' and the host's meters were read."""

    devices: tuple[DeviceSample, ...]
    memory_available_bytes: int
    cpu_percent: float
