"""What to leave out of a conversation that no longer fits: whole turns, the oldest after the first."""

from __future__ import annotations

import itertools

from app.engine.protocol import ChatMessage

KEEP = 0.75
"""Share of the room that is filled after dropping: many turns fit until the next time, and until
then every prompt begins as the one before."""
KEEP_BESIDE_SUMMARY = 0.5
"""The same after summarising, which takes longer and adds a summary."""
SUMMARY_QUESTION = (
    "Summarise what we said since then, so that you can go on from it: facts, names, numbers,"
    " decisions and open questions, in a few sentences. Answer with the summary only."
)
"""Asks for a summary, and stands before it in later prompts."""


def kept_for_reply(context: int, reserve: int) -> int:
    """Tokens of the context that no prompt may take; at least one, at most half."""
    return max(1, min(reserve, context // 2))


def turns_to_drop(
    messages: tuple[ChatMessage, ...], *, summaries: bool = False
) -> list[tuple[int, ...]]:
    """Indexes of the messages of each turn that may go, the oldest first.

    System prompt, first turn and last turn stay, and without `summaries` the one that stands for
    older turns. A turn begins with a message of the user.
    """
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    return [
        tuple(range(start, end))
        for start, end in itertools.pairwise(starts[1:])
        if summaries or not messages[start].summary
    ]


def summary_turn(text: str) -> tuple[ChatMessage, ChatMessage]:
    """What stands in a prompt in the place of the turns that `text` summarises."""
    return (
        ChatMessage(role="user", content=SUMMARY_QUESTION, summary=True),
        ChatMessage(role="assistant", content=text, summary=True),
    )
