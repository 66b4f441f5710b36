"""CPU, RAM and disk, from psutil and /proc/cpuinfo."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
from pathlib import Path

import psutil

from app.hardware.model import Cpu, Disk, Memory

_FLAGS = {
    "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512F",
    "avx512_vnni": "AVX512-VNNI", "avx512_bf16": "AVX512-BF16", "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16", "asimd": "NEON", "asimddp": "DOTPROD", "i8mm": "I8MM", "sve": "SVE",
}  # fmt: skip


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """The processor; instruction sets where /proc tells."""
    text = ""
    with contextlib.suppress(OSError):
        text = cpuinfo.read_text(errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return Cpu(
        name=name[1].strip() if name else platform.processor() or platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or 1,
        logical_cores=psutil.cpu_count() or 1,
        instruction_sets=tuple(shown for flag, shown in _FLAGS.items() if flag in present),
    )


def memory() -> Memory:
    """Main memory now."""
    now = psutil.virtual_memory()
    return Memory(total_bytes=now.total, available_bytes=now.available)


def disk(folder: Path) -> Disk | None:
    """The disk below `folder`, or below its nearest parent that exists."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    return Disk(folder=str(folder), total_bytes=usage.total, free_bytes=usage.free)
