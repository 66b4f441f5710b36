"""The real script, on machines that stand-in tools on PATH make up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "build_engine.py"
FAILING_PIP = """import sys
print("-- The C compiler identification is GNU")
print("{line}")
sys.exit(1)
"""
WORKING_PIP = """import pathlib, sys
print("[1/2] Building CXX object")
if "wheel" in sys.argv:
    folder = pathlib.Path(sys.argv[sys.argv.index("-w") + 1])
    (folder / "llama_cpp_python-0.3.36-py3-none-any.whl").write_bytes(b"wheel")
"""


class Machine:
    """A machine with exactly these tools."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.cache, self.modules = (folder / n for n in ("tools", "cache", "modules"))
        for part in (self.tools, self.modules):
            part.mkdir()

    def tool(self, name: str, script: str = "exit 0") -> None:
        """A program that runs `script`."""
        file = self.tools / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def pip(self, source: str) -> None:
        """What `python -m pip` does here."""
        (self.modules / "pip.py").write_text(source)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        values = {
            "PATH": str(self.tools),
            "HOME": str(self.cache),
            "PYTHONPATH": str(self.modules),
            "ULTRA_LAUNCHER_BUILD_CACHE": str(self.cache),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        }
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments],
            env=values | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.tool("c++", 'echo "c++ 12.2"')
    return machine


def test_cuda_needs_a_driver_and_a_compiler(machine: Machine) -> None:
    machine.tool("nvcc")
    only_compiler = machine.run("--plan").stdout
    assert "with CPU, RPC (" in only_compiler
    assert "no NVIDIA driver runs here" in only_compiler
    machine.tool("nvidia-smi", 'echo "GPU 0"')
    assert "with CPU, RPC, CUDA (" in machine.run("--plan").stdout
    (machine.tools / "nvcc").unlink()
    assert "nvcc is missing (Debian: nvidia-cuda-toolkit)" in machine.run("--plan").stdout
    machine.tool("nvidia-smi", "exit 9")
    assert "no NVIDIA driver runs here" in machine.run("--plan").stdout


def test_vulkan_is_tried_not_guessed(machine: Machine) -> None:
    assert "glslc is missing" in machine.run("--plan").stdout
    machine.tool("glslc", "exit 1")
    assert "glslc does not work" in machine.run("--plan").stdout
    machine.tool("glslc")
    assert "with CPU, RPC, Vulkan (" in machine.run("--plan").stdout
    machine.tool("c++", "exit 1")
    assert "too old" in machine.run("--plan").stdout


def test_what_is_asked_for_wins_and_a_wrong_name_is_said(machine: Machine) -> None:
    machine.tool("nvcc")
    machine.tool("nvidia-smi")
    assert "with CPU, RPC (cpu:" in machine.run("--plan", ULTRA_LAUNCHER_BACKENDS="cpu").stdout
    wrong = machine.run("--plan", ULTRA_LAUNCHER_BACKENDS="cuda,opengl")
    assert wrong.returncode != 0
    assert "names opengl; known are cpu, cuda, metal, vulkan" in wrong.stderr


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("No CMAKE_CXX_COMPILER could be found", "apt-get install g++"),
        ("fatal error: Python.h: No such file or directory", "apt-get install python3-dev"),
        ("Could NOT find Vulkan (missing: Vulkan_LIBRARY)", "apt-get install libvulkan-dev"),
        ("CUDA Toolkit not found", "apt-get install nvidia-cuda-toolkit"),
        ("write error: No space left on device", "Free about 2 GB"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
    ],
)
def test_a_build_that_fails_says_what_is_missing(machine: Machine, line: str, advice: str) -> None:
    machine.pip(FAILING_PIP.format(line=line))
    failed = machine.run()
    assert failed.returncode != 0
    assert advice in failed.stderr
    assert line in next(machine.cache.glob("*/build.log")).read_text()


def test_a_wheel_is_built_once_for_each_set_of_flags(machine: Machine) -> None:
    machine.pip(WORKING_PIP)
    first = machine.run(ULTRA_LAUNCHER_BACKENDS="cpu")
    assert "Building it now" in first.stdout
    wheel = first.stdout.splitlines()[-1]
    again = machine.run(ULTRA_LAUNCHER_BACKENDS="cpu")
    assert "Building" not in again.stdout
    assert again.stdout.splitlines()[-1] == wheel
    other = machine.run(ULTRA_LAUNCHER_BACKENDS="vulkan")
    assert "Building it now" in other.stdout
    assert other.stdout.splitlines()[-1] != wheel
