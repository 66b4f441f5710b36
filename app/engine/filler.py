"""Text for measurements: prompts of a known length, none the beginning of another."""

from __future__ import annotations

import itertools

WORDS = ("the", "of", "and", "to", "in", "for", "with", "that", "on", "by", "this", "from", "at")
"""Each one token with its space, in all usual vocabularies."""


def filler(start: int, count: int) -> str:
    """`count` words; those of another `start` begin differently, so that nothing is reused."""
    return " ".join(itertools.islice(itertools.cycle(WORDS), start, start + count))
