from __future__ import annotations

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton, QTextBrowser, QTextEdit
from pytestqt.qtbot import QtBot

from ui.chat.blocks import Answer, Block, CodeCard, Text, split
from ui.chat.highlight import spans


def test_fences_part_code_from_text_also_while_one_is_still_open() -> None:
    text = "Look:\n```python\nx = 1\n\ny = 2\n```\nDone.\n~~~\n``` inside\n"
    assert list(split(text)) == [
        Block("Look:\n"),
        Block("x = 1\n\ny = 2", "python"),
        Block("Done.\n"),
        Block("``` inside", ""),
    ]


def test_any_prefix_of_an_answer_keeps_its_words(qtbot: QtBot) -> None:
    answer = Answer()
    qtbot.addWidget(answer)
    text = "One *two*.\n\n```js\nlet three = 3;\n```\n\n| a | b |\n|---|---|\n| 4 | 5 |\n"
    first: Text | None = None
    for end in range(1, len(text) + 1):
        answer.set_markdown(text[:end])
        if end > len("One *two*.\n\n```js\n"):
            kept = answer.findChildren(Text)[0]
            assert first in (None, kept), "a block that is complete is not drawn again"
            first = kept
    card = answer.findChild(CodeCard)
    assert card is not None
    copy = card.findChild(QPushButton)
    assert copy is not None
    copy.click()
    assert QGuiApplication.clipboard().text() == "let three = 3;"
    shown = "".join(view.toPlainText() for view in answer.findChildren(QTextBrowser))
    assert "One two." in shown
    assert "5" in shown


def test_markup_of_a_model_is_never_html_and_loads_nothing(qtbot: QtBot) -> None:
    answer = Answer()
    qtbot.addWidget(answer)
    answer.set_markdown('<img src="file:///etc/hostname"> <b>x</b> ![p](http://127.0.0.1/p.png)')
    shown = answer.findChildren(QTextBrowser)[0]
    assert "<b>x</b>" in shown.toPlainText()


def test_code_is_coloured_and_unknown_languages_stay_plain() -> None:
    pieces = list(spans("def add(a):\n    return 'x'  # y\n", "python"))
    assert "".join(text for text, _ in pieces) == "def add(a):\n    return 'x'  # y\n"
    roles = dict(pieces)
    assert (roles["def"], roles["add"], roles["# y"]) == ("keyword", "function", "comment")
    assert list(spans("a <b>", "no such language")) == [("a <b>", "")]


def test_code_that_grows_looks_like_code_drawn_at_once(qtbot: QtBot) -> None:
    text = 'def add(a):\n    """Both\n    lines 👩."""\n    return "x"  # y\n\nprint(add(1))\n'
    grown, at_once = CodeCard(), CodeCard()
    for card in (grown, at_once):
        qtbot.addWidget(card)
    for end in range(1, len(text) + 1):
        grown.set_block(Block(text[:end], "python"))
    at_once.set_block(Block(text, "python"))
    shown = [card.findChild(QTextEdit) for card in (grown, at_once)]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[0].toPlainText() == text
    assert shown[0].toHtml() == shown[1].toHtml()
    grown.set_block(Block("x", "python"))
    assert shown[0].toPlainText() == "x"
