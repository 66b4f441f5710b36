"""What to leave out of a conversation that no longer fits: whole turns, the oldest after the first."""

from __future__ import annotations

import itertools

from app.engine.protocol import ChatMessage

KEEP = 0.75
"""Share of the room that is filled after dropping: many turns fit until the next time, and until
then every prompt begins as the one before."""


def turns_to_drop(messages: tuple[ChatMessage, ...]) -> list[tuple[int, ...]]:
    """Indexes of the messages of each turn that may go, the oldest first.

    System prompt, first turn and last turn stay. A turn begins with a message of the user.
    """
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    return [tuple(range(start, end)) for start, end in itertools.pairwise(starts[1:])]


def without(messages: tuple[ChatMessage, ...], dropped: tuple[int, ...]) -> tuple[ChatMessage, ...]:
    """The messages that stay."""
    return tuple(message for index, message in enumerate(messages) if index not in dropped)
