"""The options of commands that load a model, or plan to."""

from __future__ import annotations

import argparse
import re

from app.cli.split import add_split_mode
from app.plan.model import KvCacheType


def add_options(command: argparse.ArgumentParser) -> None:
    """What is split, the context and its KV cache."""
    add_split_mode(command)
    add_context(command)


def add_context(command: argparse.ArgumentParser) -> None:
    """The context and its KV cache."""
    kinds = [str(kind) for kind in KvCacheType]
    command.add_argument(
        "--context", type=_tokens, help="tokens, at least 256; automatic if left out"
    )
    command.add_argument("--kv-type-k", type=str.lower, choices=kinds)
    command.add_argument("--kv-type-v", type=str.lower, choices=kinds)


def add_layers(command: argparse.ArgumentParser) -> None:
    """A split by hand."""
    command.add_argument(
        "--layers", metavar="N,N", help="number of layers for each device, by hand"
    )


def count(text: str, least: int = 1) -> int:
    """A whole number of at least `least`."""
    value = int(text) if text.isdecimal() else 0
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least {least}")
    return value


def question(text: str) -> str:
    """Text that says something."""
    if not text.strip():
        raise argparse.ArgumentTypeError("there is nothing to ask in it")
    return text


def _tokens(text: str) -> int:
    """A number of tokens: `32768`, `32,768` or `32k`."""
    match = re.fullmatch(r"(-?\d+)(k?)", text.strip().lower().replace(",", ""))
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no number of tokens such as 32768 or 32k")
    return int(match[1]) * (1024 if match[2] else 1)
