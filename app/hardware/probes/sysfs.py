"""GPUs as Linux shows them in sysfs: amdgpu, i915 and xe with their readings, others by vendor.

Names of files: drivers/gpu/drm/amd/pm/amdgpu_pm.c, amdgpu_vram_mgr.c, i915_hwmon.c, xe_hwmon.c
and drivers/pci/pci-sysfs.c of Linux.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.hardware.model import PcieLink, Vendor
from app.hardware.probes.pci import normalise_bus_id

_VENDORS = {"0x10de": Vendor.NVIDIA, "0x1002": Vendor.AMD, "0x8086": Vendor.INTEL}
_DISPLAY, _ACCELERATOR = "0x03", "0x12"
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""GT/s per lane to PCIe generation."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SysfsGpu:
    """One GPU as the kernel tells; None where it does not.

    Attributes:
        driver: Kernel driver that is bound to it, or None.
        pci_id: Vendor and device, `1002:744c`.
        name: Product name, where the card's own memory holds one.
        unique_id: The serial number that amdgpu reads from the chip.
        integrated: Whether it shares the main memory, where the driver tells.
    """

    path: Path
    vendor: Vendor
    pci_bus_id: str
    pci_id: str
    driver: str | None = None
    name: str | None = None
    unique_id: str | None = None
    integrated: bool | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    pcie: PcieLink = dataclasses.field(default_factory=PcieLink)
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation_percent: float | None = None


def places(root: Path) -> Path:
    """The folder with one entry for each PCI device, named by its bus id."""
    return root / "bus" / "pci" / "devices"


def find(root: Path = Path("/sys")) -> tuple[SysfsGpu, ...]:
    """All GPUs of vendors whose cards an engine can use, by PCI bus id."""
    return tuple(gpu for place in _entries(places(root)) if (gpu := _gpu(place)) is not None)


def read(path: Path) -> SysfsGpu | None:
    """The GPU at `path` again, for its live values; None if it has gone."""
    return _gpu(path)


def evidence(gpus: Iterable[SysfsGpu]) -> str:
    """What the kernel said of each GPU, a line for each."""
    return "\n".join(
        f"{gpu.pci_bus_id} {gpu.pci_id} driver={gpu.driver} name={gpu.name} "
        f"unique_id={gpu.unique_id} vram={gpu.memory_used_bytes}/{gpu.memory_total_bytes} "
        f"link={gpu.pcie.generation}x{gpu.pcie.width}/{gpu.pcie.max_generation}x{gpu.pcie.max_width}"
        for gpu in gpus
    )


def held_by(pids: Iterable[int]) -> dict[str, int]:
    """Bytes of local memory that processes hold through DRM, by PCI bus id.

    Source: Documentation/gpu/drm-usage-stats.rst of Linux; a client that is open more than once
    counts once.
    """
    held: dict[tuple[str, str], int] = {}
    for pid in pids:
        for info in _entries(Path(f"/proc/{pid}/fdinfo")):
            fields = dict(
                line.split(":", 1) for line in (_text(info) or "").splitlines() if ":" in line
            )
            place, client = fields.get("drm-pdev"), fields.get("drm-client-id", info.name)
            if place is None:
                continue
            # amdgpu calls its local memory vram, xe vram0, i915 local0.
            held[normalise_bus_id(place), client.strip()] = max(
                (_size(fields[key]) for key in fields if key in _LOCAL), default=0
            )
    result: dict[str, int] = {}
    for (place, _), size_bytes in held.items():
        result[place] = result.get(place, 0) + size_bytes
    return result


_LOCAL = tuple(
    f"drm-{what}-{region}"
    for what in ("resident", "memory")
    for region in ("vram", "vram0", "local0")
)


def _gpu(place: Path) -> SysfsGpu | None:
    vendor = _VENDORS.get(_text(place / "vendor") or "")
    kind = (_text(place / "class") or "")[:4]
    driver = _link_name(place / "driver")
    if vendor is None or kind not in (_DISPLAY, _ACCELERATOR):
        return None
    if kind == _ACCELERATOR and driver != "amdgpu":
        return None  # an NPU or a crypto card
    sensors = next(_entries(place / "hwmon"), place / "hwmon" / "none")
    power = _number(sensors / "power1_average", sensors / "power1_input")
    limit = _number(sensors / "power1_cap", sensors / "power1_max")
    # xe numbers its package sensor 2.
    temperature = _number(sensors / "temp1_input", sensors / "temp2_input")
    identity = [(_text(place / name) or "0x").removeprefix("0x") for name in ("vendor", "device")]
    unique = _text(place / "unique_id")
    return SysfsGpu(
        path=place,
        vendor=vendor,
        pci_bus_id=normalise_bus_id(place.name),
        pci_id=":".join(identity),
        driver=driver,
        name=_text(place / "product_name") or None,
        unique_id=unique if unique and unique.strip("0") else None,
        integrated=_integrated(driver, sensors),
        memory_total_bytes=_number(place / "mem_info_vram_total", place / "lmem_total_bytes"),
        memory_used_bytes=_used(place),
        pcie=_link(place),
        temperature_c=temperature / 1000 if temperature is not None else None,
        power_w=power / 1e6 if power is not None else None,
        power_limit_w=limit / 1e6 if limit is not None else None,
        utilisation_percent=_number(place / "gpu_busy_percent"),
    )


def _integrated(driver: str | None, sensors: Path) -> bool | None:
    # i915 and xe register sensors for cards with memory of their own only (i915_hwmon.c).
    return not sensors.exists() if driver in ("i915", "xe") else None


def _used(place: Path) -> int | None:
    total, available = _number(place / "lmem_total_bytes"), _number(place / "lmem_avail_bytes")
    if total is not None and available is not None:
        return total - available
    return _number(place / "mem_info_vram_used")


def _link(place: Path) -> PcieLink:
    """The narrowest part of the way to the root port: cards may carry a switch of their own."""
    # An endpoint behind its card's switch shows the switch's width, not the slot's.
    steps = [place.resolve(), *place.resolve().parents]
    steps = [step for step in steps if (step / "current_link_speed").exists()]
    return PcieLink(
        generation=_least(_generation(step / "current_link_speed") for step in steps),
        width=_least(_number(step / "current_link_width") for step in steps),
        max_generation=_least(_generation(step / "max_link_speed") for step in steps),
        max_width=_least(_number(step / "max_link_width") for step in steps),
    )


def _least(values: Iterable[int | None]) -> int | None:
    # 0 lanes: a link that sleeps, or the integrated end of a root complex.
    return min((value for value in values if value), default=None)


def _generation(path: Path) -> int | None:
    return _GENERATIONS.get((_text(path) or "").split(" ")[0])


def _number(*paths: Path) -> int | None:
    """The first of these files that holds a number."""
    for path in paths:
        with contextlib.suppress(ValueError):
            if (text := _text(path)) is not None:
                return int(text)
    return None


def _size(text: str) -> int:
    number, _, unit = text.strip().partition(" ")
    return int(number) * {"": 1, "KiB": 1024, "MiB": 1024**2}.get(unit, 1)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # absent, or a sensor that sleeps
        return None


def _link_name(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return
