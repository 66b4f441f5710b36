"""The real window on a real engine that hangs, or that does not put the model where it should."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from app.engine import protocol
from app.engine.model import EngineState
from app.engine.supervisor import EngineSupervisor
from app.service import AppService
from app.service import engine as engine_service
from app.settings.model import Settings
from app.settings.requests import load_command
from tests.end_to_end.test_window import open_window, wait_ready
from tests.helpers.rpc import rpc_servers
from ui.main_window import MainWindow

TIMEOUT_MS = 90_000
STALL_S = 0.5


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[AppService]:
    impatient = functools.partial(EngineSupervisor, stall_s=STALL_S)
    monkeypatch.setattr(engine_service, "EngineSupervisor", impatient)
    service = AppService()
    yield service
    service.close()


def ask(qtbot: QtBot, window: MainWindow, text: str) -> None:
    before = len(window._service.chat.messages)
    qtbot.keyClicks(window.chat.composer, text)
    qtbot.keyClick(window.chat.composer, Qt.Key.Key_Return)
    qtbot.waitUntil(
        lambda: len(window._service.chat.messages) == before + 2 and bool(window._service.chat.messages[-1].text),
        timeout=TIMEOUT_MS,
    )  # fmt: skip


def test_a_hang_asks_goes_on_when_it_does_and_is_ended_with_one_click(
    qtbot: QtBot, service: AppService
) -> None:
    service.settings = Settings(context=2048, sampling={"ignore_end": True})
    window = open_window(qtbot, service)
    service.start(load=True)
    wait_ready(qtbot, window, service)
    window.show_page("Chat")
    ask(qtbot, window, "Tell a very long story.")
    worker = psutil.Process(service.engine.pid)
    worker.suspend()
    question = window.chat.question
    qtbot.waitUntil(question.isVisible, timeout=TIMEOUT_MS)
    assert "Nothing heard for" in question.text.text()
    qtbot.waitUntil(lambda: "does not compute" in question.text.text(), timeout=TIMEOUT_MS)
    assert not window.launcher.status.question.isHidden()
    shown = len(service.chat.messages[-1].text)
    worker.resume()
    qtbot.waitUntil(lambda: not question.isVisible(), timeout=TIMEOUT_MS)
    qtbot.waitUntil(lambda: len(service.chat.messages[-1].text) > shown, timeout=TIMEOUT_MS)
    worker.suspend()
    qtbot.waitUntil(question.isVisible, timeout=TIMEOUT_MS)
    assert worker.is_running(), "nobody ended it"
    text = service.chat.messages[-1].text
    question.accept.click()
    qtbot.waitUntil(lambda: service.engine.state is EngineState.STOPPED, timeout=TIMEOUT_MS)
    qtbot.waitUntil(lambda: not question.isVisible(), timeout=TIMEOUT_MS)
    assert not worker.is_running()
    assert service.chat.messages[-1].text.startswith(text), "what was shown stays"
    qtbot.waitUntil(window.chat.trouble.isVisible, timeout=TIMEOUT_MS)
    assert "since nothing was heard of it" in window.chat.trouble.text.text()
    window.chat.trouble.buttons[0].click()
    wait_ready(qtbot, window, service)
    ask(qtbot, window, "Name a colour.")


def test_weights_that_spill_raise_an_alarm_that_stays(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: object) -> protocol.Load:
        command = load_command(*arguments)  # type: ignore[arg-type]
        return command.model_copy(update={"gpu_layers": 4, "tensor_split": (4,)})

    monkeypatch.setattr(engine_service, "load_command", wrong)
    with rpc_servers(1) as endpoints:
        service.settings = Settings(rpc_servers=endpoints, context=512)
        window = open_window(qtbot, service)
        service.start(load=True)
        wait_ready(qtbot, window, service)
        alarms = window.launcher.status.alarm, window.chat.alarm
        for page, alarm in zip(("Machine", "Chat"), alarms, strict=True):
            window.show_page(page)
            qtbot.waitUntil(alarm.isVisible, timeout=TIMEOUT_MS)
            assert "lie in main memory" in alarm.text.text()
            assert alarm.findChild(QLabel) is not None
            assert alarm.text.property("state") == "error"
        ask(qtbot, window, "Name a colour.")
        assert window.chat.alarm.isVisible(), "an answer does not take it away"
        window.chat.alarm.action.click()
        assert window.dialog is not None
        window.dialog.close()
        monkeypatch.setattr(engine_service, "load_command", load_command)
        service.engine.load()
        qtbot.waitUntil(lambda: not window.chat.alarm.isVisible(), timeout=TIMEOUT_MS)
        wait_ready(qtbot, window, service)
        service.engine.unload()
        qtbot.waitUntil(lambda: service.engine.state is EngineState.STOPPED, timeout=TIMEOUT_MS)
