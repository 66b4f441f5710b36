"""Which backend of the engine can use a GPU; or why none can, and what to do about that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from app.hardware.model import BackendSupport, EngineDevice, EngineInfo, Vendor
from app.hardware.probes.nvml import NvmlReport

HIDING_VARIABLES = ("CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Environment variables that hide devices from the engine."""

_BACKENDS = {
    Vendor.NVIDIA: {"cuda": "CUDA", "vulkan": "Vulkan"},
    Vendor.AMD: {"rocm": "ROCm", "vulkan": "Vulkan"},
    Vendor.INTEL: {"sycl": "SYCL", "vulkan": "Vulkan"},
    Vendor.APPLE: {"metal": "Metal"},
    Vendor.OTHER: {"vulkan": "Vulkan"},
}
_HIDES = {
    "CUDA_VISIBLE_DEVICES": "cuda",
    "GGML_VK_VISIBLE_DEVICES": "vulkan",
    "ROCR_VISIBLE_DEVICES": "rocm",
}
_BUILD = {
    Vendor.NVIDIA: "Install the CUDA toolkit (nvcc), then run `make engine`.",
    Vendor.AMD: "Install the Vulkan headers and glslc, then run `make engine`.",
    Vendor.INTEL: "Install the Vulkan headers and glslc, then run `make engine`.",
    Vendor.APPLE: "Install Xcode's command line tools, then run `make engine`.",
    Vendor.OTHER: "Install the Vulkan headers and glslc, then run `make engine`.",
}
_NVIDIA_DRIVERS = ("nvidia",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What is needed to say why a device cannot be used."""

    nvml: NvmlReport
    engine: EngineInfo
    visible: Mapping[str, str]


def support(
    name: str,
    vendor: Vendor,
    match: EngineDevice | None,
    why: Why,
    *,
    driver: str | None = None,
    mig_uuid: str | None = None,
) -> BackendSupport:
    """How the engine can use the GPU `name`.

    Args:
        name: The GPU's name, for the sentence.
        vendor: Decides which backends would do.
        match: The same GPU in the engine's list, if it is there.
        why: What else was found out.
        driver: The kernel driver, where sysfs is the source.
        mig_uuid: Set for a MIG slice.
    """
    if match is not None:
        return BackendSupport(backend=match.backend, engine_name=match.name)
    wanted, built = _BACKENDS[vendor], set(why.engine.backends)
    if why.engine.error:
        reason, remedy = "the engine cannot be asked", "Run `make engine` to build it again."
    elif vendor is Vendor.NVIDIA and not why.nvml.gpus and driver not in _NVIDIA_DRIVERS:
        reason = "NVIDIA's driver does not run"
        remedy = "Install or load NVIDIA's driver, restart, then run `make engine`."
    elif not built & set(wanted):
        reason = f"this engine is built without {' or '.join(wanted.values())}"
        remedy = _BUILD[vendor]
    elif mig_uuid is not None and "cuda" in built:
        reason = "CUDA shows one MIG slice at a time, and this is another one"
        remedy = f"Start the app with CUDA_VISIBLE_DEVICES={mig_uuid} to use it."
    else:
        reason, remedy = _unlisted(wanted, built, why)
    return BackendSupport(reason=f"{name} found, but {reason}.", remedy=remedy)


def _unlisted(wanted: Mapping[str, str], built: set[str], why: Why) -> tuple[str, str]:
    """Why a backend that is there does not list the GPU."""
    for variable, backend in _HIDES.items():
        if variable in why.visible and backend in wanted and backend in built:
            value = why.visible[variable]
            return (
                f"the engine does not list it, since {variable} is set to '{value}'",
                f"Start the app without {variable}.",
            )
    shown = " and ".join(text for backend, text in wanted.items() if backend in built)
    if "cuda" in wanted and "cuda" in built:
        remedy = (
            "Update NVIDIA's driver: it must be as new as the CUDA toolkit that built the engine."
        )
    else:
        remedy = f"Update the GPU's driver, and see that `{shown.lower()}info` lists it."
    return f"the engine's {shown} backend does not list it", remedy
