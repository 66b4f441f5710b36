"""Options of sampling on the command line, made from `Sampling` like the page of settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli import machine
from app.cli.settings import put
from app.errors import AppError, ErrorKind
from app.settings.entries import Entry, entries
from app.settings.model import Settings
from app.settings.shown import Control

_FROM_FILES = (Control.CODE, Control.JSON)
_MARK = "sampling_"


def add_options(command: argparse.ArgumentParser) -> None:
    """One option for each of `Sampling`: `--top-p 0.9`, `--grammar-file FILE`."""
    group = command.add_argument_group(
        "sampling", "Where left out: as in the settings, else as the model's makers advise."
    )
    for one in _options():
        flag = f"--{one.option.replace('_', '-')}"
        alone = one.control in (Control.CODE, Control.SWITCH)  # a file or a flag needs no bounds
        told = (one.description if alone else f"{one.description} {one.allowed}").replace("%", "%%")
        if one.control in _FROM_FILES:
            group.add_argument(
                f"{flag}-file", dest=_MARK + one.option, type=Path, metavar="FILE", help=told
            )
        elif one.control is Control.SWITCH:
            group.add_argument(
                flag, dest=_MARK + one.option, action="store_const", const="on", help=told
            )
        else:
            metavar = "JSON" if one.control is Control.BIASES else "N"
            metavar = "TEXTS" if one.control is Control.LINES else metavar
            group.add_argument(flag, dest=_MARK + one.option, metavar=metavar, help=told)


def with_options(options: argparse.Namespace, settings: Settings) -> Settings:
    """The settings with the options on top.

    Raises:
        AppError: One of them is not possible, or a file cannot be read.
    """
    for one in _options():
        told = getattr(options, _MARK + one.option, None)
        if told is not None:
            text = _read(told) if isinstance(told, Path) else told
            checked = one.control in _FROM_FILES
            model = machine.model_path(options.model) if checked else None
            settings = put(one, settings, text, model)
    return settings


def _options() -> tuple[Entry, ...]:
    return tuple(one for one in entries() if one.option)


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise AppError(f"{path} cannot be read: {words}.", kind=ErrorKind.USAGE) from None
    if not text.strip():
        raise AppError(f"{path} is empty.", kind=ErrorKind.USAGE)
    return text
