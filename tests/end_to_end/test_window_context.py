"""A conversation outgrows its context in the real window, with the real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState
from app.service import AppService
from app.settings.model import Overflow, Settings
from ui.chat.bubble import Bubble
from ui.chat.marks import LeftOutLine, SummaryMark
from ui.main_window import MainWindow

TIMEOUT_MS = 90_000
FACT = (
    "Remember: the lamp of lighthouse number {0} is lit at {0} minutes past six, and put out at dawn."
    " Its keeper is called Anna, she has {0} cats, and a boat that is as blue as the sea in summer."
)


@pytest.fixture
def service() -> Iterator[AppService]:
    service = AppService()
    service.settings = Settings(
        context=512, threads=1, reply_reserve=64, sampling={"temperature": 0}
    )
    yield service
    service.close()


def texts(window: MainWindow) -> list[str]:
    return [
        bubble.text for bubble in window.chat.findChildren(Bubble) if bubble.isVisibleTo(window)
    ]


def test_each_way_out_of_a_full_context(qtbot: QtBot, service: AppService) -> None:
    window = MainWindow(service)
    qtbot.addWidget(window)
    window.show()
    window.show_page("Chat")
    chat = window.chat

    def idle() -> bool:
        return not service.chat.running and not chat._running and chat._send.isEnabled()

    def ask(text: str) -> None:
        before = service.chat.turn
        service.chat.send(text, max_tokens=8)
        qtbot.waitUntil(lambda: service.chat.turn > before and idle(), timeout=TIMEOUT_MS)

    def ask_until_returned(first: int) -> int:
        for number in range(first, first + 12):
            ask(FACT.format(number))
            if chat.composer.toPlainText():
                return number
        raise AssertionError("the context never was full")

    def all_is_shown() -> None:
        assert texts(window) == [message.text for message in service.chat.messages]

    service.start(load=True)
    qtbot.waitUntil(
        lambda: service.engine.loaded is not None and service.engine.state is EngineState.READY,
        timeout=TIMEOUT_MS,
    )
    qtbot.waitUntil(chat._send.isEnabled, timeout=TIMEOUT_MS)
    number = ask_until_returned(0)
    assert chat.composer.toPlainText() == FACT.format(number)
    assert "Your question is kept below." in chat.context_line.text.text()
    all_is_shown()
    qtbot.waitUntil(
        lambda: chat.context_line.enlarge.text() == "Enlarge to 1,024", timeout=TIMEOUT_MS
    )

    chat.context_line.actions_of[Overflow.DROP_OLDEST].trigger()
    before = service.chat.turn
    qtbot.keyClick(chat.composer, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: service.chat.turn > before and idle(), timeout=TIMEOUT_MS)
    (line,) = chat.findChildren(LeftOutLine)
    dropped = sum(message.dropped for message in service.chat.messages)
    assert line.text.text() == f"Left out of the prompt: {dropped} messages above"
    stats = service.chat.messages[-1].stats
    assert stats is not None
    assert stats.reused_tokens > stats.evaluated_tokens, "the KV cache was moved"
    assert f"read {stats.evaluated_tokens:,}, kept {stats.reused_tokens:,}" in chat._meter.text()
    all_is_shown()

    chat.context_line.actions_of[Overflow.SUMMARISE].trigger()
    for extra in range(number + 1, number + 9):
        if not service.chat.summaries:
            ask(FACT.format(extra))
    assert len(chat.findChildren(SummaryMark)) == 1
    all_is_shown()

    chat.context_line.actions_of[Overflow.STOP].trigger()
    number = ask_until_returned(50)
    chat.context_line.enlarge.click()
    qtbot.waitUntil(
        lambda: service.chat.messages[-2].text == FACT.format(number) and idle(), timeout=TIMEOUT_MS
    )
    assert service.engine.loaded is not None
    assert service.engine.loaded.loaded.context == 1024
    assert service.chat.messages[-1].text
    assert not chat.composer.toPlainText()
    all_is_shown()
