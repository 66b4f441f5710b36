"""One message in the transcript."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from ui.chat.bubble import Bubble


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
