"""The real binding on a stand-in NVML library, in the real probe's child."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.hardware.detect import detect
from app.hardware.model import HardwareReport
from app.units import GIB
from tests.helpers.rpc import rpc_servers

STUB = Path(__file__).parents[2] / "helpers" / "nvml" / "stub.c"
Look = Callable[..., HardwareReport]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    compiler = shutil.which("cc") or "gcc"
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(STUB)], check=True)
    return folder


@pytest.fixture
def look(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Look:
    def with_stub(scenario: str, **options: float | frozenset[int]) -> HardwareReport:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("NVML_STUB", scenario)
        return detect(model_folder=tmp_path, **options)  # type: ignore[arg-type]

    return with_stub


def test_eight_equal_cards_stand_in_the_order_of_the_bus(look: Look) -> None:
    devices = look("equal").devices
    assert [d.id for d in devices] == [f"GPU-{index}" for index in range(7, -1, -1)]
    assert [d.label for d in devices] == [f"GPU {index}" for index in range(8)]
    first = devices[0]
    assert first.pci_bus_id == "0000:09:00.0"
    assert (first.memory_total_bytes, first.driver_version) == (24 * GIB, "570.86")
    assert (first.pcie.generation, first.pcie.width, first.pcie.max_width) == (1, 8, 16)
    assert (first.temperature_c, first.power_w, first.compute_capability) == (41, 31, "8.6")
    assert first.utilisation_percent is None, "what the driver does not tell is not invented"


def test_mixed_cards_and_why_this_engine_cannot_use_them(look: Look) -> None:
    report = look("mixed")
    by_name = {d.name: d for d in report.devices}
    assert by_name["NVIDIA A100"].memory_total_bytes == 80 * GIB
    if not {"cuda", "vulkan"} & set(report.engine.backends):
        support = by_name["NVIDIA A100"].support
        assert (
            support.reason == "NVIDIA A100 found, but this engine is built without CUDA or Vulkan."
        )
        assert "make engine" in support.remedy
        assert not report.usable_devices


def test_mig_slices_are_devices_of_their_own(look: Look) -> None:
    devices = look("mig").devices
    assert [(d.id, d.memory_total_bytes, d.mig) for d in devices] == [
        ("MIG-0", 10 * GIB, True),
        ("MIG-1", 10 * GIB, True),
    ]


def test_memory_of_other_programs_is_theirs_and_ours_is_not(look: Look) -> None:
    assert look("others").devices[0].used_by_others_bytes == 5 * GIB
    own = look("others", own_pids=frozenset({4242}))
    assert own.devices[0].used_by_others_bytes == 2 * GIB


def test_a_driver_mismatch_and_a_hang_leave_a_notice_and_the_rest(look: Look) -> None:
    for scenario, words in (("mismatch", "mismatch"), ("hang", "no answer within")):
        report = look(scenario, nvml_timeout_s=3.0)
        assert any(words in notice.title for notice in report.notices)
        assert report.devices == ()
        assert report.memory.total_bytes > 0
        assert report.engine.version


def test_amd_and_intel_cards_as_the_kernel_shows_them(tmp_path: Path) -> None:
    trees = {
        "card1": {
            "vendor": "0x1002",
            "uevent": "DRIVER=amdgpu\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:0a:00.0",
            "unique_id": "6d1f",
            "mem_info_vram_vendor": "hynix",
            "mem_info_vram_total": str(24 * GIB),
            "mem_info_vram_used": str(2 * GIB),
            "mem_info_gtt_total": str(32 * GIB),
            "gpu_busy_percent": "7",
            "current_link_speed": "16.0 GT/s PCIe",
            "current_link_width": "16",
            "hwmon/hwmon3/temp1_input": "45000",
            "hwmon/hwmon3/power1_average": "32000000",
        },
        "card0": {
            "vendor": "0x8086",
            "uevent": "DRIVER=i915\nPCI_ID=8086:A780\nPCI_SLOT_NAME=0000:00:02.0",
        },
    }
    for card, files in trees.items():
        for name, content in files.items():
            file = tmp_path / "class" / "drm" / card / "device" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + "\n")
    intel, amd = detect(model_folder=tmp_path, sysfs_root=tmp_path).devices
    assert (amd.id, amd.kind, amd.memory_free_bytes) == ("AMD-6d1f", "gpu", 22 * GIB)
    assert (amd.temperature_c, amd.power_w, amd.utilisation_percent) == (45, 32, 7)
    assert (amd.pcie.generation, amd.pcie.width) == (4, 16)
    assert (intel.kind, intel.name, intel.memory_total_bytes) == (
        "integrated_gpu",
        "Intel GPU 8086:a780",
        None,
    )
    assert "without Vulkan" in amd.support.reason or amd.usable


def test_without_nvml_there_is_nothing_to_say(tmp_path: Path) -> None:
    report = detect(model_folder=tmp_path / "not" / "yet")
    assert report.disks[0].free_bytes > 0
    assert report.cpu.logical_cores >= 1


def test_one_bad_rpc_server_hides_no_other(tmp_path: Path) -> None:
    with rpc_servers(1, devices_each=2) as endpoints:
        report = detect(model_folder=tmp_path, rpc_servers=("127.0.0.1:1", *endpoints))
    assert [d.id for d in report.devices] == [f"rpc:{endpoints[0]}/{i}" for i in range(2)]
    assert "127.0.0.1:1" in report.notices[0].title
