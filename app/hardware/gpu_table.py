"""GPUs that a person may think of: their memory and bandwidth, from resources/gpus.json."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from pathlib import Path

from app import units
from app.errors import AppError, ErrorKind

FILE = Path(__file__).resolve().parents[2] / "resources" / "gpus.json"
USABLE = 0.985
"""Drivers report up to 1.5 % less than the nominal size."""
MOST = 64
_COUNTED = re.compile(r"^(?:(\d+)\s*[x×*]\s*)?(.+)$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU to plan for; what is not known of it is None.

    Attributes:
        memory_bytes: What its driver reports.
        prompt_flops_per_s: What llama.cpp reached when it processed prompts.
        link: How it is attached, `PCIe4 x16` for example.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float | None = None
    prompt_flops_per_s: float | None = None
    link: str = ""


@functools.cache
def known() -> tuple[Gpu, ...]:
    """All GPUs of the table."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["gpus"]
    return tuple(
        Gpu(
            name=row["name"],
            memory_bytes=round(row["memory_gib"] * units.GIB * USABLE),
            bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * 1e9,
            prompt_flops_per_s=row["prompt_tflop_per_s"] * 1e12
            if "prompt_tflop_per_s" in row
            else None,
            link=row["link"],
        )
        for row in rows
    )


def find(name: str) -> Gpu | None:
    """The GPU whose name, as a driver reports it, ends like one of the table."""
    found = [gpu for gpu in known() if _key(name).endswith(_key(gpu.name))]
    return max(found, key=lambda gpu: len(gpu.name)) if found else None


def parse(text: str) -> tuple[Gpu, ...]:
    """GPUs from `24,24,32,80` (GiB each), `8x RTX 3090`, `2x H100 PCIe, 48`, in that order.

    Raises:
        AppError: A part is neither a size nor a known name.
    """
    result: list[Gpu] = []
    for part in re.split(r"[,+;]", text):
        words = part.strip()
        match = _COUNTED.match(words)
        if match is None:
            raise _unknown(words or text)
        count = int(match[1] or 1)
        gpu = _gpu(match[2].strip())
        if not 1 <= count <= MOST or len(result) + count > MOST:
            raise AppError(
                f"“{words}” is not a number of GPUs that can be planned.",
                hint=f"Name between 1 and {MOST} GPUs.",
                kind=ErrorKind.USAGE,
            )
        result += [gpu] * count
    return tuple(result)


def _gpu(words: str) -> Gpu:
    size = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(?:g|gb|gib)?", words, re.IGNORECASE)
    if size:
        memory = round(float(size[1]) * units.GIB)
        if not memory:
            raise _unknown(words)
        return Gpu(name=f"{size[1]} GiB", memory_bytes=memory)
    key = _key(words)
    exact = [gpu for gpu in known() if _key(gpu.name) == key]
    # `H100 80GB` and `A100`: all words of the question are in the name, or the size tells.
    asked = set(re.findall(r"[a-z0-9]+", words.lower()))
    near = [
        g for g in known() if asked - _sizes(g) <= set(re.findall(r"[a-z0-9]+", g.name.lower()))
    ]
    near = [gpu for gpu in near if _size_of(asked) in (None, _nominal(gpu))]
    found = exact or near
    if not found or (not exact and len({g.memory_bytes for g in found}) > 1):
        raise _unknown(words, [gpu.name for gpu in found])
    return found[0]


def _nominal(gpu: Gpu) -> int:
    return round(gpu.memory_bytes / USABLE / units.GIB)


def _sizes(gpu: Gpu) -> set[str]:
    size = _nominal(gpu)
    return {f"{size}gb", f"{size}g", f"{size}gib"}


def _size_of(words: set[str]) -> int | None:
    sizes = [int(match[1]) for w in words if (match := re.fullmatch(r"(\d+)(?:g|gb|gib)", w))]
    return sizes[0] if sizes else None


def _key(name: str) -> str:
    text = re.sub(r"\b(nvidia|amd|intel|geforce|radeon(?! pro))\b", "", name.lower())
    return re.sub(r"[^a-z0-9+]", "", text)


def _unknown(words: str, found: list[str] | None = None) -> AppError:
    near = found or difflib.get_close_matches(words, [gpu.name for gpu in known()], 4, 0.3)
    more = f"Did you mean {', '.join(near[:6])}? " if near else ""
    return AppError(
        f"“{words}” is no GPU that is known here.",
        hint=f"{more}A size in GiB does as well, for example --gpus 24,24,32.",
        kind=ErrorKind.USAGE,
    )
