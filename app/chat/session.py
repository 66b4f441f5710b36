"""The chat in progress: its messages, and one turn at a time."""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

from app.chat.events import (
    AnswerExtended,
    AnswerResumed,
    ChatEvent,
    ConversationCleared,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
    TurnStarted,
)
from app.chat.message import Message, Outcome, Part, Role, Summary, TurnStats
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.engine.overflow import summary_turn
from app.engine.protocol import PartKind

_OUTCOMES = {
    "stop": Outcome.COMPLETE,
    "cancelled": Outcome.STOPPED,
    "length": Outcome.TRUNCATED,
    "context": Outcome.FULL,
}


@dataclasses.dataclass(slots=True, kw_only=True)
class _Growing:
    """A part while it arrives: thousands of pieces, joined once."""

    kind: PartKind
    call: protocol.ToolCall | None
    pieces: list[str] = dataclasses.field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, part: Part) -> _Growing:
        """One that goes on."""
        return cls(
            kind=part.kind,
            call=part.call,
            pieces=[part.text],
            tokens=part.tokens,
            seconds=part.seconds,
        )

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
        self._summaries: list[Summary] = []
        self._parts: list[_Growing] = []
        self._part_ended_s = 0.0
        self._sent: list[list[int]] = []
        """For each message of the last prompt, which of ours it is made of."""
        self._turn = 0
        self._running = False
        self._resumed: Message | None = None
        self._tokens = self._reasoning_tokens = 0
        self._sent_at = 0.0
        self._first_token_s: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, a running answer last."""
        if self._running:
            return (*self._messages, self._answer(Outcome.RUNNING, None))
        return tuple(self._messages)

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """All that were written; only the last one is in the prompt, since it includes the others."""
        return tuple(self._summaries)

    @property
    def running(self) -> bool:
        """True between `begin` and the end of the turn."""
        return self._running

    @property
    def turn(self) -> int:
        """Number of the last turn begun; 0 if none was."""
        return self._turn

    @property
    def resumable(self) -> bool:
        """True if the last answer was cut off and can go on, or begin where it said nothing."""
        last = self._messages[-1] if self._messages and not self._running else None
        ended = (Outcome.RUNNING, Outcome.COMPLETE)
        return last is not None and not last.tool_calls and last.outcome not in ended

    def clear(self) -> ConversationCleared:
        """Forget all messages; a running turn's late events are ignored from now on."""
        self._messages.clear()
        self._summaries.clear()
        self._parts.clear()
        self._running = False
        return ConversationCleared()

    def begin(self, text: str, *, now_s: float) -> TurnStarted:
        """Add the user's message and await an answer; `now_s` is a monotonic clock's time."""
        user = Message(role=Role.USER, text=text)
        self._messages.append(user)
        self._await(None, now_s)
        return TurnStarted(turn=self._turn, user=user)

    def resume(self, *, now_s: float) -> AnswerResumed | None:
        """Await the rest of the last answer; None if that cannot go on."""
        if not self.resumable:
            return None
        answer = self._messages.pop()
        self._await(answer, now_s)
        return AnswerResumed(turn=self._turn, answer=answer)

    def _await(self, resumed: Message | None, now_s: float) -> None:
        self._resumed = resumed
        self._parts = [_Growing.of(part) for part in resumed.parts] if resumed else []
        self._part_ended_s = 0.0
        self._turn += 1
        self._running = True
        self._tokens = self._reasoning_tokens = 0
        self._sent_at = now_s
        self._first_token_s = None

    def prompt(self) -> tuple[protocol.ChatMessage, ...]:
        """The conversation for the engine, an answer that goes on last.

        Answers that say nothing are left out and neighbours of one role joined, since many
        templates insist on alternating roles. Reasoning goes beside the text: it is the
        template that keeps or drops it.
        """
        result: list[protocol.ChatMessage] = []
        self._sent = []
        if self.system_prompt.strip():
            self._write(result, protocol.ChatMessage(role="system", content=self.system_prompt))
        summary = self._summaries[-1] if self._summaries else None
        goes_on = [self._resumed] if self._resumed is not None else []
        for index, message in enumerate([*self._messages, *goes_on]):
            if summary is not None and message.summarised:
                for each in summary_turn(summary.text):
                    self._write(result, each)
                summary = None
            says = message.text or message.tool_calls or message is self._resumed
            if message.dropped or not says:
                continue
            role: Literal["user", "assistant"] = (
                "user" if message.role is Role.USER else "assistant"
            )
            written = protocol.ChatMessage(
                role=role,
                content=message.text,
                reasoning_content=message.reasoning.strip(),
                tool_calls=message.tool_calls,
            )
            self._write(result, written, index)
        return tuple(result)

    def _write(
        self,
        prompt: list[protocol.ChatMessage],
        message: protocol.ChatMessage,
        index: int | None = None,
    ) -> None:
        """Add a message, made of ours at `index`, or join it to the last one of the same role."""
        own = [] if index is None else [index]
        if prompt and prompt[-1].role == message.role:
            joined = f"{prompt[-1].content}\n\n{message.content}"
            prompt[-1] = prompt[-1].model_copy(update={"content": joined})
            self._sent[-1] += own
        else:
            prompt.append(message)
            self._sent.append(own)

    def receive(self, event: TurnProgressed | TurnEnded, *, now_s: float) -> ChatEvent | None:
        """Take in what the engine said; None if it concerns a turn that is no longer awaited."""
        turn = event.turn if isinstance(event, TurnEnded) else event.message.turn
        if not self._running or turn != self._turn:
            return None
        if isinstance(event, TurnEnded):
            return self._end(event)
        match event.message:
            case protocol.PrefillProgressed() as message:
                return self._read(message)
            case protocol.SummaryProgressed() as message:
                return self._summarise(message)
            case protocol.TokensGenerated() as message:
                return self._extend(message, now_s)
        assert_never(event.message)

    def _read(self, message: protocol.PrefillProgressed) -> PromptRead:
        self._leave_out(message.dropped)
        gone = [index for index, m in enumerate(self._messages) if m.dropped]
        return PromptRead(
            turn=message.turn,
            done=message.done,
            total=message.total,
            reused=message.reused,
            dropped=len(gone),
            left_out=tuple(index for index in gone if not self._messages[index].summarised),
            cut=message.cut,
        )

    def _summarise(self, message: protocol.SummaryProgressed) -> TurnsSummarised:
        summary = None
        if message.text:
            own = self._leave_out(message.replaced, summarised=True)
            earlier = self._summaries[-1] if self._summaries else None
            summary = Summary(
                text=message.text,
                after=max([*own, earlier.after if earlier else 0]),
                messages=sum(m.summarised for m in self._messages),
                tokens=message.tokens,
                replaced_tokens=message.replaced_tokens,
            )
            self._summaries.append(summary)
        return TurnsSummarised(
            turn=message.turn,
            turns=message.turns,
            done=message.done,
            total=message.total,
            tokens=message.tokens,
            summary=summary,
            replaced=tuple(index for index, m in enumerate(self._messages) if m.summarised),
        )

    def _leave_out(self, sent: tuple[int, ...], *, summarised: bool = False) -> list[int]:
        """Mark what the engine left out of the prompt, so that later prompts leave it out as well."""
        own = [index for number in sent for index in self._sent[number]]
        for index in own:
            message = self._messages[index]
            marked = dataclasses.replace(message, dropped=True, summarised=summarised)
            self._messages[index] = message if message.dropped else marked
        return own

    def _extend(self, message: protocol.TokensGenerated, now_s: float) -> AnswerExtended:
        if self._first_token_s is None:
            self._first_token_s = now_s - self._sent_at
        written = self._unfinished_call()
        last = self._parts[-1] if self._parts else None
        if last is None or last.kind is not message.part or message.call or last.call:
            last = _Growing(kind=message.part, call=message.call)
            self._parts.append(last)
        last.pieces.append(message.text)
        last.tokens += message.tokens
        if written is not None:
            last.tokens += written.tokens
            last.seconds += written.seconds
        last.seconds += message.elapsed_s - self._part_ended_s
        self._part_ended_s = message.elapsed_s
        self._tokens += message.tokens
        if message.part is PartKind.REASONING:
            self._reasoning_tokens += message.tokens
        return AnswerExtended(
            turn=message.turn,
            text=message.text,
            tokens=self._tokens,
            elapsed_s=message.elapsed_s,
            first_token_s=self._first_token_s,
            context_used=message.context_used,
            part=message.part,
            call=message.call,
            reasoning_tokens=self._reasoning_tokens,
        )

    def _unfinished_call(self) -> _Growing | None:
        """Take away what was a call in the making: it is one now, still none, or text after all."""
        last = self._parts[-1] if self._parts else None
        if last is None or last.kind is not PartKind.TOOL_CALL or last.call is not None:
            return None
        return self._parts.pop()

    def _answer(self, outcome: Outcome, stats: TurnStats | None) -> Message:
        parts = tuple(part.frozen() for part in self._parts)
        text = "".join(part.text for part in parts if part.kind is PartKind.TEXT)
        return Message(role=Role.ASSISTANT, text=text, outcome=outcome, stats=stats, parts=parts)

    def _end(self, event: TurnEnded) -> TurnFinished | QuestionReturned:
        self._running = False
        self._unfinished_call()
        finished, resumed = event.finished, self._resumed
        self._resumed = None
        if event.context_full and event.error is not None and resumed is None:
            question = self._messages.pop()
            return QuestionReturned(
                turn=event.turn, text=question.text, error=event.error, tokens=event.tokens
            )
        answer = self._answer(
            _OUTCOMES[finished.reason] if finished else Outcome.INTERRUPTED,
            _stats(finished) if finished else None,
        )
        if resumed is not None and self._tokens == 0 and answer.outcome is not Outcome.COMPLETE:
            answer = dataclasses.replace(resumed, stats=answer.stats or resumed.stats)
        self._messages.append(answer)
        self._parts = []
        return TurnFinished(
            turn=event.turn, answer=answer, error=event.error, context_full=event.context_full
        )


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
        kept_for_reply=finished.kept_for_reply,
    )
