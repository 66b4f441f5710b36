"""The engine's own device list, asked in a short-lived child: a bad driver hangs or kills whoever asks.

Run as a module, with RPC servers (`host:port`) as arguments, it prints the list as JSON.
"""

from __future__ import annotations

import json
import sys

import pydantic


class ListedDevice(pydantic.BaseModel):
    """One device, as `app.ggml.RegisteredDevice` without its handle."""

    name: str
    description: str
    backend: str
    kind: str
    pci_bus_id: str | None
    endpoint: str | None
    memory_total_bytes: int
    memory_free_bytes: int


class EngineList(pydantic.BaseModel):
    """The engine's answer."""

    version: str
    devices: tuple[ListedDevice, ...]
    silent_servers: tuple[str, ...] = ()


def main() -> None:
    """Print the list."""
    from app import ggml

    silent = [endpoint for endpoint in sys.argv[1:] if not ggml.add_rpc_server(endpoint)]
    devices = [
        ListedDevice.model_validate(device, from_attributes=True) for device in ggml.devices()
    ]
    answer = EngineList(
        version=ggml.engine_version(), devices=tuple(devices), silent_servers=tuple(silent)
    )
    json.dump(answer.model_dump(), sys.stdout)


if __name__ == "__main__":
    main()
