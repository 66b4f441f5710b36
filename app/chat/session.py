"""The chat in progress: its messages, and one turn at a time."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

from app.chat.message import Message, Outcome, Part, Role, TurnStats
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.engine.protocol import PartKind
from app.errors import AppError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """Event: a message was sent, an answer is awaited."""

    turn: int
    user: Message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromptRead:
    """Event: prompt processing advanced to `done` of `total` tokens, `reused` of them from before.

    `dropped` is how many messages were left out for lack of room, now and before.
    """

    turn: int
    done: int
    total: int
    reused: int = 0
    dropped: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExtended:
    """Event: more of the answer, of the kind `part`; a tool call comes whole, as `call`.

    `tokens` and `elapsed_s` count from the answer's first token.
    """

    turn: int
    text: str
    tokens: int
    elapsed_s: float
    first_token_s: float | None
    context_used: int
    part: PartKind = PartKind.TEXT
    call: protocol.ToolCall | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """Event: the turn is over; `answer` is final, `error` says why it was interrupted."""

    turn: int
    answer: Message
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCleared:
    """Event: a new chat began."""


ChatEvent = TurnStarted | PromptRead | AnswerExtended | TurnFinished | ConversationCleared

_OUTCOMES = {
    "stop": Outcome.COMPLETE,
    "cancelled": Outcome.STOPPED,
    "length": Outcome.TRUNCATED,
    "context": Outcome.TRUNCATED,
}


@dataclasses.dataclass(slots=True, kw_only=True)
class _Growing:
    """A part while it arrives: thousands of pieces, joined once."""

    kind: PartKind
    call: protocol.ToolCall | None
    pieces: list[str] = dataclasses.field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def frozen(self) -> Part:
        """What there is of it."""
        return Part(
            kind=self.kind,
            text="".join(self.pieces),
            tokens=self.tokens,
            seconds=self.seconds,
            call=self.call,
        )


class ChatSession:
    """One conversation. Not thread-safe: its owner serialises the calls.

    Attributes:
        system_prompt: Sent before all messages; empty for the model's own default.
    """

    def __init__(self, *, system_prompt: str = "") -> None:
        """Start empty."""
        self.system_prompt = system_prompt
        self._messages: list[Message] = []
        self._parts: list[_Growing] = []
        self._part_ended_s = 0.0
        self._sent: list[list[int]] = []
        """For each message of the last prompt, which of ours it is made of."""
        self._turn = 0
        self._running = False
        self._tokens = 0
        self._sent_at = 0.0
        self._first_token_s: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, a running answer last."""
        if self._running:
            return (*self._messages, self._answer(Outcome.RUNNING, None))
        return tuple(self._messages)

    @property
    def running(self) -> bool:
        """True between `begin` and the end of the turn."""
        return self._running

    @property
    def turn(self) -> int:
        """Number of the last turn begun; 0 if none was."""
        return self._turn

    def clear(self) -> ConversationCleared:
        """Forget all messages; a running turn's late events are ignored from now on."""
        self._messages.clear()
        self._parts.clear()
        self._part_ended_s = 0.0
        self._running = False
        return ConversationCleared()

    def begin(self, text: str, *, now_s: float) -> TurnStarted:
        """Add the user's message and await an answer; `now_s` is a monotonic clock's time."""
        user = Message(role=Role.USER, text=text)
        self._messages.append(user)
        self._parts.clear()
        self._part_ended_s = 0.0
        self._turn += 1
        self._running = True
        self._tokens = 0
        self._sent_at = now_s
        self._first_token_s = None
        return TurnStarted(turn=self._turn, user=user)

    def prompt(self) -> tuple[protocol.ChatMessage, ...]:
        """The conversation for the engine.

        Answers that say nothing are left out and neighbours of one role joined, since many
        templates insist on alternating roles. Reasoning goes beside the text: it is the
        template that keeps or drops it.
        """
        result: list[protocol.ChatMessage] = []
        self._sent = []
        if self.system_prompt.strip():
            result.append(protocol.ChatMessage(role="system", content=self.system_prompt))
            self._sent.append([])
        for index, message in enumerate(self._messages):
            if message.dropped or not (message.text or message.tool_calls):
                continue
            role: Literal["user", "assistant"] = (
                "user" if message.role is Role.USER else "assistant"
            )
            if result and result[-1].role == role:
                joined = f"{result[-1].content}\n\n{message.text}"
                result[-1] = result[-1].model_copy(update={"content": joined})
                self._sent[-1].append(index)
            else:
                self._sent.append([index])
                result.append(
                    protocol.ChatMessage(
                        role=role,
                        content=message.text,
                        reasoning_content=message.reasoning.strip(),
                        tool_calls=message.tool_calls,
                    )
                )
        return tuple(result)

    def receive(self, event: TurnProgressed | TurnEnded, *, now_s: float) -> ChatEvent | None:
        """Take in what the engine said; None if it concerns a turn that is no longer awaited."""
        match event:
            case TurnProgressed(message=message):
                if not self._running or message.turn != self._turn:
                    return None
                return self._progress(message, now_s)
            case TurnEnded():
                if not self._running or event.turn != self._turn:
                    return None
                return self._end(event)
        assert_never(event)

    def _progress(
        self, message: protocol.PrefillProgressed | protocol.TokensGenerated, now_s: float
    ) -> ChatEvent:
        if isinstance(message, protocol.PrefillProgressed):
            self._drop(message.dropped)
            return PromptRead(
                turn=message.turn,
                done=message.done,
                total=message.total,
                reused=message.reused,
                dropped=sum(m.dropped for m in self._messages),
            )
        if self._first_token_s is None:
            self._first_token_s = now_s - self._sent_at
        self._extend(message)
        self._tokens += message.tokens
        return AnswerExtended(
            turn=message.turn,
            text=message.text,
            tokens=self._tokens,
            elapsed_s=message.elapsed_s,
            first_token_s=self._first_token_s,
            context_used=message.context_used,
            part=message.part,
            call=message.call,
        )

    def _drop(self, sent: tuple[int, ...]) -> None:
        """Mark what the engine left out of the prompt, so that later prompts leave it out as well."""
        for index in (own for number in sent for own in self._sent[number]):
            self._messages[index] = dataclasses.replace(self._messages[index], dropped=True)

    def _extend(self, message: protocol.TokensGenerated) -> None:
        last = self._parts[-1] if self._parts else None
        if last is None or last.kind is not message.part or message.call or last.call:
            last = _Growing(kind=message.part, call=message.call)
            self._parts.append(last)
        last.pieces.append(message.text)
        last.tokens += message.tokens
        last.seconds += message.elapsed_s - self._part_ended_s
        self._part_ended_s = message.elapsed_s

    def _answer(self, outcome: Outcome, stats: TurnStats | None) -> Message:
        parts = tuple(part.frozen() for part in self._parts)
        text = "".join(part.text for part in parts if part.kind is PartKind.TEXT)
        return Message(role=Role.ASSISTANT, text=text, outcome=outcome, stats=stats, parts=parts)

    def _end(self, event: TurnEnded) -> TurnFinished:
        finished = event.finished
        answer = self._answer(
            _OUTCOMES[finished.reason] if finished else Outcome.INTERRUPTED,
            _stats(finished) if finished else None,
        )
        self._messages.append(answer)
        self._parts.clear()
        self._running = False
        return TurnFinished(turn=event.turn, answer=answer, error=event.error)


def _stats(finished: protocol.TurnFinished) -> TurnStats:
    return TurnStats(
        tokens=finished.generated_tokens,
        tokens_per_second=finished.tokens_per_second,
        first_token_s=finished.first_token_s,
        prompt_tokens=finished.prompt_tokens,
        prompt_s=finished.prefill_s,
        reasoning_tokens=finished.reasoning_tokens,
        reasoning_s=finished.reasoning_s,
        reused_tokens=finished.reused_tokens,
        context_used=finished.context_used,
        context=finished.context,
    )
