"""PCI bus ids, by which the sources' answers are put together."""

from __future__ import annotations

import re

_BUS_ID = re.compile(r"(?:([0-9a-f]+):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")


def normalise_bus_id(bus_id: str) -> str:
    """A PCI bus id as sysfs and ggml write it, `0000:01:00.0`.

    NVML writes eight digits of domain and capitals (`00000000:C1:00.0`). What is no bus id
    comes back in lower case.
    """
    match = _BUS_ID.fullmatch(bus_id.strip().lower())
    if match is None:
        return bus_id.strip().lower()
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}"
