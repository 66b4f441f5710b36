"""Reads from llama.cpp's words which allocation failed: where, how large, and for which part of the model."""

from __future__ import annotations

import dataclasses
import enum
import re

from app.units import MIB

HOST = "CPU"
RETRY = "retrying without pipeline parallelism"
"""Of llama-context.cpp: what failed before is smaller now."""


class Part(enum.StrEnum):
    """What the memory was for."""

    WEIGHTS = "weights"
    KV_CACHE = "KV cache"
    COMPUTE = "compute buffer"
    SCRATCH = "scratch memory"
    """What a driver takes beside llama.cpp's own buffers."""
    UNKNOWN = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An allocation that failed.

    Attributes:
        device: As llama.cpp names the buffer (`CUDA2`, `RPC0[10.0.0.5:50052]`), `CPU` for main memory;
            empty if it did not say.
        size_bytes: What was asked for; None if it did not say.
        free_bytes: What the device said was free at that moment; None if it was not asked.
        killed: Nothing was refused, but the system ended the engine once no memory was left.
    """

    device: str = ""
    size_bytes: int | None = None
    part: Part = Part.UNKNOWN
    free_bytes: int | None = None
    killed: bool = False

    def __str__(self) -> str:
        """The facts, for a log."""
        return f"{self.part or 'memory'} on {self.device or 'a device'}: {self.size_bytes} bytes"


_BUFFER = re.compile(
    r"failed to allocate (?P<device>(?!buffer |Metal |output )\S+) buffer of size (?P<size>\d+)"
)
"""ggml-alloc.c, of every backend, after the backend's own words."""
_UNABLE = re.compile(r"unable to allocate (?P<device>\S+) buffer")
"""llama-model.cpp, for weights."""
_CUDA = re.compile(
    r"allocating (?P<mib>[\d.]+) MiB on device (?P<index>\d+): (?:cuda|hip|musa)Malloc failed"
)
"""ggml-cuda.cu; HIP and MUSA print the same."""
_CUDA_ERROR = re.compile(
    r"(?P<device>CUDA|ROCm|MUSA) error: out of memory\s+current device: (?P<index>-?\d+)"
)
"""ggml-cuda.cu, `ggml_cuda_error`: in the middle of a computation; it aborts."""
_METAL = re.compile(r"failed to allocate buffer, size = +(?P<mib>[\d.]+) MiB")
_METAL_BYTES = re.compile(r"failed to allocate Metal buffer of (?P<size>\d+) bytes")
_HOST = re.compile(r"failed to allocate buffer of size (?P<size>\d+)")
"""ggml-backend.cpp, of the CPU."""
_HOST_MB = re.compile(r"\(attempted to allocate +(?P<mib>[\d.]+) MB\)")
_OUTPUT = re.compile(r"failed to allocate output buffer of size (?P<mib>[\d.]+) MiB")
_BACKEND = re.compile(r"failed to initialize (?P<device>(?!the)\S+) backend")
_MESSAGES = (
    (_BUFFER, "", Part.UNKNOWN),
    (_CUDA_ERROR, "", Part.SCRATCH),
    (_CUDA, "CUDA", Part.UNKNOWN),
    (_METAL_BYTES, "MTL0", Part.UNKNOWN),
    (_METAL, "MTL0", Part.UNKNOWN),
    (_OUTPUT, HOST, Part.COMPUTE),
    (_HOST, HOST, Part.UNKNOWN),
    (_HOST_MB, HOST, Part.UNKNOWN),
    (_UNABLE, "", Part.WEIGHTS),
)
"""Each with the device and the part that it implies; where several are found, the first says most."""
_CURRENT = re.compile(r"current device: (\d+), in function")
_PLACE = re.compile(
    r"(?P<device>\S+) is planned as (?P<name>[^\s,]+)(?:, (?P<free>\d+) bytes free)?"
)
_KIND = re.compile(r"_(?:Private|Mapped|Split)$")
"""Kinds of buffers of one device: Metal's, and CUDA's for rows."""
_OTHER = re.compile(
    r"out of memory|OutOf(?:Device|Host)?Memory|bad_alloc|MemoryError|Cannot allocate memory"
    r"|Insufficient Memory|insufficient memory|failed to allocate|unable to allocate"
    r"|llama_decode answered -2\b|Thread creation failed",
    re.IGNORECASE,
)
_ON_HOST = re.compile(r"bad_alloc|\bMemoryError|Cannot allocate memory|Thread creation failed")


def failed_buffer(line: str) -> str | None:
    """The name of the buffer that a line of llama.cpp's log says is refused."""
    found = _BUFFER.search(line)
    return found["device"] if found else None


def named(line: str) -> tuple[str, ...]:
    """What a line about a failure may name: a buffer, or a card of one of three backends."""
    if current := _CURRENT.search(line):
        return tuple(f"{backend}{current[1]}" for backend in ("CUDA", "ROCm", "MUSA"))
    buffer = failed_buffer(line)
    return (buffer,) if buffer else ()


def place_line(buffer: str, name: str, free_bytes: int | None) -> str:
    """What the worker adds to the log, where devices may have other names than the app gives them."""
    free = "" if free_bytes is None else f", {free_bytes} bytes free"
    return f"{buffer} is planned as {name}{free}\n"


def refusal(text: str) -> Refusal | None:
    """The last allocation in `text` that failed; None if memory was not what was lacking."""
    text = text.rpartition(RETRY)[2]
    for pattern, device, part in _MESSAGES:
        if match := _last(pattern, text):
            return _read(match.groupdict(), device, part, text)
    if not _OTHER.search(text):
        return None
    if match := _last(_BACKEND, text):
        return _read(match.groupdict(), "", Part.SCRATCH, text)
    if _ON_HOST.search(text):
        return Refusal(device=HOST)
    return Refusal(part=Part.SCRATCH)


def _read(found: dict[str, str | None], device: str, part: Part, text: str) -> Refusal:
    """A message's parts; `device` and `part` are what it implies."""
    size = None
    if found.get("size"):
        size = int(found["size"] or 0)
    elif found.get("mib"):
        size = round(float(found["mib"] or 0) * MIB)
    buffer = found.get("device") or device
    if found.get("index"):
        buffer = f"{buffer}{found['index']}" if found["index"] != "-1" else ""
    places = [match for match in _PLACE.finditer(text) if match["device"] == buffer]
    free = places[-1]["free"] if places else None
    name = places[-1]["name"] if places else _KIND.sub("", buffer)
    return Refusal(
        device=HOST if is_host(buffer) else name,
        size_bytes=size,
        part=part or _part(text),
        free_bytes=int(free) if free else None,
    )


def is_host(device: str) -> bool:
    """True for a buffer in main memory: `CPU`, `CPU_REPACK`, `CUDA_Host`."""
    return device.startswith(HOST) or device.endswith("_Host") or device in ("BLAS", "AMX")


def device_id(device: str) -> str | None:
    """The id of an RPC server's device (`rpc:host:port/0`) from the name of its buffer, else None."""
    found = re.fullmatch(r"RPC(\d+)\[(.+)\]", device)
    return f"rpc:{found[2]}/{found[1]}" if found else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """What was tried last counts: compute buffers are tried again without pipelining."""
    found = list(pattern.finditer(text))
    return found[-1] if found else None


def _part(text: str) -> Part:
    """Which part, by what llama.cpp said around the failure."""
    if "for kv cache" in text or "for rs cache" in text:
        return Part.KV_CACHE
    if re.search(r"compute \w+ buffers|ggml_gallocr_reserve|compute buffers", text):
        return Part.COMPUTE
    if "error loading model" in text or _UNABLE.search(text):
        return Part.WEIGHTS
    return Part.UNKNOWN
