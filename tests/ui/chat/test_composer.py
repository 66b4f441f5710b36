"""The editor of a message."""

from __future__ import annotations

from PySide6.QtCore import QMimeData
from PySide6.QtGui import QTextOption
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


def test_a_megabyte_without_a_space_is_pasted_at_once(qtbot: QtBot) -> None:
    composer = Composer()
    qtbot.addWidget(composer)
    composer.show()
    pasted = QMimeData()
    pasted.setText("x" * 300_000)  # breaking it between words would take longer than the test may
    composer.insertFromMimeData(pasted)
    assert composer.wordWrapMode() is QTextOption.WrapMode.WrapAnywhere
    assert len(composer.toPlainText()) == 300_000
    composer.clear()
    assert composer.wordWrapMode() is QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere
