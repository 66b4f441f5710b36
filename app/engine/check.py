"""Is a loaded model where the plan put it? llama.cpp's own account, device by device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from app import units
from app.engine import protocol
from app.errors import Action, AppError, ErrorKind
from app.plan.model import DevicePlan, LoadPlan

TOLERANCE_BYTES = 32 * units.MIB
"""Less than any layer that is worth a word; buffers are rounded up."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One thing that is not as planned.

    Attributes:
        device: As llama.cpp names it; `CPU` is main memory.
        sentence: For a person.
        spilled: True if something lies in main memory that was planned for a device: far slower.
    """

    device: str
    sentence: str
    spilled: bool = False


def deviations(plan: LoadPlan, loaded: protocol.Loaded) -> tuple[Deviation, ...]:
    """What differs between plan and load, worst first; empty if all is as planned."""
    actual = {memory.device: memory for memory in loaded.memory}
    found = _spilled(plan, actual)
    if plan.request.tensor_parallel:
        return (*found, *_of_parts(plan, loaded))
    for share in plan.devices:
        memory = actual.get(share.device.engine_name)
        if share.used and memory is not None:
            found += _of_device(share, memory)
        elif share.used:
            name = share.device.label
            found.append(
                Deviation(device=share.device.engine_name, sentence=f"{name} holds nothing at all.")
            )
    return tuple(found)


def _spilled(plan: LoadPlan, actual: Mapping[str, protocol.DeviceMemory]) -> list[Deviation]:
    """What main memory holds that devices lack.

    A mapped file counts there from its first tensor to its last one, with those of devices between
    them: more than planned alone says nothing.
    """
    host, used = actual.get("CPU"), [share for share in plan.devices if share.used]
    if host is None or not used:
        return []
    held = [(share, actual.get(share.device.engine_name)) for share in used]
    weights = sum(s.weights_bytes - (m.weights_bytes if m else 0) for s, m in held)
    cache = sum(s.kv_cache_bytes - (m.kv_cache_bytes if m else 0) for s, m in held)
    found = []
    for what, more, lacking in (
        ("weights", host.weights_bytes - plan.host.weights_bytes, weights),
        ("KV cache", host.kv_cache_bytes - plan.host.kv_cache_bytes, cache),
    ):
        # Of split tensors llama.cpp does not tell what each device holds.
        size = more if plan.request.tensor_parallel else min(more, lacking)
        if size > TOLERANCE_BYTES:
            sentence = (
                f"{units.format_memory(size)} of the {what} lie in main memory, though planned for a "
                "GPU: answers are far slower than they could be."
            )
            found.append(Deviation(device="CPU", sentence=sentence, spilled=True))
    return found


def alarm(spilled: Deviation) -> AppError:
    """What a person must not overlook, with the way out."""
    return AppError(
        spilled.sentence,
        hint="Move layers to other devices in the GPU split, or choose a smaller quantization.",
        action=Action.OPEN_SPLIT,
        kind=ErrorKind.MEMORY,
    )


def _of_parts(plan: LoadPlan, loaded: protocol.Loaded) -> list[Deviation]:
    """Of split tensors llama.cpp tells only what the device with most of them holds."""
    real = max((m.weights_bytes for m in loaded.memory if m.device != "CPU"), default=0)
    planned = max((share.weights_bytes for share in plan.devices), default=0)
    if real - planned <= TOLERANCE_BYTES:
        return []
    sizes = (
        f"{units.format_memory(real)} of the weights, estimated were {units.format_memory(planned)}"
    )
    return [Deviation(device="", sentence=f"The fullest device holds {sizes}.")]


def _of_device(share: DevicePlan, memory: protocol.DeviceMemory) -> list[Deviation]:
    name = share.device.label
    result = []
    # llama.cpp says where layers are only where its log is heard.
    if memory.layer_count and memory.layer_count != share.layer_count:
        result.append(
            Deviation(
                device=memory.device,
                sentence=f"{name} holds {memory.layer_count} layers, planned were {share.layer_count}.",
            )
        )
    for what, real, planned in (
        ("weights", memory.weights_bytes, share.weights_bytes),
        ("KV cache", memory.kv_cache_bytes, share.kv_cache_bytes),
        ("compute buffers", memory.compute_bytes, share.compute_bytes),
    ):
        # A real load may save copies of the activations that the plan counts.
        off = real - planned if what == "compute buffers" else abs(real - planned)
        if off > TOLERANCE_BYTES:
            sizes = f"{units.format_memory(real)}, planned were {units.format_memory(planned)}"
            result.append(Deviation(device=memory.device, sentence=f"{name}: {what} take {sizes}."))
    return result
