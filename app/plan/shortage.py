"""An allocation failed although the plan fitted: what the place really has, and how much is missing."""

from __future__ import annotations

import dataclasses
from typing import Literal

from app.plan.model import DevicePlan, LoadPlan, PlanDevice, PlanHost
from app.units import MIB

HOST = "host"
SCRATCH = 256 * MIB
"""By so much less is planned where what failed is in no plan, and its size is not known."""
ROUNDING = 8
"""A part counts as refused whole if so little of it was there."""
TAKEN = 64 * MIB
"""What others take and give back all the time is worth no word."""

Part = Literal["weights", "kv_cache", "compute", "scratch"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What was refused: `size_bytes` of a part, with `free_bytes` left by the device's own account."""

    part: Part
    size_bytes: int | None = None
    free_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What a place lacks for a plan.

    Attributes:
        place: Device id, or `host`.
        label: The place's name for a person.
        missing_bytes: So much more is needed there.
        lost_bytes: Counts as free, yet a model cannot have it.
        taken_bytes: What others took since the plan was made; 0 if hardly anything.
        sure: False if the device said that more was free than it had: the room is a guess then.
    """

    place: str
    label: str
    missing_bytes: int
    lost_bytes: int
    taken_bytes: int
    sure: bool


def find_place(plan: LoadPlan, engine_name: str, id: str | None) -> str:
    """Id of the place that llama.cpp named; the fullest one if it named none, or one that is unknown."""
    for share in plan.devices:
        if share.device.id == id or (engine_name and share.device.engine_name == engine_name):
            return share.device.id
    if engine_name == "CPU":
        return HOST
    used = {share.device.id: share.left_bytes for share in plan.devices if share.used}
    return min(used, key=lambda place: used[place]) if used else HOST


def shortage(
    plan: LoadPlan, place: str, refused: Refused, devices: tuple[PlanDevice, ...], host: PlanHost
) -> Shortage:
    """What `place` lacks, from what was refused there and what is free now (`devices`, `host`).

    llama.cpp allocates weights, then KV cache, then compute buffer, so what came before the part
    that failed was there, and that part was not.
    """
    share = next((share for share in plan.devices if share.device.id == place), None)
    if share is None:
        on_host = sum(s.model_bytes for s in plan.devices if s.device.shares_host_memory)
        before, free = plan.host.host.available_bytes - on_host, host.available_bytes - on_host
        label, reserve = "Main memory", plan.host.reserve_bytes
        parts = (plan.host.weights_bytes, plan.host.kv_cache_bytes, plan.host.compute_bytes)
    else:
        now = next((device for device in devices if device.id == place), share.device)
        before, free = share.device.free_bytes, now.free_bytes
        label, reserve = share.device.label, share.reserve_bytes
        parts = _parts(share)
    needed, room, sure = _room(parts, refused, free - reserve)
    taken = before - free
    return Shortage(
        place=place,
        label=label,
        missing_bytes=needed - room,
        lost_bytes=max(0, free - reserve - room),
        taken_bytes=taken if taken >= TAKEN else 0,
        sure=sure,
    )


def _parts(share: DevicePlan) -> tuple[int, int, int]:
    return share.weights_bytes, share.kv_cache_bytes, share.compute_bytes


def _room(parts: tuple[int, int, int], refused: Refused, now: int) -> tuple[int, int, bool]:
    """What the model needs of a place, what it can have there, and if that is sure.

    `now` is what is free there by now, reserve aside.
    """
    if refused.part == "scratch":
        extra = refused.size_bytes or SCRATCH
        return sum(parts), min(now, max(0, sum(parts) - extra)), False
    index = ("weights", "kv_cache", "compute").index(refused.part)
    size = refused.size_bytes or parts[index]
    there = sum(parts[:index])
    # A part may be allocated in pieces, of which some may have been there.
    whole = max(parts[index], size)
    needed = there + whole + sum(parts[index + 1 :])
    if now < there + whole:
        return needed, now, True
    free = refused.free_bytes
    if free is not None and free < size and whole - size <= whole // ROUNDING:
        return needed, there + free, True
    # More than what was there and less than what was asked for: the middle.
    return needed, there + whole - (size + 1) // 2, False
