"""The devices of a load, found in llama.cpp's registry. Only the worker imports this.

The app knows a device by the name that it has while all are visible. Where some are hidden from the
worker the others move up, so there they are found by their PCI bus id; whatever llama.cpp says of
them is translated back.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from app import ggml
from app.engine import protocol
from app.hardware.probes.pci import normalise_bus_id

HOST = "CPU"


class LoadFailedError(Exception):
    """A load did not work; `reason` as in `protocol.Failed`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Devices:
    """The registry as a load command names it.

    Attributes:
        handles: `ggml_backend_dev_t` by the command's name, `CPU` included.
        local_names: What this process calls them.
    """

    def __init__(self, command: protocol.Load, registered: Sequence[ggml.RegisteredDevice]) -> None:
        """Find all that the command names.

        Raises:
            LoadFailedError: One is not there.
        """
        names = dict.fromkeys((HOST, *command.devices, *(d for _, d in command.tensor_overrides)))
        found = {name: _find(name, command.bus_ids.get(name), registered) for name in names}
        missing = [name for name, device in found.items() if device is None]
        if missing:
            raise LoadFailedError("device", f"the engine does not see {', '.join(missing)}")
        devices = {name: device for name, device in found.items() if device is not None}
        self.handles = {name: device.handle for name, device in devices.items()}
        self.local_names = {name: device.name for name, device in devices.items()}
        buffers = _buffer_names(registered)
        self._by_word = {device.name: name for name, device in devices.items()}
        self._by_word |= {buffers[device.name]: name for name, device in devices.items()}

    def name_of(self, word: str) -> str | None:
        """The command's name of a device or a buffer in the log; None if it names neither."""
        if word.startswith(HOST) or word.endswith("_Host") or word == "AMX":
            return HOST
        return self._by_word.get(word)


def find(command: protocol.Load) -> Devices:
    """Register the RPC servers, then look at all that there is.

    Raises:
        LoadFailedError: A server does not answer, or a device is not there.
    """
    for endpoint in command.rpc_servers:
        try:
            ggml.check_rpc_server(endpoint)
        except ggml.RpcError as error:
            raise LoadFailedError("device", str(error)) from error
        if not ggml.add_rpc_server(endpoint):
            raise LoadFailedError("device", f"the RPC server at {endpoint} is gone again")
    return Devices(command, ggml.devices())


def _find(
    name: str, bus_id: str | None, registered: Sequence[ggml.RegisteredDevice]
) -> ggml.RegisteredDevice | None:
    if bus_id is None:
        return next((device for device in registered if device.name == name), None)
    backend = name.rstrip(string.digits)
    for device in registered:
        same_place = device.pci_bus_id and normalise_bus_id(device.pci_bus_id) == bus_id
        if same_place and device.name.rstrip(string.digits) == backend:
            return device
    return None


def _buffer_names(devices: Sequence[ggml.RegisteredDevice]) -> dict[str, str]:
    """How llama.cpp's log names each device's buffers: RPC devices are counted per server there."""
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    for device in devices:
        names[device.name] = device.name
        if device.endpoint is not None:
            index = seen.get(device.endpoint, 0)
            seen[device.endpoint] = index + 1
            names[device.name] = f"RPC{index}[{device.endpoint}]"
    return names
