"""What a load does, how long it takes, and that nothing is heard: the same words on every face."""

from __future__ import annotations

from app import units
from app.engine.model import EngineState, EngineStateChanged

LOADING = (EngineState.STARTING, EngineState.LOADING)
SO_FAR_S = 3.0
"""A load that is shorter needs no clock."""
_PARTS = {"kv_cache": "KV cache", "compute": "Compute buffers", None: "Allocating memory"}


def stage(event: EngineStateChanged) -> str:
    """The stage of a load: `Reading shard 2 of 4, 3.1 GB/s · device 1 of 8`.

    Devices are counted from 1 in the load's order, since labels (`GPU 0`) count otherwise.
    """
    at = event.progress
    if event.state is EngineState.STARTING:
        return "Starting the engine"
    if at is None:
        return "Reading the model"
    if at.stage == "reading":
        words = _reading(at.shard, at.shards, at.bytes_per_s)
    elif at.stage == "copying":
        words = f"Copying to {'the devices' if at.devices > 1 else 'the device'}"
    elif at.stage == "allocating":
        words = _PARTS[at.part]
    else:
        words = "Warm-up"
    return f"{words}{_device(at.device, at.devices)}"


def _reading(shard: int | None, shards: int, bytes_per_s: float | None) -> str:
    what = "Reading"
    if shards > 1:
        what = f"Reading shard {shard} of {shards}" if shard else f"Reading {shards} shards"
    return f"{what}, {units.format_file_size(round(bytes_per_s))}/s" if bytes_per_s else what


def _device(device: int | None, devices: int) -> str:
    if device is None or not devices:
        return ""
    return f" · device {device} of {devices}" if device else " · main memory"


def amount(event: EngineStateChanged) -> str:
    """How much of it is read: `94.1 GB of 150.9 GB`; empty in other stages."""
    at = event.progress
    if at is None or at.stage != "reading" or not at.done_bytes:
        return ""
    size = units.format_file_size
    return f"{size(at.done_bytes)} of {size(at.total_bytes)}"


def time(event: EngineStateChanged, since_s: float = 0.0) -> str:
    """What is left of a load, `since_s` after the event: `about 40 s left, last time 52 s`."""
    elapsed = event.elapsed_s + since_s
    reading, expected = event.progress, event.expected_s
    if expected is not None and expected >= 1:
        last = f"last time {_seconds(expected)}"
        left = expected - elapsed
        return (
            f"about {_seconds(left)} left, {last}" if left >= 1 else f"{_so_far(elapsed)}, {last}"
        )
    if reading is not None and reading.stage == "reading" and reading.bytes_per_s:
        left = (reading.total_bytes - reading.done_bytes) / reading.bytes_per_s - since_s
        return f"about {_seconds(left)} of reading left" if left >= 1 else ""
    return _so_far(elapsed) if elapsed >= SO_FAR_S else ""


def _so_far(elapsed_s: float) -> str:
    return f"{_seconds(elapsed_s)} so far"


def _seconds(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else units.format_duration(whole)


def progress(event: EngineStateChanged, since_s: float = 0.0) -> str:
    """How far a load is, `since_s` after the event: amount and time."""
    return " · ".join(part for part in (amount(event), time(event, since_s)) if part)


def load(event: EngineStateChanged) -> str:
    """All of it in one line."""
    return " · ".join(part for part in (stage(event), progress(event)) if part)


def silence(event: EngineStateChanged) -> str:
    """The question that a long silence asks; empty while something is heard."""
    if event.silent_s is None:
        return ""
    does = "computes" if event.computing else "does not compute"
    return f"Nothing heard for {_minutes(event.silent_s)}; the process {does}. Wait, or stop it?"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else _seconds(seconds)
