"""Which devices a worker may see: those of its load.

A CUDA or ROCm device that is merely listed gets a context, which takes some hundred MiB of it
(ggml-cuda.cu, `ggml_backend_cuda_device_get_memory`), so those that a load does not use are hidden.
Vulkan devices that are only listed take nothing: ggml-vulkan.cpp opens a device when something is put
on it (`ggml_vk_get_device`). They are not hidden either, since `GGML_VK_VISIBLE_DEVICES` counts as
the driver does, which no other number tells. RPC servers are only asked where a load uses them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from app.hardware.model import Device, HardwareReport

_VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "ROCR_VISIBLE_DEVICES"}
_ROCM_TOO = ("HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES")
"""Count among the devices that ROCR_VISIBLE_DEVICES leaves; both together would hide too many."""
NONE = "-1"
"""No device has this number. On Windows an empty variable would be none, and hide nothing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """What to start a worker with.

    Attributes:
        environment: Variables that hide all other devices.
        bus_ids: PCI bus ids by engine name, of devices that may have another name then.
    """

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bus_ids: Mapping[str, str] = dataclasses.field(default_factory=dict)


def visible(
    report: HardwareReport | None, names: Collection[str], environment: Mapping[str, str]
) -> Visible:
    """What leaves the devices `names` (as the engine lists them) visible, and no other.

    Args:
        report: Without one, nothing is hidden.
        names: All devices of a load.
        environment: What the worker would inherit.
    """
    variables: dict[str, str] = {}
    bus_ids: dict[str, str] = {}
    usable = report.usable_devices if report is not None else ()
    for backend, variable in _VARIABLES.items():
        listed = [device for device in usable if device.support.backend == backend]
        used = [device for device in listed if device.support.engine_name in names]
        if len(used) == len(listed) or _others_count(backend, usable, environment):
            continue
        if not all(device.uuid and device.pci_bus_id for device in used):
            continue
        variables[variable] = ",".join(str(device.uuid) for device in used) or NONE
        bus_ids |= {str(d.support.engine_name): str(d.pci_bus_id) for d in used}
    return Visible(environment=variables, bus_ids=bus_ids)


def _others_count(backend: str, usable: Collection[Device], environment: Mapping[str, str]) -> bool:
    """True if the backend's variable would be misread by, or together with, something else."""
    if backend == "rocm":
        return any(environment.get(name) for name in _ROCM_TOO)
    # ROCm's runtime takes CUDA's variable for its own.
    return any(device.support.backend == "rocm" for device in usable)
