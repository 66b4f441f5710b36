"""What the headers of a model on this machine say, and by what a change of its files is seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from app.catalog import starter
from app.errors import AppError
from app.gguf.reader import read_layout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a model's headers say; `reason` is empty if they are sound."""

    reason: str = ""
    name: str = ""
    quantization: str = ""
    architecture: str = ""
    parameter_count: int = 0
    context_length: int = 0


def fingerprint(path: Path) -> str:
    """What changes whenever a file does."""
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} {error.strerror}"
    return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def check(path: Path) -> Checked:
    """What the headers of a model say, all shards of it."""
    try:
        layout = starter.named(read_layout(path))
    except AppError as error:
        return Checked(reason=" ".join(part for part in (error.title, error.detail) if part))
    return Checked(
        name=layout.name,
        quantization=layout.quantization,
        architecture=layout.architecture,
        parameter_count=layout.parameter_count,
        context_length=layout.context_length,
    )
