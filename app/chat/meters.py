"""The quiet line of meters, for window and terminal."""

from __future__ import annotations

import dataclasses

from app import units
from app.chat.events import AnswerExtended, PromptRead
from app.chat.message import ContextUse, TurnStats

DOT = " · "


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """What is known of a turn by now; None where nothing is.

    Attributes:
        reading: Share of the prompt that is read, while it is.
        evaluated: Tokens of the prompt that were computed, beside `reused` ones from before.
        reasoning_tokens: Generated tokens that are no answer yet.
    """

    use: ContextUse
    rate: float | None = None
    first_token_s: float | None = None
    reading: float | None = None
    evaluated: int | None = None
    reused: int = 0
    reasoning_tokens: int = 0

    def read(self, event: PromptRead) -> Meters:
        """As prompt processing advances; the rest is of the turn before, and gone."""
        return Meters(
            use=dataclasses.replace(self.use, used=event.done),
            reading=event.done / max(1, event.total),
            evaluated=event.evaluated,
            reused=event.reused,
        )

    def extended(self, event: AnswerExtended) -> Meters:
        """As the answer comes in."""
        timed = event.tokens > 1 and event.elapsed_s > 0
        return dataclasses.replace(
            self,
            use=dataclasses.replace(self.use, used=event.context_used),
            reading=None,
            rate=(event.tokens - 1) / event.elapsed_s if timed else None,
            first_token_s=event.first_token_s,
            reasoning_tokens=event.reasoning_tokens,
        )

    @classmethod
    def of(cls, stats: TurnStats) -> Meters:
        """What a whole turn took."""
        return cls(
            use=stats.context_use,
            rate=stats.tokens_per_second,
            first_token_s=stats.first_token_s,
            evaluated=stats.evaluated_tokens,
            reused=stats.reused_tokens,
            reasoning_tokens=stats.reasoning_tokens,
        )

    @property
    def turn(self) -> str:
        """All but the context: `42.0 tok/s · first token 0.42 s · read 212, kept 3,810`."""
        parts = (
            [f"reading {units.format_percent(self.reading)}"] if self.reading is not None else []
        )
        parts += [f"{self.rate:.1f} tok/s"] if self.rate is not None else []
        if self.first_token_s is not None:
            parts.append(f"first token {units.format_duration(self.first_token_s)}")
        if self.evaluated is not None:
            parts.append(f"read {self.evaluated:,}, kept {self.reused:,}")
        parts += [f"thought {self.reasoning_tokens:,}"] if self.reasoning_tokens else []
        return DOT.join(parts)

    @property
    def context(self) -> str:
        """The context: `context 6.1k / 8.2k, 1.0k kept for the reply`."""
        short, use = units.format_tokens_short, self.use
        kept = f", {short(use.kept)} kept for the reply" if use.kept > 1 else ""
        return f"context {short(use.used)} / {short(use.size)}{kept}"

    def __str__(self) -> str:
        """One line."""
        return DOT.join(part for part in (self.turn, self.context) if part)
