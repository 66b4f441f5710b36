"""Apple's machines, from `sysctl`: chip, memory, and how much of it the GPU may wire."""

from __future__ import annotations

import dataclasses
import subprocess

TIMEOUT_S = 5.0
_KEYS = ("machdep.cpu.brand_string", "hw.memsize", "hw.optional", "iogpu.wired_limit_mb")
_FEATURES = {
    "AdvSIMD": "NEON",
    "FEAT_DotProd": "DOTPROD",
    "FEAT_I8MM": "I8MM",
    "FEAT_BF16": "BF16",
    "FEAT_SME": "SME",
    "avx1_0": "AVX",
    "avx2_0": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512F",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AppleMachine:
    """A Mac.

    Attributes:
        chip: Its name, for example `Apple M3 Max`.
        silicon: True for Apple's own chips, whose GPU shares the main memory.
        wired_limit_bytes: What a person allowed the GPU at most; None means macOS decides, and
            then the engine tells (Metal's recommendedMaxWorkingSetSize).
    """

    chip: str
    memory_bytes: int
    silicon: bool
    wired_limit_bytes: int | None = None
    instruction_sets: tuple[str, ...] = ()


def ask() -> str:
    """What `sysctl` prints; keys that this system lacks are left out. Empty if it fails."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *_KEYS],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def parse(output: str) -> AppleMachine | None:
    """The machine that `sysctl` describes, or None if it says too little."""
    values = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    chip, memory = values.get("machdep.cpu.brand_string"), values.get("hw.memsize", "")
    if chip is None or not memory.isdigit():
        return None
    wired_mib = values.get("iogpu.wired_limit_mb", "")
    features = {key.rpartition(".")[2] for key, value in values.items() if value == "1"}
    return AppleMachine(
        chip=chip,
        memory_bytes=int(memory),
        silicon=values.get("hw.optional.arm64") == "1",
        wired_limit_bytes=int(wired_mib) * 1024**2 if wired_mib.strip("0").isdigit() else None,
        instruction_sets=tuple(shown for key, shown in _FEATURES.items() if key in features),
    )
