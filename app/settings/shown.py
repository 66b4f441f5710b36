"""Where a setting is shown, and in which unit: what its pydantic field cannot say by itself."""

from __future__ import annotations

import enum

import pydantic


class Section(enum.StrEnum):
    """The parts of the settings, in order. A field that names none is in the last but one."""

    APPEARANCE = "Appearance"
    ENGINE = "Engine"
    CHAT = "Chat"
    SAMPLING = "Sampling"
    DOWNLOADS = "Downloads"
    MODELS = "Models"
    RPC = "RPC servers"
    OTHER = "More"
    SPLIT = "GPU split"
    """Set in a dialog of its own, and on the command line."""


class Control(enum.StrEnum):
    """How a value is entered."""

    CHOICE = "choice"
    SWITCH = "switch"
    WHOLE = "whole"
    NUMBER = "number"
    TEXT = "text"
    CODE = "code"
    LINES = "lines"
    FOLDERS = "folders"
    HOURS = "hours"
    BIASES = "biases"
    JSON = "json"


def shown(
    section: Section,
    *,
    unit: str = "",
    scale: int = 1,
    empty: str = "Automatic",
    control: Control | None = None,
    at_load: bool = False,
    words: dict[str, str] | None = None,
) -> dict[str, pydantic.JsonValue]:
    """For `json_schema_extra` of a field.

    Args:
        section: Where it stands.
        unit: What numbers are counted in; a stored value is the shown one times `scale`.
        scale: See `unit`.
        empty: What it is called that there is no value.
        control: Where the type does not say it.
        at_load: It takes effect when the model is loaded.
        words: What the values of a choice are called, where not as they are stored.
    """
    extra: dict[str, pydantic.JsonValue] = {
        "section": section.value,
        "unit": unit,
        "scale": scale,
        "empty": empty,
        "at_load": at_load,
    }
    if control is not None:
        extra["control"] = control.value
    if words is not None:
        extra["words"] = dict(words)
    return extra
