"""Values of settings as text and back, with the sentence that says what is possible."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings.shown import Control

if TYPE_CHECKING:
    from app.settings.entries import Entry

_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_HOURS = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:-|–|to)\s*(\d{1,2})(?::(\d\d))?")

_SENTENCES = {
    Control.SWITCH: "It is on or off.",
    Control.HOURS: "It is from one time to another, such as 22:00–06:00.",
    Control.FOLDERS: "It is a folder that is there, with its whole path.",
    Control.LINES: "Each is a text; several are parted by commas.",
    Control.BIASES: "Each is a token (number or text) with a bias from -100 to 100: "
    '[[" the", -5], [42, -100]].',
    Control.JSON: "It is a JSON object.",
}


class SettingError(ValueError):
    """A text or value is not possible; the message is a sentence or two for a person."""


def format_value(entry: Entry, value: Any) -> str:  # noqa: ANN401 - of any setting
    """The value as `parse_value` reads it."""
    if value is None:
        return entry.empty or "None"
    return _FORMATS[entry.control](entry, value)


def parse_value(entry: Entry, text: str) -> Any:  # noqa: ANN401 - of any setting
    """The value that a text stands for.

    Raises:
        SettingError: It stands for none.
    """
    control = entry.control
    if entry.empty and text.strip().lower() in ("none", entry.empty.lower()):
        return None
    if control in (Control.TEXT, Control.CODE):
        return text
    value = _PARSERS[control](entry, text)
    if value is None:
        told = text.strip()
        short = told if len(told) < 60 else f"{told[:56]}…"
        raise SettingError(f"“{short}” is not possible. {entry.allowed}" if told else entry.allowed)
    return value


def spoken(entry: Entry) -> str:
    """Which values are possible, as a sentence."""
    match entry.control:
        case Control.CHOICE:
            words = [word for _value, word in entry.choices]
            return f"It is {', '.join(words[:-1])} or {words[-1]}."
        case Control.WHOLE | Control.NUMBER:
            whole = entry.control is Control.WHOLE and entry.scale == 1
            return f"It is a {'whole ' if whole else ''}number{_bounds(entry)}."
        case Control.TEXT | Control.CODE:
            most = f" of at most {entry.longest:,} characters" if entry.longest else ""
            return f"It is a text{most}."
        case _:
            return _SENTENCES[entry.control]


def _bounds(entry: Entry) -> str:
    unit = f" {entry.unit}" if entry.unit else ""
    least = None if entry.least is None else _number(entry.least / entry.scale)
    most = None if entry.most is None else _number(entry.most / entry.scale)
    if least is not None and most is not None:
        return (
            f" above {least}, up to {most}{unit}"
            if entry.above
            else f" from {least} to {most}{unit}"
        )
    if least is not None:
        return f" {'above' if entry.above else 'of at least'} {least}{unit}"
    return f" of at most {most}{unit}" if most is not None else ""


def _number(value: float) -> str:
    """Digits as a person writes them: commas in thousands, no zeros at the end."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.12g}"


def escaped(text: str) -> str:
    """A text on one line."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def unescaped(text: str) -> str:
    """The text that `escaped` was given."""
    return re.sub(r"\\([ntr\\])", lambda match: _ESCAPES[match[1]], text)


def folder(entry: Entry, text: str) -> str:
    """A folder's whole path.

    Raises:
        SettingError: There is none.
    """
    path = Path(text.strip()).expanduser()
    if not path.is_absolute() or not path.is_dir():
        raise SettingError(f"There is no folder “{text.strip()}”. {entry.allowed}")
    return str(path)


def _whole(entry: Entry, text: str) -> int | None:
    if entry.scale != 1:
        value = _float(entry, text)
        return None if value is None else round(value * entry.scale)
    match = re.fullmatch(
        r"(-?\d{1,18})(k?)", text.strip().lower().replace(",", "").replace(" ", "")
    )
    return int(match[1]) * (1024 if match[2] else 1) if match else None


def _float(_entry: Entry, text: str) -> float | None:
    """Some write a comma where others have a point."""
    told = text.strip()
    told = told.replace(",", ".") if re.fullmatch(r"-?\d*,\d+", told) else told.replace(",", "")
    try:
        value = float(told)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _choice(entry: Entry, text: str) -> Any:  # noqa: ANN401 - a string or a number
    told = text.strip().lower()
    names = {str(v).lower(): v for v, _word in entry.choices}
    names |= {word.lower(): v for v, word in entry.choices}
    return names.get(told)


def _lines(entry: Entry, text: str) -> list[str] | None:
    if text.lstrip().startswith("["):
        found = _json(entry, text, list)
        return found if all(isinstance(item, str) for item in found or ()) else None
    parts = [part.strip() for part in text.split(",")]
    return [unescaped(part) for part in parts if part]


def _hours(_entry: Entry, text: str) -> dict[str, str] | None:
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        return None
    times = [(int(match[i]), int(match[i + 1] or 0)) for i in (1, 3)]
    if times[0] == times[1] or any(hour > 23 or minute > 59 for hour, minute in times):
        return None
    start, end = (f"{hour:02}:{minute:02}:00" for hour, minute in times)
    return {"start": start, "end": end}


def _json(_entry: Entry, text: str, kind: type = dict) -> Any:  # noqa: ANN401 - as told
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SettingError(f"This is not JSON: {error.msg}, {where}.") from None
    except RecursionError:
        raise SettingError("This JSON is nested too deeply.") from None
    return value if isinstance(value, kind) else None


_PARSERS: dict[Control, Callable[[Any, str], Any]] = {
    Control.SWITCH: lambda _entry, text: _SWITCHES.get(text.strip().lower()),
    Control.CHOICE: _choice,
    Control.WHOLE: _whole,
    Control.NUMBER: _float,
    Control.LINES: _lines,
    Control.FOLDERS: lambda entry, text: [folder(entry, f) for f in _lines(entry, text) or ()],
    Control.HOURS: _hours,
    Control.BIASES: lambda entry, text: _json(entry, text or "[]", list),
    Control.JSON: _json,
}
_FORMATS: dict[Control, Callable[[Any, Any], str]] = {
    Control.SWITCH: lambda _entry, value: "on" if value else "off",
    Control.CHOICE: lambda entry, value: dict(entry.choices).get(value, str(value)),
    Control.WHOLE: lambda entry, value: _number(value / entry.scale),
    Control.NUMBER: lambda entry, value: _number(value / entry.scale),
    Control.LINES: lambda _entry, value: ", ".join(escaped(item) for item in value),
    Control.FOLDERS: lambda _entry, value: ", ".join(value),
    Control.HOURS: lambda _entry, value: f"{value['start'][:5]}–{value['end'][:5]}",
    Control.BIASES: lambda _entry, value: json.dumps(value, ensure_ascii=False) if value else "",
    Control.JSON: lambda _entry, value: json.dumps(value, ensure_ascii=False, indent=2),
    Control.TEXT: lambda _entry, value: str(value),
    Control.CODE: lambda _entry, value: str(value),
}
