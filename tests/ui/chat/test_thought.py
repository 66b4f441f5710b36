from __future__ import annotations

import os
from pathlib import Path

from pytestqt.qtbot import QtBot

from app.chat.events import AnswerExtended, TurnFinished
from app.chat.message import Message, Part, Role, TurnStats
from app.engine.protocol import PartKind
from ui.chat.chat_view import ChatView
from ui.chat.thought import Thought

THOUGHT = "The person wants a sum. Two and two are four."


def extended(text: str, kind: PartKind) -> AnswerExtended:
    return AnswerExtended(
        turn=1, text=text, tokens=4, elapsed_s=0.2, first_token_s=0.1, context_used=9, part=kind
    )


def test_reasoning_is_open_while_it_runs_and_folds_when_the_answer_is_there(qtbot: QtBot) -> None:
    view = ChatView()
    qtbot.addWidget(view)
    view.resize(900, 600)
    view.show()
    view.start_turn(Message(role=Role.USER, text="2 + 2?"))
    view.extend(extended(THOUGHT, PartKind.REASONING))
    (thought,) = view.findChildren(Thought)
    qtbot.waitUntil(thought.isVisible)
    assert thought.body.isVisible()
    assert thought.body.toPlainText() == THOUGHT
    view.extend(extended("Four.", PartKind.TEXT))
    parts = (
        Part(kind=PartKind.REASONING, text=THOUGHT, tokens=12, seconds=1.5),
        Part(kind=PartKind.TEXT, text="Four.", tokens=2, seconds=0.1),
    )
    stats = TurnStats(
        tokens=14, tokens_per_second=9.0, first_token_s=0.1, prompt_tokens=30, reused_tokens=20,
        context_used=44, context=512, reasoning_tokens=12, reasoning_s=1.5,
    )  # fmt: skip
    answer = Message(role=Role.ASSISTANT, text="Four.", parts=parts, stats=stats)
    view.finish_turn(TurnFinished(turn=1, answer=answer))
    assert not thought.body.isVisible()
    assert "12 tokens" in thought.head.text()
    thought.head.click()
    assert thought.body.isVisible()
    if folder := os.environ.get("PICTURES"):
        view.grab().save(str(Path(folder) / "thought.png"))
    view.start_turn(Message(role=Role.USER, text="And 3?"))
    view.extend(extended("Five.", PartKind.TEXT))
    plain = Message(role=Role.ASSISTANT, text="Five.", stats=stats)
    view.finish_turn(TurnFinished(turn=2, answer=plain))
    assert not view.findChildren(Thought)[-1].isVisible()
