"""AMD and Intel GPUs as the Linux kernel shows them below /sys/class/drm (amdgpu, i915, xe)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from app.hardware.model import DeviceKind, PcieLink, Vendor

VENDORS = {"0x1002": Vendor.AMD, "0x8086": Vendor.INTEL}
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""PCIe generation by its GT/s, as the kernel writes the link's speed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SysfsGpu:
    """One GPU; None where the driver shows nothing. Bytes, °C, watts, per cent."""

    pci_bus_id: str
    vendor: Vendor
    kind: DeviceKind
    name: str
    uuid: str | None
    driver: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    pcie: PcieLink
    temperature_c: float | None
    power_w: float | None
    utilisation_percent: float | None


def read(root: Path = Path("/sys")) -> tuple[SysfsGpu, ...]:
    """All AMD and Intel GPUs by PCI bus id; `root` may be a captured tree."""
    found = {}
    for card in sorted((root / "class" / "drm").glob("card*")):
        device = card / "device"
        vendor = VENDORS.get(_text(device / "vendor") or "")
        bus = _uevent(device).get("PCI_SLOT_NAME")
        if vendor is not None and bus and bus not in found:
            found[bus] = _gpu(device, bus, vendor)
    return tuple(found[bus] for bus in sorted(found))


def _gpu(device: Path, bus: str, vendor: Vendor) -> SysfsGpu:
    uevent = _uevent(device)
    monitor = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device / "none")
    total = _number(device / "mem_info_vram_total") or _number(device / "lmem_total_bytes")
    # An AMD card's own memory is at least as large as the window of main memory that an APU carves out.
    gtt = _number(device / "mem_info_gtt_total")
    integrated = total is None or (
        gtt is not None and total < gtt and not _text(device / "mem_info_vram_vendor")
    )
    power = _number(monitor / "power1_average") or _number(monitor / "power1_input")
    heat = _number(monitor / "temp1_input")
    unique = _text(device / "unique_id")
    return SysfsGpu(
        pci_bus_id=bus.lower(),
        vendor=vendor,
        kind=DeviceKind.INTEGRATED_GPU if integrated else DeviceKind.GPU,
        name=_text(device / "product_name")
        or f"{vendor} GPU {uevent.get('PCI_ID', '').lower()}".strip(),
        uuid=f"{vendor}-{unique}" if unique else None,
        driver=uevent.get("DRIVER", ""),
        memory_total_bytes=total,
        memory_used_bytes=_number(device / "mem_info_vram_used"),
        pcie=PcieLink(
            generation=_generation(device / "current_link_speed"),
            width=_number(device / "current_link_width"),
            max_generation=_generation(device / "max_link_speed"),
            max_width=_number(device / "max_link_width"),
        ),
        temperature_c=heat / 1000 if heat is not None else None,
        power_w=power / 1_000_000 if power is not None else None,
        utilisation_percent=_number(device / "gpu_busy_percent"),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _generation(path: Path) -> int | None:
    text = _text(path)
    return _GENERATIONS.get(text.split()[0]) if text else None


def _uevent(device: Path) -> dict[str, str]:
    lines = (_text(device / "uevent") or "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
