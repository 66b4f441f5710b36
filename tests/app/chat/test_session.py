"""A conversation: what is shown, what goes to the model, and what both take."""

from __future__ import annotations

import pytest

from app.chat.events import AnswerExtended, PromptRead, TurnFinished
from app.chat.message import Outcome
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.engine.protocol import PartKind, ToolCall
from app.errors import AppError

CALL = ToolCall(name="add", arguments={"a": 1})


def progress(
    text: str, tokens: int, elapsed: float, part: PartKind = PartKind.TEXT, turn: int = 1
) -> TurnProgressed:
    return TurnProgressed(
        message=protocol.TokensGenerated(
            turn=turn, text=text, tokens=tokens, context_used=0, elapsed_s=elapsed, part=part,
            call=CALL if part is PartKind.TOOL_CALL else None,
        )
    )  # fmt: skip


def end(turn: int = 1, reason: protocol.EndReason = "stop") -> TurnEnded:
    finished = protocol.TurnFinished(
        turn=turn, reason=reason, prompt_tokens=100, reused_tokens=60, generated_tokens=9,
        prefill_s=0.5, first_token_s=0.6, generate_s=2.0, context_used=109, context=512,
        reasoning_tokens=5, reasoning_s=1.5,
    )  # fmt: skip
    return TurnEnded(turn=turn, finished=finished)


def test_an_answer_has_typed_parts_with_their_tokens_and_time() -> None:
    session = ChatSession(system_prompt="Be kind.")
    session.begin("What is 1 + 1?", now_s=0)
    read = session.receive(
        TurnProgressed(message=protocol.PrefillProgressed(turn=1, done=80, total=100, reused=60)),
        now_s=0.3,
    )
    assert read == PromptRead(turn=1, done=80, total=100, reused=60)
    session.receive(progress("hm", 2, 0.0, PartKind.REASONING), now_s=0.6)
    session.receive(progress(", two", 3, 1.5, PartKind.REASONING), now_s=2.1)
    said = session.receive(progress("Two", 1, 1.7), now_s=2.3)
    assert isinstance(said, AnswerExtended)
    assert (said.part, said.tokens, said.first_token_s) == (PartKind.TEXT, 6, 0.6)
    assert session.messages[-1].outcome is Outcome.RUNNING
    session.receive(progress(".", 1, 1.8), now_s=2.4)
    session.receive(progress("", 2, 2.0, PartKind.TOOL_CALL), now_s=2.6)
    done = session.receive(end(), now_s=2.7)
    assert isinstance(done, TurnFinished)
    answer = done.answer
    assert (answer.text, answer.reasoning, answer.tool_calls) == ("Two.", "hm, two", (CALL,))
    assert [(part.kind, part.tokens) for part in answer.parts] == [
        (PartKind.REASONING, 5),
        (PartKind.TEXT, 2),
        (PartKind.TOOL_CALL, 2),
    ]
    assert [part.seconds for part in answer.parts] == pytest.approx([1.5, 0.3, 0.2])
    stats = answer.stats
    assert stats is not None
    assert (stats.evaluated_tokens, stats.reused_tokens, stats.reasoning_tokens) == (40, 60, 5)
    assert stats.prompt_tokens_per_second == 80


@pytest.mark.parametrize(
    ("last", "kinds"),
    [
        (progress("", 3, 3.0, PartKind.TOOL_CALL), [(PartKind.TEXT, 1), (PartKind.TOOL_CALL, 9)]),
        (progress("<tool_call>{", 3, 3.0), [(PartKind.TEXT, 10)]),
        (None, [(PartKind.TEXT, 1)]),
    ],
)
def test_a_call_that_takes_long_to_write_is_one_part_or_none(
    last: TurnProgressed | None, kinds: list[tuple[PartKind, int]]
) -> None:
    """Meanwhile the worker tells how many tokens there are."""
    session = ChatSession()
    session.begin("Add.", now_s=0)
    session.receive(progress("Now.", 1, 0.0), now_s=0)
    alive = {"text": "", "tokens": 3, "context_used": 0, "part": PartKind.TOOL_CALL}
    for second in (1.0, 2.0):
        sign = protocol.TokensGenerated.model_validate({**alive, "turn": 1, "elapsed_s": second})
        session.receive(TurnProgressed(message=sign), now_s=second)
    if last is not None:
        session.receive(last, now_s=3)
    done = session.receive(end(), now_s=3)
    assert isinstance(done, TurnFinished)
    assert [(part.kind, part.tokens) for part in done.answer.parts] == kinds
    if last is not None:
        assert sum(part.seconds for part in done.answer.parts) == pytest.approx(3.0)


def test_reasoning_goes_beside_the_text_into_later_prompts() -> None:
    session = ChatSession(system_prompt="Be kind.")
    session.begin("q", now_s=0)
    session.receive(progress("\nhm\n", 2, 0.0, PartKind.REASONING), now_s=0)
    session.receive(progress("a", 1, 0.1), now_s=0)
    session.receive(end(), now_s=0)
    session.begin("p", now_s=0)
    system, question, answer, follow = session.prompt()
    assert (system.role, question.content, follow.content) == ("system", "q", "p")
    assert (answer.content, answer.reasoning_content) == ("a", "hm")


def test_what_had_arrived_outlives_a_crash_and_silence_is_left_out() -> None:
    session = ChatSession()
    session.begin("q", now_s=0)
    session.receive(progress("half", 1, 0.0), now_s=0)
    done = session.receive(TurnEnded(turn=1, error=AppError("gone")), now_s=0)
    assert isinstance(done, TurnFinished)
    assert (done.answer.text, done.answer.outcome) == ("half", Outcome.INTERRUPTED)
    session.begin("again", now_s=0)
    session.receive(progress("only thoughts", 1, 0.0, PartKind.REASONING, turn=2), now_s=0)
    session.receive(end(2, "cancelled"), now_s=0)
    assert session.messages[-1].reasoning == "only thoughts"
    session.begin("and now", now_s=0)
    assert [m.content for m in session.prompt()] == ["q", "half", "again\n\nand now"]
    assert session.receive(progress("late", 1, 0.0, turn=1), now_s=0) is None


def test_an_answer_that_was_stopped_before_its_first_word_can_be_asked_for_again() -> None:
    session = ChatSession()
    session.begin("Are you there?", now_s=0)
    session.receive(end(reason="cancelled"), now_s=1)
    assert session.resumable
    assert session.resume(now_s=2) is not None
    assert [(m.role, m.content) for m in session.prompt()] == [
        ("user", "Are you there?"),
        ("assistant", ""),
    ]
    session.receive(progress("Yes.", 2, 0.1, turn=2), now_s=3)
    session.receive(end(turn=2), now_s=4)
    assert [message.text for message in session.messages] == ["Are you there?", "Yes."]
    assert not session.resumable
