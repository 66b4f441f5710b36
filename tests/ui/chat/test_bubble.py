"""One message in the transcript."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from app.chat.events import AnswerExtended, TurnFinished
from app.chat.message import Message, Outcome, Part, Role
from app.engine.protocol import PartKind, ToolCall
from ui.chat.blocks import CodeCard
from ui.chat.bubble import Bubble
from ui.chat.transcript import Transcript


@pytest.mark.parametrize("text", ["x" * 300_000, "a line\n" * 2_000])
def test_a_long_paste_is_folded_and_can_be_seen_whole(qtbot: QtBot, text: str) -> None:
    bubble = Bubble(user=True)
    qtbot.addWidget(bubble)
    bubble.show()
    bubble.set_text(text)
    assert bubble.fold.text() == f"Show all {len(text):,} characters"
    assert len(bubble._text.toPlainText()) < 5_000
    bubble.fold.click()
    assert bubble._text.toPlainText() == text
    bubble.fold.click()
    assert bubble._text.toPlainText().endswith("...")
    bubble.set_text("short")
    assert not bubble.fold.isVisible()
    assert bubble._text.toPlainText() == "short"


def test_a_tool_call_is_shown_while_it_comes_and_once(qtbot: QtBot) -> None:
    transcript = Transcript()
    qtbot.addWidget(transcript)
    call = ToolCall(name="add", arguments={"a": 1, "b": "zwei"})
    transcript.start(Message(role=Role.USER, text="1 + 2?"))
    transcript.extend(
        AnswerExtended(
            turn=1, text="", tokens=9, elapsed_s=1.0, first_token_s=0.1, context_used=20,
            part=PartKind.TOOL_CALL, call=call,
        )
    )  # fmt: skip
    (card,) = transcript.findChildren(CodeCard)
    assert card._language.text() == "Tool call, not run: add"
    assert '"zwei"' in card._view.toPlainText()
    parts = (Part(kind=PartKind.TOOL_CALL, text="", tokens=9, seconds=1.0, call=call),)
    answer = Message(role=Role.ASSISTANT, text="", outcome=Outcome.COMPLETE, parts=parts)
    transcript.finish(TurnFinished(turn=1, answer=answer), resumable=False)
    assert transcript.findChildren(CodeCard) == [card]
