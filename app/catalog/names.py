"""What names of model files say: shards, quantization, role; and whether a path from elsewhere is safe."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import PurePosixPath

from app.gguf.header import MAX_SHARDS

MAX_PATH = 1_000
MAX_PART_BYTES = 240
"""Of one folder or file name in UTF-8; file systems take 255, and `.part` comes behind it."""

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
"""llama.cpp's name of a shard (`llama_split_path`), counted from 1."""

_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?P<dynamic>UD-)?"
    r"(?P<kind>I?Q[1-9]_(?:[01](?:_[48]_[48])?|(?:K|XXS|XS|S|M|L|XL|NL|KS|KL|KSS|KT|K_R4)"
    r"(?:_(?:XXS|XS|S|M|L|XL|XXL))?)|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE | re.ASCII,
)
_OTHER_SPLITS = re.compile(
    r"\.gguf[.-](?:part[-_]?[0-9a-z]+(?:of[0-9]+)?|split[-_][a-z0-9]+|[0-9]{1,5})$"
    r"|\.(?:part|split)[-_]?[0-9]+(?:of[0-9]+)?\.gguf$|-split-[a-z]{1,2}(?:\.gguf)?$",
    re.IGNORECASE | re.ASCII,
)
_NO_NAME = ("", "mmproj", "model")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE | re.ASCII)
_FORBIDDEN = frozenset('\\:*?"<>|')


def safe_path(path: str) -> bool:
    """True if `path` can be put below a folder on Linux, macOS and Windows, and stays below it."""
    if not path or len(path) > MAX_PATH or not path.isprintable() or _FORBIDDEN & set(path):
        return False
    return all(
        part not in ("", ".", "..")
        and part[-1] not in ". "
        and part[0] != " "
        and len(part.encode("utf-8", errors="replace")) <= MAX_PART_BYTES
        and not _RESERVED.fullmatch(part)
        for part in path.split("/")
    )


def quantization(path: str) -> str:
    """The quantization that a file's name or folder tells: `Q4_K_M`, `UD-Q4_K_XL`, `BF16`; empty if none.

    The last one in the file's name counts, else the last one in the nearest folder that has one.
    """
    for part in reversed(PurePosixPath(path).parts):
        found = list(_QUANTIZATION.finditer(part))
        if found:
            kind = found[-1]["kind"].upper().replace("FP16", "F16").replace("FP32", "F32")
            return ("UD-" if found[-1]["dynamic"] else "") + kind
    return ""


def is_projector(path: str) -> bool:
    """True for the file that turns pictures or sound into embeddings (`mmproj`)."""
    return "mmproj" in PurePosixPath(path).name.lower()


def projects_for(projector: str, model: str) -> bool:
    """True if a projector's name leaves no doubt that it is for the model in the file `model`.

    `mmproj-Qwen2-VL-7B-f16.gguf` names one; `mmproj-model-f16.gguf` is for whatever it lies beside.
    """
    stem = PurePosixPath(projector).name.lower().removesuffix(".gguf")
    words = [w for w in re.split(r"[-.]+", stem) if w not in _NO_NAME and not quantization(w)]
    said = [w for w in re.split(r"[-.]+", PurePosixPath(model).name.lower()) if w]
    return bool(words) and said[: len(words)] == words


def is_importance_matrix(path: str) -> bool:
    """True for what quantizers read, which is no model (`imatrix.gguf`, `name.imatrix.gguf`)."""
    stem = PurePosixPath(path).stem.lower()
    return re.search(r"(?:^|\.|-)imatrix$", stem) is not None and not quantization(stem)


def joined_name(path: str) -> str | None:
    """What a part that must be joined before use (`.gguf.part1of2`, `-split-a`) is a part of; else None."""
    match = _OTHER_SPLITS.search(path)
    return path[: match.start()] if match else None


def missing_shards(stem: str, count: int, numbers: Set[int]) -> str:
    """Why shards of these numbers are not all `count` of a model, as a sentence; empty if they are."""
    if not 1 <= count <= MAX_SHARDS:
        return f"Its name claims {count:,} shards."
    wanted = set(range(1, count + 1))
    if strange := sorted(numbers - wanted):
        return f"It has a shard {strange[0]} of {count}."
    missing = sorted(wanted - numbers)
    if not missing:
        return ""
    listed = ", ".join(f"{printable(stem)}-{n:05d}-of-{count:05d}.gguf" for n in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{listed}{more} {'is' if len(missing) == 1 else 'are'} missing."


def is_repository(text: str) -> bool:
    """True for `owner/repo` as the Hub allows it, so that it can be shown and put into an address."""
    return _REPOSITORY.fullmatch(text) is not None and ".." not in text


def printable(text: str, length: int = 200) -> str:
    """`text` from elsewhere, fit for a terminal or a window."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:length])
