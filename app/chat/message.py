"""Messages of a conversation, as a person sees them."""

from __future__ import annotations

import dataclasses
import enum

from app.engine.overflow import kept_for_reply
from app.engine.protocol import PartKind, ToolCall


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
    """The allowed number of tokens was used up."""
    FULL = "full"
    """The context was used up."""
    INTERRUPTED = "interrupted"
    """The engine failed; what had arrived is kept."""


class ContextLevel(enum.IntEnum):
    """Percent of the room for the conversation from which on a person is told."""

    FREE = 0
    FILLING = 75
    NEARLY_FULL = 90


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextUse:
    """How much of a context is used, in tokens.

    Attributes:
        kept: What no prompt may take, since it is for the reply.
    """

    used: int
    size: int
    kept: int = 0

    @classmethod
    def of(cls, used: int, size: int, reserve: int) -> ContextUse:
        """With the reserve that was asked for, of which at most half of the context is kept."""
        return cls(used=used, size=size, kept=kept_for_reply(size, reserve) if reserve else 0)

    @property
    def share(self) -> float:
        """Of what a conversation can take before something must happen; above 1 in a long answer."""
        return self.used / (self.size - self.kept) if self.size > self.kept else 0.0

    @property
    def level(self) -> ContextLevel:
        """How near it is to its end."""
        return max(level for level in ContextLevel if self.share >= level / 100)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of an answer: reasoning, text, or a tool call.

    Attributes:
        tokens: Generated for it.
        seconds: From the end of the part before.
        call: The call, where it is one; its `text` is empty.
    """

    kind: PartKind
    text: str
    tokens: int
    seconds: float
    call: ToolCall | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnStats:
    """What a turn took.

    Attributes:
        tokens: Generated tokens.
        tokens_per_second: Rate of token generation without the first token; None below two.
        first_token_s: Time to first token, from sending on; None if none came.
        prompt_tokens: Tokens of the whole prompt, or of what was read before a stop; `reused_tokens`
            of them from the turn before.
        prompt_s: Time of prompt processing, the template included.
        reasoning_tokens: Of `tokens`, those of the reasoning, which took `reasoning_s`.
        context_used: Tokens in the KV cache after the turn, of `context`.
        kept_for_reply: Of `context`, what no prompt may take.
    """

    tokens: int
    tokens_per_second: float | None
    first_token_s: float | None
    prompt_tokens: int
    reused_tokens: int
    context_used: int
    context: int
    prompt_s: float = 0.0
    reasoning_tokens: int = 0
    reasoning_s: float = 0.0
    kept_for_reply: int = 0

    @property
    def context_use(self) -> ContextUse:
        """How full the context is."""
        return ContextUse(used=self.context_used, size=self.context, kept=self.kept_for_reply)

    @property
    def context_level(self) -> ContextLevel:
        """How near the context is to its end."""
        return self.context_use.level

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
    """One message; a user's is always COMPLETE.

    Attributes:
        text: What was said, without reasoning and tool calls.
        parts: The whole answer in order; empty for a user's message.
        dropped: True once it was left out of the prompt for lack of room; it stays in the chat.
        summarised: True if a summary stands in the prompt for it.
    """

    role: Role
    text: str
    outcome: Outcome = Outcome.COMPLETE
    stats: TurnStats | None = None
    parts: tuple[Part, ...] = ()
    dropped: bool = False
    summarised: bool = False

    @property
    def reasoning(self) -> str:
        """All reasoning, as the model wrote it."""
        return "".join(p.text for p in self.parts if p.kind is PartKind.REASONING)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model wants to be used."""
        return tuple(part.call for part in self.parts if part.call is not None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the model wrote of the oldest messages; it stands in the prompt for them.

    Attributes:
        after: Index of the last message that it is about.
        messages: How many it is about; an earlier summary's are among them.
        tokens: What it takes in the prompt, in the place of `replaced_tokens`.
    """

    text: str
    after: int
    messages: int
    tokens: int
    replaced_tokens: int
