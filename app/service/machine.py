"""This machine as the planner sees it: what was found, less what the person switched off."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from app.engine.model import ModelLoaded
from app.hardware.model import HardwareReport
from app.plan.devices import plan_devices
from app.plan.model import PlanHost
from app.plan.overview import Machine
from app.plan.shortage import HOST
from app.settings.model import Settings


def machine(
    report: HardwareReport,
    settings: Settings,
    *,
    learned: Mapping[str, int],
    loaded: ModelLoaded | None,
    lost: Mapping[str, int],
) -> Machine:
    """Devices and main memory; what `loaded` held when `report` was made counts as free.

    `lost` is what counts as free but was refused, by device id or `host`.
    """
    memory, own = report.memory, _own_memory(loaded)
    devices = tuple(
        dataclasses.replace(
            device,
            free_bytes=max(
                0,
                min(device.total_bytes, device.free_bytes + own.get(device.engine_name, 0))
                - lost.get(device.id, 0),
            ),
            others_bytes=min(device.total_bytes, device.others_bytes + lost.get(device.id, 0)),
        )
        for device in plan_devices(
            report,
            order=settings.device_order,
            disabled=settings.disabled_devices,
            learned=learned,
        )
    )
    lent = sum(own.get(d.engine_name, 0) for d in devices if d.shares_host_memory)
    available = min(memory.total_bytes, memory.available_bytes + own.get("CPU", 0) + lent)
    host = PlanHost(
        total_bytes=memory.total_bytes, available_bytes=max(0, available - lost.get(HOST, 0))
    )
    return Machine(devices=devices, host=host)


def _own_memory(loaded: ModelLoaded | None) -> dict[str, int]:
    """What the engine held, by the device's engine name."""
    if loaded is None:
        return {}
    # Weights on the host are mapped: the system counts them as available all the time.
    return {
        m.device: (0 if m.device == "CPU" else m.weights_bytes) + m.kv_cache_bytes + m.compute_bytes
        for m in loaded.loaded.memory
    }
