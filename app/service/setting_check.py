"""Settings that only llama.cpp can check: grammars and JSON schemas."""

from __future__ import annotations

from pathlib import Path

from app.engine.constraints import problem_of
from app.engine.protocol import Sampling
from app.settings.entries import Entry, Json
from app.settings.shown import Control, Section


def is_checked(entry: Entry) -> bool:
    """True if `problem_with` may find something."""
    return entry.section is Section.SAMPLING and entry.control in (Control.CODE, Control.JSON)


def problem_with(entry: Entry, value: Json, model: Path | None) -> str:
    """What is wrong with the value, or ""; takes a second.

    Args:
        entry: The setting.
        value: What `Settings` accept there.
        model: The chosen model's file; a grammar may name its tokens.
    """
    if not is_checked(entry) or not value:
        return ""
    return problem_of(Sampling.model_validate({entry.option: value}), model)
