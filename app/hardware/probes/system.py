"""CPU, RAM and disk, from psutil and /proc/cpuinfo."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
from pathlib import Path

import psutil

from app.hardware.model import Cpu, Disk, Memory
from app.hardware.probes.apple import AppleMachine

_FLAGS = {
    "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX512F", "avx512bw": "AVX512BW", "avx512_vnni": "AVX512-VNNI",
    "avx512_vbmi": "AVX512-VBMI", "avx512_bf16": "AVX512-BF16", "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16", "asimd": "NEON", "asimddp": "DOTPROD", "i8mm": "I8MM",
    "bf16": "BF16", "sve": "SVE", "sve2": "SVE2", "sme": "SME",
}  # fmt: skip
"""Flags of /proc/cpuinfo that ggml-cpu has kernels for, as people write them."""


def cpu(apple: AppleMachine | None = None) -> Cpu:
    """The processor; instruction sets where /proc or Apple's sysctl tell."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    logical = psutil.cpu_count() or 1
    return Cpu(
        name=apple.chip if apple else name[1].strip() if name else _plain_name(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        instruction_sets=apple.instruction_sets
        if apple
        else tuple(shown for flag, shown in _FLAGS.items() if flag in present),
    )


def _plain_name() -> str:
    return platform.processor() or platform.machine() or "unknown processor"


def memory() -> Memory:
    """Main memory now."""
    now = psutil.virtual_memory()
    return Memory(total_bytes=now.total, available_bytes=now.available)


def disk(folder: Path) -> Disk | None:
    """The disk of `folder`, or of its nearest parent that exists."""
    for place in (folder.absolute(), *folder.absolute().parents):
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(place)
            return Disk(folder=str(folder), total_bytes=usage.total, free_bytes=usage.free)
    return None


def describe() -> str:
    """The operating system in a line."""
    release = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    name = release.get("PRETTY_NAME")
    return f"{name}, {platform.platform()}" if name else platform.platform()
