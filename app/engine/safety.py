"""Safer settings for machines on which the engine crashes, remembered per machine and engine version."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

from app import jsonfile
from app.engine import protocol

STEPS = {
    "no_extra_buffers": (
        "llama.cpp crashed in its self-test with this processor's special matrix kernels, "
        "so they are switched off on this machine."
    ),
    "single_thread": (
        "llama.cpp crashed in its self-test with several threads, so it runs with one on this machine."
    ),
}
"""Settings in the order in which they are tried, each with the sentence that tells of it."""


def apply(command: protocol.Load, step: str | None) -> protocol.Load:
    """The load with the safer setting `step` and all before it."""
    if step is None:
        return command
    changes: dict[str, object] = {"use_extra_buffers": False}
    if step == "single_thread":
        changes["threads"] = 1
    return command.model_copy(update=changes)


def next_step(step: str | None, command: protocol.Load | None = None) -> str | None:
    """The setting to try after `step` crashed; None if there is none left.

    Where tensors are split, that is to blame and no kernel.
    """
    if command is not None and command.split_mode == "tensor":
        return None
    names = list(STEPS)
    index = 0 if step is None else names.index(step) + 1
    return names[index] if index < len(names) else None


def engine_version() -> str:
    """Version of the installed llama-cpp-python, `none` without one; loads nothing."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "none"


class SafetyStore:
    """Remembers the setting that worked, in one small file."""

    def __init__(self, path: Path, engine_version: str) -> None:
        """`path` need not exist; a broken file counts as empty."""
        self._path = path
        self._key = f"{engine_version}-{_machine()}"

    def get(self) -> str | None:
        """The remembered setting of this machine and engine."""
        step = jsonfile.read(self._path).get(self._key)
        return step if isinstance(step, str) and step in STEPS else None

    def put(self, step: str) -> None:
        """Remember `step`; a disk that cannot take it costs one more self-test, no more."""
        values = jsonfile.read(self._path) | {self._key: step}
        with contextlib.suppress(OSError):
            jsonfile.write(self._path, values)


def _machine() -> str:
    facts = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = re.findall(
            r"^(?:model name|flags|Features)\s*:.*$",
            Path("/proc/cpuinfo").read_text(),
            re.MULTILINE,
        )
        facts += "\n".join(sorted(set(lines)))
    return hashlib.sha256(facts.encode()).hexdigest()[:12]
