"""Live meters: memory, temperature, power and utilisation of every device, about once a second.

NVML is asked by a child that stays, since a driver may hang at any time; while it hangs or is gone,
the samples lack what only it knows, and nothing waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pydantic

from app.hardware.model import DeviceSample, HardwareReport, HardwareSampled
from app.hardware.probes import children, nvml, sysfs

INTERVAL_S = 1.0
RESTART_S = 60.0


class _NvmlWatch:
    """The child that reads NVML on request; a new one at most once a minute."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._child: children.Child | None = None
        self._started_s = self._asked_s = float("-inf")
        self._waiting = False
        self._latest: dict[str, nvml.NvmlReading] = {}

    def readings(self) -> dict[str, nvml.NvmlReading]:
        """The latest answer by UUID, empty while there is none; asks for the next."""
        now = time.monotonic()
        with self._lock:
            hangs = self._waiting and now - self._asked_s > self._timeout_s
            child = self._child
        if hangs and child is not None:
            self.close()
        with self._lock:
            child = self._child
        if child is None and now - self._started_s > RESTART_S:
            self._started_s = now
            try:
                child = children.Child(nvml.MODULE, (nvml.WATCH,), self._said)
            except OSError:  # no memory, or no more files: the next minute may have some
                return {}
            with self._lock:
                self._child, self._waiting = child, False
        with self._lock:
            ask = child is not None and not self._waiting
            if ask:
                self._waiting, self._asked_s = True, now
            latest = dict(self._latest)
        if ask and child is not None:
            child.send("read")
        return latest

    def _said(self, line: str | None) -> None:
        try:
            answer = nvml.NvmlReadings.model_validate_json(line) if line is not None else None
        except pydantic.ValidationError:
            answer = None
        with self._lock:
            self._latest = {gpu.uuid: gpu for gpu in answer.gpus} if answer else {}
            self._waiting = line is None

    def close(self) -> None:
        """End the child."""
        with self._lock:
            child, self._child = self._child, None
            self._latest, self._waiting = {}, False
        if child is not None:
            child.kill()


class Meters:
    """Samples from one thread; `listener` is called there."""

    def __init__(
        self,
        report: HardwareReport,
        listener: Callable[[HardwareSampled], None],
        *,
        interval_s: float = INTERVAL_S,
        nvml_timeout_s: float = 10.0,
        sysfs_root: Path = Path("/sys"),
    ) -> None:
        """Start; `report` says which devices there are."""
        self._report = report
        self._listener = listener
        self._interval_s = interval_s
        self._kernel = sysfs.places(sysfs_root)
        has_nvml = any("nvml" in device.sources for device in report.devices)
        self._nvml = _NvmlWatch(nvml_timeout_s) if has_nvml else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End thread and child, and wait for both."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        psutil.cpu_percent()
        while not self._stop.wait(self._interval_s):
            self._listener(self._sample())
        if self._nvml is not None:
            self._nvml.close()

    def _sample(self) -> HardwareSampled:
        readings = self._nvml.readings() if self._nvml else {}
        samples = []
        for device in self._report.devices:
            reading = readings.get(device.uuid or "")
            in_kernel = "sysfs" in device.sources and "nvml" not in device.sources
            if reading is not None:
                sample = DeviceSample(
                    device_id=device.id,
                    memory_used_bytes=reading.memory_used_bytes,
                    temperature_c=reading.temperature_c,
                    power_w=reading.power_w,
                    utilisation_percent=reading.utilisation_percent,
                    throttling=reading.throttling,
                )
            elif in_kernel and device.pci_bus_id:
                gpu = sysfs.read(self._kernel / device.pci_bus_id)
                sample = DeviceSample(
                    device_id=device.id,
                    memory_used_bytes=gpu.memory_used_bytes if gpu else None,
                    temperature_c=gpu.temperature_c if gpu else None,
                    power_w=gpu.power_w if gpu else None,
                    utilisation_percent=gpu.utilisation_percent if gpu else None,
                )
            else:
                sample = DeviceSample(device_id=device.id)
            samples.append(sample)
        return HardwareSampled(
            devices=tuple(samples),
            memory_available_bytes=psutil.virtual_memory().available,
            cpu_percent=psutil.cpu_percent(),
        )
