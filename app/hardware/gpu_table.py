"""GPUs that a person may think of: their memory and bandwidth, from resources/gpus.json."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from app import units
from app.errors import AppError, ErrorKind

FILE = Path(__file__).resolve().parents[2] / "resources" / "gpus.json"
MOST = 64
_BEFORE = re.compile(r"(\d{1,9})\s*[x×*]\s*(.+)", re.IGNORECASE)
# A space or a digit before the x, for the X in `RTX 3090` counts nothing.
_AFTER = re.compile(r"(.+?)(?:\s+[x×*]\s*|(?<=\d)[x×*])(\d{1,9})", re.IGNORECASE)
_SIZE = re.compile(r"\b(\d{1,3}(?:\.\d+)?)\s*(?:gib|gb|g)\b", re.IGNORECASE)
NOTHING = ("none", "no gpu")
"""What stands for a machine without any GPU."""
_OTHERS = frozenset(("ti", "super", "xt", "xtx", "gre", "max", "ultra", "laptop"))
"""Words of a name that make another GPU of it."""
_NOT_NVIDIA = re.compile(r"RX |Radeon|MI\d|Strix|Arc ")
_MEGABYTES = re.compile(r"(\d{4,6})\s*mi?b\b", re.IGNORECASE)
_BARE_SIZE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*(?:gib|gb|g)?", re.IGNORECASE)
_BRAND = re.compile(r"nvidia|geforce|tesla|rtx|gtx|amd|instinct|radeon|rx|intel|arc|apple")
_BRANDS = re.compile(f"^(?:{_BRAND.pattern})+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where each value of a GPU was read; "from memory" where nowhere, empty where there is none."""

    memory: str = ""
    bandwidth: str = ""
    link: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU to plan for; what is not known of it is None.

    Attributes:
        memory_bytes: What its driver lets a program use when nobody else does.
        nominal_gib: What the box says.
        prompt_flops_per_s: What llama.cpp reached when it processed prompts.
        link: How it is attached, `PCIe4 x16` for example.
    """

    name: str
    memory_bytes: int
    nominal_gib: float
    bandwidth_bytes_per_s: float | None = None
    prompt_flops_per_s: float | None = None
    link: str = ""
    sources: Sources = Sources()


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A GPU, and all its names with the number of devices that each stands for."""

    gpu: Gpu
    names: Mapping[str, int]


def known() -> tuple[Gpu, ...]:
    """All GPUs of the table."""
    return tuple(row.gpu for row in _rows())


@functools.cache
def _rows() -> tuple[_Row, ...]:
    rows = json.loads(FILE.read_text(encoding="utf-8"))["gpus"]
    return tuple(
        _Row(
            Gpu(
                name=row["name"],
                memory_bytes=row["memory_mib"] * units.MIB,
                nominal_gib=row["nominal_gib"],
                bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * 1e9,
                prompt_flops_per_s=row["prompt_tflop_per_s"] * 1e12
                if "prompt_tflop_per_s" in row
                else None,
                link=row["link"],
                sources=Sources(
                    memory=row["memory_source"],
                    bandwidth=row["bandwidth_source"],
                    link=row["link_source"],
                ),
            ),
            {row["name"]: 1} | dict.fromkeys(row.get("also", ()), 1) | row.get("cards", {}),
        )
        for row in rows
    )


@functools.cache
def find(name: str) -> Gpu | None:
    """The GPU whose name, as a driver reports it, ends like one of the table."""
    ends = _ends(name) | _ends(re.sub(r"\([^)]*\)", "", name))
    found = [
        (len(key), row.gpu)
        for row in _rows()
        for known_name in row.names
        if (key := "".join(_words(known_name))) in ends
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def backend(gpu: Gpu) -> str:
    """Through what the engine would use it: `metal`, `vulkan` for AMD and Intel, `cuda` for all others."""
    if gpu.name.startswith("Apple"):
        return "metal"
    return "vulkan" if _NOT_NVIDIA.match(gpu.name) else "cuda"


def parse(text: str) -> tuple[Gpu, ...]:
    """GPUs from `24,24,32,80` (GiB each), `8x RTX 3090`, `2x H100 PCIe, 48`, in that order.

    A card that a driver shows as several devices is as many here.

    Raises:
        AppError: A part is neither a size nor a known name, or the name of GPUs of unlike sizes.
    """
    if text.strip().lower() in NOTHING:
        return ()
    result: list[Gpu] = []
    for part in re.split(r"[,;]|(?<!max)\+", text, flags=re.IGNORECASE):
        if not part.strip():
            raise AppError(
                f"“{text.strip()}” has a place without a GPU.",
                hint="Name each, such as --gpus 24,24,32, or `none`.",
                kind=ErrorKind.USAGE,
            )
        count, words = _counted(_MEGABYTES.sub(_megabytes, part.strip()))
        gpus = _gpus(words)
        if not 1 <= count <= MOST or len(result) + count * len(gpus) > MOST:
            raise AppError(
                f"“{part.strip()}” is not a number of GPUs that can be planned.",
                hint=f"Name between 1 and {MOST} GPUs.",
                kind=ErrorKind.USAGE,
            )
        result += gpus * count
    return tuple(result)


def _megabytes(match: re.Match[str]) -> str:
    """`24576 MiB` in GiB."""
    return f"{float(match[1]) / 1024:.6g} GiB"


def _counted(words: str) -> tuple[int, str]:
    if match := _BEFORE.fullmatch(words):
        return int(match[1]), match[2].strip()
    if match := _AFTER.fullmatch(words):
        return int(match[2]), match[1].strip()
    return 1, words


def _gpus(words: str) -> list[Gpu]:
    """The devices of one card."""
    if size := _BARE_SIZE.fullmatch(words):
        memory = round(float(size[1]) * units.GIB)
        if not memory:
            raise _unknown(words)
        return [Gpu(name=f"{size[1]} GiB", memory_bytes=memory, nominal_gib=float(size[1]))]
    row, devices = _exact(words) or (_slowest(words), 1)
    return [row.gpu] * devices


def _exact(words: str) -> tuple[_Row, int] | None:
    # With its size or without: `A100 40GB` is a name, `RTX 3090 24GB` is a name and its size.
    keys = {_key(words), _key(_SIZE.sub("", words))}
    for row in _fitting(words):
        for name, devices in row.names.items():
            if _key(name) in keys:
                return row, devices
    return None


def _slowest(words: str) -> _Row:
    """Of the GPUs whose name has all the words, `H100 80GB` for example, the slowest.

    Raises:
        AppError: There is none, or they differ in size.
    """
    asked = {word for word in _words(_SIZE.sub("", words)) if not _BRAND.fullmatch(word)}
    # `Super` and `Pro` alone say nothing.
    if not any(map(_numbered, asked)):
        raise _unknown(words)
    # A 2080 Ti is no RTX 2080, an M3 Ultra no M3.
    found = [
        row
        for row in _fitting(words)
        if any(
            asked <= (has := {*_words(name)}) and not (has - asked) & _OTHERS for name in row.names
        )
    ]
    if not found:
        raise _unknown(words)
    if len({row.gpu.nominal_gib for row in found}) > 1:
        names = ", ".join(row.gpu.name for row in found)
        raise AppError(
            f"“{words}” may be one of several GPUs.",
            hint=f"Name one of {names}, or its size in GiB, for example --gpus 24,24,32.",
            kind=ErrorKind.USAGE,
        )
    return min(found, key=lambda row: row.gpu.bandwidth_bytes_per_s or 0)


def _fitting(words: str) -> Iterator[_Row]:
    """The rows of the size that is in `words`, if any is."""
    size = _SIZE.search(words)
    return (row for row in _rows() if size is None or float(size[1]) == row.gpu.nominal_gib)


def _words(name: str) -> list[str]:
    text = re.sub(r"\b(rtx|gtx|rx)(?=[a-z]?\d)", r"\1 ", name.lower())
    return [word for word in re.findall(r"[a-z0-9]+", text) if word != "graphics"]


def _ends(name: str) -> set[str]:
    words = _words(name)
    return {"".join(words[start:]) for start in range(len(words))}


def _key(name: str) -> str:
    return _BRANDS.sub("", "".join(_words(_SIZE.sub(r"\1gb", name))))


def _unknown(words: str) -> AppError:
    bare = _SIZE.sub("", words)
    numbers = {word for word in _words(bare) if _numbered(word)}
    close = difflib.get_close_matches(bare.lower(), [gpu.name.lower() for gpu in known()], 4, 0.4)
    near = [gpu for gpu in known() if numbers & {*_words(gpu.name)}]
    near = near or [gpu for gpu in known() if gpu.name.lower() in close]
    if not any(map(str.isalpha, bare)):
        near = []
    names = ", ".join(f"{gpu.name} ({gpu.nominal_gib:g} GiB)" for gpu in near[:6])
    more = f"Did you mean {names}? " if names else ""
    return AppError(
        f"“{words}” is no GPU that is known here.",
        hint=f"{more}A size in GiB does as well, for example --gpus 24,24,32.",
        kind=ErrorKind.USAGE,
    )


def _numbered(word: str) -> bool:
    return any(character.isdigit() for character in word)
