"""What happens in a chat, for whoever shows it."""

from __future__ import annotations

import dataclasses

from app.chat.message import Message, Summary
from app.engine.protocol import PartKind, ToolCall
from app.errors import AppError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """Event: a message was sent, an answer is awaited."""

    turn: int
    user: Message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResumed:
    """Event: the last answer goes on; `answer` is what there is of it."""

    turn: int
    answer: Message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromptRead:
    """Event: prompt processing advanced to `done` of `total` tokens, `reused` of them from before.

    `dropped` is how many messages are left out for lack of room, now and before; `left_out` are the
    indexes in the chat of those that no summary stands for. `cut` are tokens that were left out at
    the beginning of the answer that goes on.
    """

    turn: int
    done: int
    total: int
    reused: int = 0
    dropped: int = 0
    left_out: tuple[int, ...] = ()
    cut: int = 0

    @property
    def evaluated(self) -> int:
        """Tokens that were computed."""
        return self.done - self.reused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnsSummarised:
    """Event: the model summarises the oldest `turns` turns, or has done so.

    While it does, `done` of `total` tokens are read and `tokens` written. Then there is a `summary`,
    and `replaced` are the indexes in the chat of all messages that it stands for.
    """

    turn: int
    turns: int
    done: int = 0
    total: int = 0
    tokens: int = 0
    summary: Summary | None = None
    replaced: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExtended:
    """Event: more of the answer, of the kind `part`; a tool call comes whole, as `call`.

    `tokens` and `elapsed_s` count from the answer's first token, `reasoning_tokens` among them.
    """

    turn: int
    text: str
    tokens: int
    elapsed_s: float
    first_token_s: float | None
    context_used: int
    part: PartKind = PartKind.TEXT
    call: ToolCall | None = None
    reasoning_tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """Event: the turn is over; `answer` is final, `error` says why it was interrupted.

    `context_full` says that an answer could not go on for that reason.
    """

    turn: int
    answer: Message
    error: AppError | None = None
    context_full: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuestionReturned:
    """Event: the last message does not fit into the context, and is no longer part of the chat.

    Its `text` goes back to where it was written; `error` says what can be done. With all that it
    follows it has so many `tokens`.
    """

    turn: int
    text: str
    error: AppError
    tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCleared:
    """Event: a new chat began."""


ChatEvent = (
    TurnStarted
    | AnswerResumed
    | PromptRead
    | TurnsSummarised
    | AnswerExtended
    | TurnFinished
    | QuestionReturned
    | ConversationCleared
)
