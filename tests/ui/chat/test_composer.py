"""The editor of a message."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from ui.chat.composer import MAX_LINES, Composer


def test_it_is_as_high_as_its_lines_also_once_they_wrap(qtbot: QtBot) -> None:
    composer = Composer()
    qtbot.addWidget(composer)
    composer.resize(1000, composer.height())
    composer.show()
    one = composer.height()
    composer.setPlainText("as long as this line is, it does not wrap here " * 2)
    assert composer.height() == one
    composer.resize(250, one)
    assert composer.height() > 2 * one - 20
    composer.resize(1000, one)
    assert composer.height() == one
    composer.setPlainText("line\n" * 30)
    assert composer.height() == MAX_LINES * composer.fontMetrics().lineSpacing() + 20
