"""Settings that only llama.cpp can check: grammars and JSON schemas."""

from __future__ import annotations

from app.engine.constraints import problem_of
from app.engine.protocol import Sampling
from app.gguf.model import ModelLayout
from app.settings.entries import Entry, Json
from app.settings.shown import Control, Section


def is_checked(entry: Entry) -> bool:
    """True if `problem_with` may find something."""
    return entry.section is Section.SAMPLING and entry.control in (Control.CODE, Control.JSON)


def problem_with(entry: Entry, value: Json, layout: ModelLayout | None) -> str:
    """What is wrong with the value, or ""; takes a second.

    Args:
        entry: The setting.
        value: What `Settings` accept there.
        layout: The chosen model, whose tokens a grammar may name.
    """
    if not is_checked(entry) or not value:
        return ""
    model = layout.files[0] if layout is not None and layout.files else None
    return problem_of(Sampling.model_validate({entry.option: value}), model)
