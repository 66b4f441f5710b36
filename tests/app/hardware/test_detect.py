"""The real binding on a stand-in NVML library, in the real probe's child."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app import processes
from app.hardware.detect import detect
from app.hardware.merge import Sources, merge
from app.hardware.meters import Meters
from app.hardware.model import EngineDevice, EngineInfo, HardwareReport, HardwareSampled
from app.hardware.probes import apple
from app.units import GIB
from tests.helpers.rpc import rpc_servers
from tests.helpers.sysfs import SysfsTree

Look = Callable[..., HardwareReport]


def until(
    samples: queue.Queue[HardwareSampled], seen: Callable[[HardwareSampled], bool]
) -> HardwareSampled:
    """The first sample of which `seen` is true."""
    while True:
        sample = samples.get(timeout=30)
        if seen(sample):
            return sample


@pytest.fixture
def look(nvml_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Look:
    def with_stub(scenario: str, **options: float | frozenset[int]) -> HardwareReport:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_library))
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
    for scenario, words in (("mismatch", "different versions"), ("hang", "hangs")):
        report = look(scenario, nvml_timeout_s=3.0)
        assert any(words in notice.title for notice in report.notices)
        assert report.devices == ()
        assert report.memory.total_bytes > 0
        assert report.engine.version


def test_amd_and_intel_cards_as_the_kernel_shows_them(tmp_path: Path) -> None:
    card = {
        "class": "0x030000",
        "vendor": "0x1002",
        "device": "0x744c",
        "unique_id": "6d1f",
        "mem_info_vram_total": str(24 * GIB),
        "mem_info_vram_used": str(2 * GIB),
        "gpu_busy_percent": "7",
        "current_link_speed": "16.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_speed": "16.0 GT/s PCIe",
        "max_link_width": "16",
        "hwmon/hwmon3/temp1_input": "45000",
        "hwmon/hwmon3/power1_average": "32000000",
    }
    # The slot is narrower than the switch on the card lets the card believe.
    slot = {
        "current_link_speed": "8.0 GT/s PCIe",
        "current_link_width": "8",
        "max_link_width": "16",
    }
    xe = {"class": "0x030000", "vendor": "0x8086", "device": "0xe20b"}
    xe |= {"hwmon/hwmon4/temp2_input": "51000", "hwmon/hwmon4/power1_cap": "190000000"}
    i915 = {"class": "0x030000", "vendor": "0x8086", "device": "0xa780"}
    sound = {"class": "0x040300", "vendor": "0x8086", "device": "0x7a50"}
    root = "devices/pci0000:00/"
    tree = SysfsTree(tmp_path)
    tree.add(f"{root}0000:00:01.0", slot, listed=False)
    tree.add(f"{root}0000:00:01.0/0000:0a:00.0", card, driver="amdgpu")
    tree.add(f"{root}0000:0b:00.0", xe, driver="xe")
    tree.add(f"{root}0000:00:02.0", i915, driver="i915")
    tree.add(f"{root}0000:00:1f.3", sound, driver="snd_hda_intel")
    report = detect(model_folder=tmp_path, sysfs_root=tmp_path)
    intel, amd, arc = report.devices
    assert (amd.id, amd.kind, amd.memory_free_bytes) == ("GPU-6d1f", "gpu", 22 * GIB)
    assert (amd.temperature_c, amd.power_w, amd.utilisation_percent) == (45, 32, 7)
    assert (amd.pcie.generation, amd.pcie.width, amd.pcie.max_generation) == (3, 8, 4)
    assert (intel.kind, intel.name, intel.memory_total_bytes) == (
        "integrated_gpu",
        "Intel GPU 8086:a780",
        None,
    )
    assert (arc.kind, arc.temperature_c, arc.power_limit_w) == ("gpu", 51, 190)
    assert "without" in amd.support.reason or amd.usable
    assert any("0000:0a:00.0 1002:744c driver=amdgpu" in e.text for e in report.evidence)

    samples: queue.Queue[HardwareSampled] = queue.Queue()
    meters = Meters(report, samples.put, interval_s=0.05, sysfs_root=tmp_path)
    try:
        tree.write(f"{root}0000:00:01.0/0000:0a:00.0", {"gpu_busy_percent": "93"})
        until(samples, lambda s: s.devices[1].utilisation_percent == 93)
    finally:
        meters.close()


def test_cards_as_captured_on_machines_of_others(tmp_path: Path) -> None:
    captured = json.loads((Path(__file__).parent / "captured.json").read_text())["cards"]
    tree = SysfsTree(tmp_path)
    for files in captured.values():
        facts = dict(line.split("=") for line in files["uevent"].splitlines())
        vendor, device = facts["PCI_ID"].lower().split(":")
        identity = {"vendor": f"0x{vendor}", "device": f"0x{device}"}
        identity["class"] = f"0x{facts['PCI_CLASS']:0>6}"
        place = f"devices/pci0000:00/{facts['PCI_SLOT_NAME']}"
        tree.add(place, files | identity, driver=facts["DRIVER"])
    found = {
        d.pci_bus_id or "": d for d in detect(model_folder=tmp_path, sysfs_root=tmp_path).devices
    }
    assert list(found) == sorted(found)
    assert len(found) == len(captured)
    kinds = {bus: device.kind for bus, device in found.items()}
    assert kinds["0000:00:02.0"] == "integrated_gpu", "Comet Lake has no sensors of its own"
    assert kinds["0000:0b:00.0"] == kinds["0000:0d:00.0"] == "gpu"
    assert found["0000:64:00.0"].power_w == pytest.approx(3.103)
    assert found["0000:0d:00.0"].power_limit_w == 180
    assert {d.driver_version for d in found.values()} == {"amdgpu", "i915", "xe"}
    assert all(d.memory_total_bytes is None for d in found.values()), "nothing is made up"
    assert found["0000:28:00.0"].name == "AMD GPU 1002:731f"


def test_a_mac_as_sysctl_shows_it() -> None:
    mac = apple.parse(
        "machdep.cpu.brand_string: Apple M3 Ultra\nhw.memsize: 549755813888\n"
        "hw.optional.arm64: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_SME: 0\n"
        "iogpu.wired_limit_mb: 0\n"
    )
    assert mac is not None
    metal = EngineDevice(
        name="MTL0",
        description="Apple M3 Ultra",
        backend="metal",
        kind="gpu",
        memory_total_bytes=412 * GIB,
        memory_free_bytes=412 * GIB,
    )
    engine = EngineInfo(version="0.3.36", backends=("cpu", "metal"), devices=(metal,))
    (device,) = merge(Sources(apple=mac, engine=engine))
    assert (device.name, device.vendor, device.usable) == ("Apple M3 Ultra", "Apple", True)
    assert device.memory_total_bytes == 412 * GIB, "no limit is set, so the engine's word holds"


def test_meters_follow_the_cards_and_outlive_a_driver_that_hangs(look: Look) -> None:
    report = look("warming")
    samples: queue.Queue[HardwareSampled] = queue.Queue()
    meters = Meters(report, samples.put, interval_s=0.05)
    try:
        first = until(samples, lambda s: s.devices[0].temperature_c is not None)
        later = until(samples, lambda s: (s.devices[0].temperature_c or 0) > 43)
    finally:
        meters.close()
    assert first.devices[0].power_w == 31
    assert [d.throttling for d in later.devices] == [d.id == "GPU-2" for d in report.devices]
    report = look("stall")
    meters = Meters(report, samples.put, interval_s=0.05, nvml_timeout_s=0.5)
    try:
        until(samples, lambda s: s.devices[0].temperature_c is not None)
        gone = until(samples, lambda s: s.devices[0].temperature_c is None)
        assert gone.memory_available_bytes > 0
    finally:
        meters.close()


def test_a_system_that_starts_no_process_costs_only_what_it_would_have_told(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = look("warming")
    monkeypatch.setattr(processes, "child_command", lambda _module: ["/no/such/file"])
    samples: queue.Queue[HardwareSampled] = queue.Queue()
    meters = Meters(report, samples.put, interval_s=0.01)
    try:
        for _ in range(3):
            assert samples.get(timeout=20).memory_available_bytes > 0
    finally:
        meters.close()
    blind = detect(model_folder=tmp_path)
    assert blind.memory.total_bytes > 0
    assert "could not be started" in blind.engine.error
    assert not any("crashed" in notice.title for notice in blind.notices)


def test_without_nvml_there_is_nothing_to_say(tmp_path: Path) -> None:
    report = detect(model_folder=tmp_path / "not" / "yet")
    assert report.disks[0].free_bytes > 0
    assert report.cpu.logical_cores >= 1


def test_what_is_no_rpc_server_is_told_as_such(tmp_path: Path) -> None:
    def refuse(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, rpc_servers(1) as endpoints:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        other = f"127.0.0.1:{listener.getsockname()[1]}"
        report = detect(model_folder=tmp_path, rpc_servers=(other, *endpoints))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert [device.id for device in report.devices] == [f"rpc:{endpoints[0]}/0"]
    words = [notice.title for notice in report.notices if other in notice.title]
    assert words == [f"What answers at {other} is no RPC server of this engine's version."]


def test_one_bad_rpc_server_hides_no_other(tmp_path: Path) -> None:
    with rpc_servers(1, devices_each=2) as endpoints:
        report = detect(model_folder=tmp_path, rpc_servers=("127.0.0.1:1", *endpoints))
    assert [d.id for d in report.devices] == [f"rpc:{endpoints[0]}/{i}" for i in range(2)]
    assert "127.0.0.1:1" in report.notices[0].title
