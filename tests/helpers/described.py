"""Machines that are described, not owned: a report as the probes would make it."""

from __future__ import annotations

from app.hardware import gpu_table
from app.hardware.model import (
    BackendSupport,
    Cpu,
    Device,
    DeviceKind,
    Disk,
    EngineInfo,
    HardwareReport,
    Memory,
    PcieLink,
    Vendor,
)
from app.units import GIB, MIB

ENGINE_NAMES = {"cuda": "CUDA", "vulkan": "Vulkan"}


def report(gpus: str, *, ram_gib: int, backend: str = "cuda") -> HardwareReport:
    """This many GPUs (`8x RTX 3090`), the first with a desktop on it, and main memory."""
    found = gpu_table.parse(gpus)
    devices = tuple(_device(gpu, index, backend) for index, gpu in enumerate(found))
    ram = ram_gib * GIB
    return HardwareReport(
        devices=devices,
        cpu=Cpu(name="AMD Ryzen Threadripper PRO 5955WX", physical_cores=16, logical_cores=32),
        memory=Memory(total_bytes=ram, available_bytes=ram - 5 * GIB),
        disks=(Disk(folder="/models", total_bytes=2 * 10**12, free_bytes=612 * 10**9),),
        engine=EngineInfo(version="described", backends=(backend, "cpu")),
        system="described",
    )


def _device(gpu: gpu_table.Gpu, index: int, backend: str) -> Device:
    total = gpu.memory_bytes
    held = 600 * MIB if index == 0 else 0
    return Device(
        id=f"GPU-{index}",
        label=f"GPU {index}",
        name=gpu.name,
        vendor=Vendor.NVIDIA if backend == "cuda" else Vendor.AMD,
        kind=DeviceKind.GPU,
        memory_total_bytes=total,
        memory_free_bytes=total - held,
        used_by_others_bytes=held,
        driver_version="570.86",
        pcie=PcieLink(generation=4, width=16 if index < 4 else 8),
        temperature_c=34 + index % 4,
        power_w=21 + index % 5,
        support=BackendSupport(backend=backend, engine_name=f"{ENGINE_NAMES[backend]}{index}"),
    )
