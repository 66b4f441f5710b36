"""Builds the engine: llama-cpp-python from source, for the hardware of this machine.

RPC is always on. CUDA needs an NVIDIA driver and a CUDA compiler, Vulkan needs headers and a
shader compiler that really compile, Metal needs macOS; else the CPU alone. The environment
variable ULTRA_LAUNCHER_BACKENDS (`cpu`, `cuda`, `vulkan`, `metal`, joined by commas) overrides it.
The wheel is cached outside the tree, keyed by version, flags, compiler and processor.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSION = "0.3.36"
BACKENDS = ("cpu", "cuda", "metal", "vulkan")
GIB_PER_JOB = 2
VULKAN_PROBE = "#include <vulkan/vulkan.hpp>\nint main() { vk::LayerSettingEXT s; (void) s; }\n"
SHADER_PROBE = "#version 450\nvoid main() {}\n"

# What a build log says, and what is missing then.
DIAGNOSES = (
    (
        r"No CMAKE_CXX_COMPILER|CMAKE_CXX_COMPILER not set|g\+\+: (command )?not found",
        "a C++ compiler",
        "g++",
    ),
    (r"CMake must be installed|cmake: (command )?not found", "CMake", "cmake"),
    (r"Python\.h: No such file", "the Python headers", "python3-dev"),
    (
        r"vulkan/vulkan\.hpp|Could NOT find Vulkan|LayerSettingEXT",
        "recent Vulkan headers",
        "libvulkan-dev",
    ),
    (r"glslc", "the shader compiler glslc", "glslc"),
    (r"SPIRV-Headers|spirv\.hpp", "the SPIR-V headers", "spirv-headers"),
    (
        r"CUDA Toolkit not found|nvcc.*not found|CMAKE_CUDA_COMPILER",
        "the CUDA compiler",
        "nvidia-cuda-toolkit",
    ),
)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def has_nvidia_driver() -> bool:
    """True if an NVIDIA driver runs here; an installed nvcc says nothing about that."""
    return Path("/proc/driver/nvidia/version").exists() or (
        shutil.which("nvidia-smi") is not None
        and (subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0)
    )


def vulkan_problem() -> str:
    """Why Vulkan cannot be built here, found by compiling; empty if it can."""
    glslc, compiler = shutil.which("glslc"), shutil.which("c++") or shutil.which("g++")
    if glslc is None:
        return "glslc is missing (Debian: glslc)"
    if compiler is None:
        return "a C++ compiler is missing (Debian: g++)"
    with tempfile.TemporaryDirectory() as folder:
        source, shader = Path(folder, "probe.cpp"), Path(folder, "probe.comp")
        source.write_text(VULKAN_PROBE)
        shader.write_text(SHADER_PROBE)
        tries = (
            (
                [compiler, "-std=c++17", "-fsyntax-only", str(source)],
                "its headers are missing or too old (Debian: libvulkan-dev 1.4 or later)",
            ),
            ([glslc, str(shader), "-o", f"{shader}.spv"], "glslc does not work (Debian: glslc)"),
        )
        for command, problem in tries:
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                return problem
    return ""


def choose_backends() -> tuple[list[str], list[str]]:
    """The backends to build besides CPU and RPC, and a reason for each decision."""
    forced = os.environ.get("ULTRA_LAUNCHER_BACKENDS", "").strip().lower()
    if forced:
        names = [name.strip() for name in forced.split(",") if name.strip()]
        unknown = [name for name in names if name not in BACKENDS]
        if unknown:
            raise SystemExit(
                f"ULTRA_LAUNCHER_BACKENDS names {', '.join(unknown)}; known are {', '.join(BACKENDS)}."
            )
        return [n for n in names if n != "cpu"], [f"{forced}: asked for by ULTRA_LAUNCHER_BACKENDS"]
    if sys.platform == "darwin":
        return ["metal"], ["Metal: this is macOS"]
    backends, reasons = [], []
    driver, nvcc = has_nvidia_driver(), shutil.which("nvcc")
    if driver and nvcc:
        backends.append("cuda")
        reasons.append("CUDA: an NVIDIA driver and nvcc are here")
    else:
        missing = (
            "no NVIDIA driver runs here"
            if not driver
            else "nvcc is missing (Debian: nvidia-cuda-toolkit)"
        )
        reasons.append(f"no CUDA: {missing}")
    problem = vulkan_problem()
    if problem:
        reasons.append(f"no Vulkan: {problem}")
    else:
        backends.append("vulkan")
        reasons.append("Vulkan: headers and glslc compile")
    return backends, reasons


def cmake_flags(backends: list[str]) -> str:
    """CMAKE_ARGS for the build."""
    flags = ["-DGGML_RPC=ON", "-DGGML_NATIVE=ON"]
    flags += [f"-DGGML_{name.upper()}=ON" for name in backends]
    return " ".join(flags)


def cache_key(flags: str) -> str:
    """Identifies a wheel: version, flags, compiler, and the processor that it is tuned for."""
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=False)
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = re.findall(r"^(?:model name|flags|Features)\s*:.*$", info.read_text(), re.MULTILINE)
        cpu = "\n".join(sorted(set(lines)))
    facts = (VERSION, flags, compiler.stdout.split("\n")[0], platform.machine(), sys.platform, cpu)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where wheels and build logs lie."""
    chosen = os.environ.get("ULTRA_LAUNCHER_BUILD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "ultra-launcher" / "engine"


def diagnose(log: str) -> str:
    """What a failed build lacks and the command that installs it."""
    for pattern, what, package in DIAGNOSES:
        if re.search(pattern, log):
            return f"The build needs {what}. Install it: apt-get install {package}"
    if "No space left on device" in log:
        return "The disk is full. Free about 2 GB and run the command again."
    if re.search(r"Killed signal|cc1plus.*killed|out of memory", log):
        return "The compiler ran out of memory. Close other programs and run the command again."
    return "The end of the log stands above; the whole log is kept."


def jobs() -> int:
    """Compilers at once: one a core, two GiB of memory each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(os.cpu_count() or 1, int(memory / GIB_PER_JOB)))


def build(flags: str, target: Path) -> Path:
    """Build the wheel into the folder `target`, with progress; returns the wheel."""
    target.mkdir(parents=True, exist_ok=True)
    log, started, shown = target / "build.log", time.monotonic(), 0.0
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
    environment = os.environ | {"CMAKE_ARGS": flags, "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs())}
    with tempfile.TemporaryDirectory(dir=target) as work, log.open("w") as file:
        child = subprocess.Popen(
            [*command, "-w", work], env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for line in child.stdout or ():
            file.write(line)
            step = re.search(r"\[(\d+)/(\d+)\]", line)
            if step and time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"  compiling {step[1]} of {step[2]}, {shown - started:.0f} s")
        if child.wait() != 0:
            file.flush()
            text = log.read_text(errors="replace")
            say(text[-3000:])
            raise SystemExit(f"The engine was not built. {diagnose(text)} (log: {log})")
        wheel = next(Path(work).glob("*.whl"))
        kept = wheel.replace(target / wheel.name)
    say(f"Built the engine in {time.monotonic() - started:.0f} s.")
    return kept


def main() -> None:
    """Build if needed, and print the wheel's path as the last line."""
    parser = argparse.ArgumentParser(description="Builds llama-cpp-python for this machine.")
    parser.add_argument("--plan", action="store_true", help="only say what would be built, and why")
    parser.add_argument("--install", action="store_true", help="install the wheel with this Python")
    options = parser.parse_args()
    backends, reasons = choose_backends()
    flags = cmake_flags(backends)
    names = ", ".join(
        ["CPU", "RPC", *(n.capitalize() if n != "cuda" else "CUDA" for n in backends)]
    )
    target = cache_folder() / f"{VERSION}-{cache_key(flags)}"
    say(f"Engine: llama-cpp-python {VERSION} with {names} ({'; '.join(reasons)}).")
    if options.plan:
        return
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = next(target.glob("*.whl"), None)
        if wheel is None:
            say(
                f"Building it now with {jobs()} jobs; the CPU part takes about 4 minutes on 2 cores."
            )
            wheel = build(flags, target)
    if options.install:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
        subprocess.run([*command, str(wheel)], check=True)
    say(str(wheel))


if __name__ == "__main__":
    main()
