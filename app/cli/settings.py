"""`ultra-launcher settings`: what the page of settings shows, for machines without a screen."""

from __future__ import annotations

import argparse
import difflib
import json
import textwrap
from pathlib import Path

from app import paths
from app.catalog import starter
from app.errors import AppError, ErrorKind
from app.service.setting_check import problem_with
from app.settings.entries import Entry, entries, entry
from app.settings.model import Settings
from app.settings.shown import Control
from app.settings.store import SettingsStore
from app.settings.text import SettingError

WIDTH = 100
_LONGEST = 40
_EMPTY = {
    Control.TEXT: "",
    Control.CODE: "",
    Control.LINES: "",
    Control.FOLDERS: "",
    Control.BIASES: "[]",
}
"""What `none` stands for, as these are shown where they are empty."""


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument("key", nargs="?", metavar="KEY", help="one setting; all if left out")
    command.add_argument("value", nargs="?", metavar="VALUE", help="its new value")
    command.add_argument(
        "--reset", action="append", default=[], metavar="KEY", help="back to the default; `all`"
    )


def settings(options: argparse.Namespace, stored: Settings) -> int:
    """Show or change what is stored; returns the exit code."""
    changed = stored
    named = []
    for key in options.reset:
        chosen = entries() if key == "all" else (find(key),)
        for one in chosen:
            changed = one.reset(changed)
        named += [one for one in chosen if key != "all" or one.is_set(stored)]
    if options.key is not None:
        one = find(options.key)
        named.append(one)
        if options.value is not None:
            changed = put(one, changed, options.value)
    if changed != stored:
        SettingsStore(paths.folders().config / "settings.json").save(changed)
    wanted = (
        tuple({one.key: one for one in named}.values()) if named or options.reset else entries()
    )
    if options.json:
        print(json.dumps({one.key: _facts(one, changed) for one in wanted}, ensure_ascii=False))
    elif options.key is not None and options.value is None and not options.reset:
        print("\n".join(_page(wanted[0], changed)))
    elif named or options.reset:
        print("\n".join(_line(one, changed) for one in wanted) or "All are at their defaults.")
    else:
        print("\n".join(_list(changed)))
    return 0


def find(key: str) -> Entry:
    """The setting with this key.

    Raises:
        AppError: There is none.
    """
    try:
        return entry(key)
    except KeyError:
        short = {one.key.rsplit(".", 1)[-1]: one.key for one in entries()}
        near = difflib.get_close_matches(key.rsplit(".", 1)[-1], short, 3)
        like = f"Is it {' or '.join(short[name] for name in near)}? " if near else ""
        raise AppError(
            f"There is no setting {key}.",
            hint=f"{like}`ultra-launcher settings` shows all.",
            kind=ErrorKind.USAGE,
        ) from None


def put(one: Entry, before: Settings, text: str, model: Path | None = None) -> Settings:
    """The settings with the value that a text stands for; grammars are checked.

    Args:
        one: What is set.
        before: The settings.
        text: As a person writes it.
        model: Whose tokens a grammar may name; the stored or the starter model if left out.

    Raises:
        AppError: It is not possible.
    """
    if text.strip().lower() == "none" and not one.empty:
        text = _EMPTY.get(one.control, text)
    try:
        value = one.parse(text)
        changed = one.put(before, value)
    except SettingError as error:
        raise AppError(f"{one.title}: {error}", kind=ErrorKind.USAGE) from None
    stored = Path(before.model_path) if before.model_path else starter.bundled_model()
    problem = problem_with(one, value, model or stored)
    if problem:
        raise AppError(f"{one.title}: {problem}", kind=ErrorKind.USAGE)
    return changed


def _list(now: Settings) -> list[str]:
    lines: list[str] = []
    section = ""
    for one in entries():
        if one.section != section:
            section = one.section
            lines += ["", section] if lines else [section]
        lines.append(f"  {_line(one, now)}")
    return [
        *lines,
        "",
        "* was set. Options of sampling that were not are as the model's makers advise.",
        "One of them: ultra-launcher settings KEY. Another value: ultra-launcher settings KEY VALUE.",
    ]


def _line(one: Entry, now: Settings) -> str:
    text = _text(one, now)
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"
    return f"{'*' if one.is_set(now) else ' '} {one.key:<32}{short}".rstrip()


def _text(one: Entry, now: Settings) -> str:
    value = one.value(now)
    text = one.format(value)
    if one.control in (Control.JSON, Control.BIASES) and value is not None:
        text = json.dumps(value, ensure_ascii=False) if value else "none"
    unit = f" {one.unit}" if one.unit and value is not None else ""
    return " ".join(text.split()) + unit if text.strip() else "none"


def _page(one: Entry, now: Settings) -> list[str]:
    """All about one setting."""
    value = one.value(now)
    if one.control in (Control.TEXT, Control.CODE):
        text = value or "none"
    else:
        text = one.format(value) if one.control is Control.JSON and value else _text(one, now)
    default = one.reset(now)
    lines = [f"{one.title} ({one.key})", *textwrap.wrap(one.description, WIDTH), one.allowed]
    if one.empty:
        lines.append(f"Or {one.empty.lower()}: `none`.")
    if one.at_load:
        lines.append("It takes effect when the model is loaded.")
    lines += ["", f"Now      {text}"]
    if one.option:
        lines.append(f"Unset    as the model's makers advise, else {_text(one, default)}")
    else:
        lines.append(f"Default  {_text(one, default)}")
    return lines


def _facts(one: Entry, now: Settings) -> dict[str, object]:
    return {
        "value": _scaled(one, one.value(now)),
        "default": _scaled(one, one.value(one.reset(now))),
        "set": one.is_set(now),
        "unit": one.unit,
        "title": one.title,
        "section": one.section,
    }


def _scaled(one: Entry, value: object) -> object:
    """In the unit that is shown."""
    if one.scale == 1 or not isinstance(value, int | float):
        return value
    return value / one.scale
