"""What real loads took on this machine, beside what was planned; kept for the next plan."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from app import jsonfile
from app.hardware.model import HardwareReport
from app.plan.model import LoadPlan
from app.units import MIB

MOST_RESERVE = 4096 * MIB
HEADROOM = 1.25
"""A driver's own memory varies by some ten percent from load to load."""


def measured(
    plan: LoadPlan, actual: Mapping[str, int], report: HardwareReport | None
) -> dict[str, dict[str, int]]:
    """What a load took, by device id.

    Args:
        plan: As it was loaded.
        actual: llama.cpp's own account in bytes, by engine name.
        report: Made while the model is loaded, or None; where the driver tells what the engine holds,
            the rest of it is the driver's own.
    """
    result: dict[str, dict[str, int]] = {}
    for share in plan.devices:
        if share.used and share.device.engine_name in actual:
            found = actual[share.device.engine_name]
            result[share.device.id] = {"planned": share.model_bytes, "actual": found}
    for device in report.devices if report else ():
        total, free = device.memory_total_bytes, device.memory_free_bytes
        others = device.used_by_others_bytes
        if device.id in result and total and free is not None and others is not None:
            own = total - free - others
            result[device.id]["unaccounted"] = max(0, own - result[device.id]["actual"])
    return result


class MeasuredStore:
    """A JSON file with, for each device, the last planned and actual bytes and the driver's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, dict[str, int]]:
        """By device id: `planned`, `actual`, and `unaccounted` where it was measured. Empty if unreadable."""
        return {
            device: {k: v for k, v in values.items() if isinstance(v, int)}
            for device, values in jsonfile.read(self._path).items()
            if isinstance(values, dict)
        }

    def reserves(self) -> dict[str, int]:
        """What to keep free on each device for the driver, with some headroom, by device id."""
        return {
            device: min(MOST_RESERVE, round(min(MOST_RESERVE, values["unaccounted"]) * HEADROOM))
            for device, values in self.read().items()
            if values.get("unaccounted", -1) >= 0
        }

    def record(self, measured: Mapping[str, Mapping[str, int]]) -> None:
        """Keep what a load took; a disk that cannot be written changes nothing else."""
        values = {**self.read(), **{device: dict(found) for device, found in measured.items()}}
        with contextlib.suppress(OSError):
            jsonfile.write(self._path, values)
