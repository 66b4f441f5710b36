"""Messages of a conversation, as a person sees them."""

from __future__ import annotations

import dataclasses
import enum


class Role(enum.StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class Outcome(enum.StrEnum):
    """How an answer ended; RUNNING while it still streams."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    """The person stopped it."""
    TRUNCATED = "truncated"
    """The context or the allowed number of tokens was used up."""
    INTERRUPTED = "interrupted"
    """The engine failed; what had arrived is kept."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnStats:
    """What a turn took.

    Attributes:
        tokens: Generated tokens.
        tokens_per_second: Rate of token generation without the first token; None below two.
        first_token_s: Time to first token, from sending on; None if none came.
        prompt_tokens: Tokens of the whole prompt, `reused_tokens` of them from the turn before.
        prompt_s: Time of prompt processing, the template included.
        context_used: Tokens in the KV cache after the turn, of `context`.
    """

    tokens: int
    tokens_per_second: float | None
    first_token_s: float | None
    prompt_tokens: int
    reused_tokens: int
    context_used: int
    context: int
    prompt_s: float = 0.0

    @property
    def evaluated_tokens(self) -> int:
        """Tokens of the prompt that were not in the KV cache."""
        return self.prompt_tokens - self.reused_tokens

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Rate of prompt processing."""
        return self.evaluated_tokens / self.prompt_s if self.prompt_s > 0 else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message; a user's is always COMPLETE."""

    role: Role
    text: str
    outcome: Outcome = Outcome.COMPLETE
    stats: TurnStats | None = None
