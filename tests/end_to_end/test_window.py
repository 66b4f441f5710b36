"""The real window on the real engine, driven as a person would."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QInputMethodEvent
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState
from app.plan.model import KvCacheType, Objective
from app.service import AppService
from app.settings.model import Settings, SplitMode
from tests.helpers.rpc import rpc_servers
from ui import theme
from ui.chat.bubble import Bubble
from ui.chat.model_button import SAVE_UNLOAD
from ui.main_window import MainWindow
from ui.theme.tokens import DARK, LIGHT

TIMEOUT_MS = 90_000


@pytest.fixture
def service() -> Iterator[AppService]:
    service = AppService()
    yield service
    service.close()


def open_window(qtbot: QtBot, service: AppService) -> MainWindow:
    window = MainWindow(service)
    qtbot.addWidget(window)
    window.show()
    return window


def wait_ready(qtbot: QtBot, window: MainWindow, service: AppService) -> None:
    qtbot.waitUntil(
        lambda: service.engine.loaded is not None and service.engine.state is EngineState.READY,
        timeout=TIMEOUT_MS,
    )
    qtbot.waitUntil(lambda: window.chat._send.isEnabled(), timeout=TIMEOUT_MS)


def answers(window: MainWindow) -> list[str]:
    return [b.text for b in window.chat.findChildren(Bubble) if not b.user]


def ask(qtbot: QtBot, window: MainWindow, text: str) -> None:
    qtbot.keyClicks(window.chat.composer, text)
    qtbot.keyClick(window.chat.composer, Qt.Key.Key_Return)


def wait_answered(qtbot: QtBot, window: MainWindow, messages: int) -> None:
    service = window._service

    def answered() -> bool:
        done = (
            len(service.chat.messages) == messages
            and service.chat.messages[-1].outcome != "running"
        )
        return done and not window.chat._running

    qtbot.waitUntil(answered, timeout=TIMEOUT_MS)


def stop_after_a_word(qtbot: QtBot, window: MainWindow, messages: int) -> None:
    """A whole answer can take minutes where other things run on the machine."""
    service = window._service
    qtbot.waitUntil(
        lambda: len(service.chat.messages) == messages and bool(service.chat.messages[-1].text),
        timeout=TIMEOUT_MS,
    )
    window.chat._send.click()
    wait_answered(qtbot, window, messages)


def test_ask_stop_ask_again_move_layers_reload_ask_again(qtbot: QtBot, service: AppService) -> None:
    with rpc_servers(2) as endpoints:
        service.settings = Settings(rpc_servers=endpoints, context=512)
        window = open_window(qtbot, service)
        service.start(load=True)
        wait_ready(qtbot, window, service)
        assert window.launcher.outcome.verdict.text().startswith(
            "Runs on this machine: Q4_1, 512 tokens"
        )
        assert window.launcher._primary.text() == "Open chat"
        window.launcher._primary.click()
        ask(qtbot, window, "Tell a very long story.")
        qtbot.waitUntil(
            lambda: bool(answers(window)[-1:] and answers(window)[-1]), timeout=TIMEOUT_MS
        )
        assert window.chat._send.text() == "Stop"
        window.chat._send.click()
        wait_answered(qtbot, window, 2)
        assert service.chat.messages[-1].outcome == "stopped"
        assert "tok/s" in window.chat._meter.text()

        window.open_split()
        dialog = window.dialog
        assert dialog is not None
        dialog._rows[0].number.setValue(7)
        assert [row.number.value() for row in dialog._rows] == [7, 24]
        assert dialog.mode is SplitMode.MANUAL
        service.engine.loaded = None
        dialog.apply_button.click()
        wait_ready(qtbot, window, service)
        assert service.engine.loaded is not None
        counts = {m.device: m.layer_count for m in service.engine.loaded.loaded.memory}
        assert (counts["RPC0"], counts["RPC1"]) == (7, 24)
        ask(qtbot, window, "Name a colour.")
        wait_answered(qtbot, window, 4)
        assert service.chat.messages[-1].text


def test_kill_9_keeps_window_and_partial_answer_and_one_click_reloads(
    qtbot: QtBot, service: AppService
) -> None:
    service.settings = Settings(context=512)
    window = open_window(qtbot, service)
    service.start(load=True)
    wait_ready(qtbot, window, service)
    window.show_page("Chat")
    ask(qtbot, window, "Tell a very long story.")
    qtbot.waitUntil(lambda: bool(answers(window)[-1:] and answers(window)[-1]), timeout=TIMEOUT_MS)
    qtbot.keyClicks(window.chat.composer, "draft")
    assert service.engine.pid is not None
    os.kill(service.engine.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: service.engine.state is EngineState.CRASHED, timeout=TIMEOUT_MS)
    qtbot.waitUntil(window.chat.trouble.isVisible, timeout=TIMEOUT_MS)
    assert "SIGKILL" in window.chat.trouble.text.text()
    assert service.chat.messages[-1].outcome == "interrupted"
    assert service.chat.messages[-1].text == answers(window)[-1]
    assert window.chat.composer.toPlainText() == "draft"
    window.chat.trouble.buttons[0].click()
    wait_ready(qtbot, window, service)
    qtbot.keyClick(window.chat.composer, Qt.Key.Key_Return)
    stop_after_a_word(qtbot, window, 4)
    assert service.chat.messages[-1].text


def test_a_bad_file_is_named_and_the_draft_stays(
    qtbot: QtBot, service: AppService, tmp_path: Path
) -> None:
    window = open_window(qtbot, service)
    service.start()
    qtbot.waitUntil(window.launcher._primary.isEnabled, timeout=TIMEOUT_MS)
    qtbot.keyClicks(window.chat.composer, "draft")
    (tmp_path / "bad.gguf").write_bytes(b"nothing")
    window.launcher.file_dropped.emit(str(tmp_path / "bad.gguf"))
    qtbot.waitUntil(lambda: "bad.gguf" in window.launcher._status.text(), timeout=TIMEOUT_MS)
    assert window.chat.composer.toPlainText() == "draft"


def test_enter_sends_but_never_while_an_input_method_composes(
    qtbot: QtBot, service: AppService
) -> None:
    window = open_window(qtbot, service)
    composer = window.chat.composer
    sent: list[bool] = []
    composer.submitted.connect(lambda: sent.append(True))
    qtbot.keyClicks(composer, "a")
    qtbot.keyClick(composer, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert composer.toPlainText() == "a\n"
    composer.inputMethodEvent(QInputMethodEvent("に", []))
    qtbot.keyClick(composer, Qt.Key.Key_Return)
    assert not sent
    composer.inputMethodEvent(QInputMethodEvent("", []))
    qtbot.keyClick(composer, Qt.Key.Key_Return)
    assert sent


def test_another_context_is_planned_at_once_and_loaded_when_asked(
    qtbot: QtBot, service: AppService
) -> None:
    service.settings = Settings(context=1024)
    window = open_window(qtbot, service)
    service.start(load=True, meters=True)
    wait_ready(qtbot, window, service)
    launcher = window.launcher
    qtbot.waitUntil(lambda: "busy" in launcher.strip._cells[-1][1].facts.text(), timeout=TIMEOUT_MS)
    launcher._options._slider.setValue(4)
    qtbot.waitUntil(lambda: launcher._primary.text() == "Reload with this plan", timeout=TIMEOUT_MS)
    assert "2,048 tokens" in launcher.outcome.verdict.text()
    assert service.engine.loaded is not None
    assert service.engine.loaded.loaded.context == 1024, "what is loaded stays until a person asks"
    launcher._options._types.chosen.emit("q8_0")
    qtbot.waitUntil(lambda: "fit with q8_0" in launcher._options._limit.text(), timeout=TIMEOUT_MS)
    launcher._primary.click()
    qtbot.waitUntil(
        lambda: service.engine.loaded is not None and service.engine.loaded.loaded.context == 2048,
        timeout=TIMEOUT_MS,
    )
    qtbot.waitUntil(lambda: launcher._primary.text() == "Open chat", timeout=TIMEOUT_MS)
    assert "planned" in window.chat.strip._cells["host"].live.text()
    launcher.diagnostics_clicked.emit()
    copied = QGuiApplication.clipboard().text()
    assert "--- engine" in copied
    assert "llama-cpp-python" in copied


def test_a_model_that_does_not_fit_says_what_is_short_and_cannot_be_loaded(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = psutil.virtual_memory()
    small = real._replace(total=256 * 2**20, available=120 * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    window = open_window(qtbot, service)
    service.start(load=True)
    launcher = window.launcher
    qtbot.waitUntil(lambda: "does not fit" in launcher._status.text(), timeout=TIMEOUT_MS)
    assert launcher.outcome.verdict.text().startswith("Does not fit: Main memory lacks")
    assert service.planning.plan is not None
    assert service.planning.plan.remedies
    assert not launcher._primary.isEnabled()


def test_one_click_on_what_would_help_makes_it_fit(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = psutil.virtual_memory()
    small = real._replace(total=2**30, available=800 * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    service.settings = Settings(context=8192)
    window = open_window(qtbot, service)
    service.start()
    outcome = window.launcher.outcome
    qtbot.waitUntil(lambda: bool(outcome.findChildren(QPushButton)), timeout=TIMEOUT_MS)
    assert outcome.verdict.text().startswith("Does not fit")
    outcome.findChildren(QPushButton)[0].click()
    qtbot.waitUntil(
        lambda: outcome.verdict.text().startswith("Runs on this machine"), timeout=TIMEOUT_MS
    )
    assert service.settings.kv_type_k is service.settings.kv_type_v is not KvCacheType.F16
    assert service.settings.context == 8192, "what a person chose stays"


def test_llama_cpp_confirms_the_plan_and_the_split_shows_the_exact_one(
    qtbot: QtBot, service: AppService
) -> None:
    with rpc_servers(2) as endpoints:
        service.settings = Settings(rpc_servers=endpoints, context=2048)
        window = open_window(qtbot, service)
        service.start()
        card = window.launcher.card
        qtbot.waitUntil(lambda: card.footnote.text().startswith("Computed"), timeout=TIMEOUT_MS)
        card.confirm.click()
        qtbot.waitUntil(lambda: card.footnote.text().startswith("Confirmed"), timeout=TIMEOUT_MS)
        assert service.engine.loaded is None, "nothing is loaded for that"
        window.open_split()
        dialog = window.dialog
        assert dialog is not None
        dialog.choices.objective.setCurrentIndex(
            dialog.choices.objective.findData(Objective.FEWEST)
        )
        qtbot.waitUntil(lambda: "up to 8,192 fit" in dialog._facts.text(), timeout=TIMEOUT_MS)
        dialog.apply_button.click()
        wait_ready(qtbot, window, service)
        assert service.engine.loaded is not None
        counts = [m.layer_count for m in service.engine.loaded.loaded.memory if m.device != "CPU"]
        assert sorted(counts)[-1] == 31, "all on one device"
        qtbot.waitUntil(lambda: "Loaded: " in card.footnote.text(), timeout=TIMEOUT_MS)


def test_a_disk_that_cannot_take_the_settings_is_named_and_the_change_holds(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = open_window(qtbot, service)
    service.start()
    qtbot.waitUntil(window.launcher._primary.isEnabled, timeout=TIMEOUT_MS)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    window.launcher.context_chosen.emit(512)
    qtbot.waitUntil(lambda: "No space left" in window.launcher._status.text(), timeout=TIMEOUT_MS)
    assert service.planning.plan is not None
    qtbot.waitUntil(
        lambda: service.planning.plan is not None and service.planning.plan.context == 512
    )


def test_light_and_dark_follow_the_system_while_the_window_is_open(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = open_window(qtbot, service)
    hints = QGuiApplication.styleHints()
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    theme.manager().install(app, theme.Appearance.SYSTEM)
    for scheme, look in ((Qt.ColorScheme.Dark, DARK), (Qt.ColorScheme.Light, LIGHT)):
        # Without a desktop Qt knows no scheme; the signal is the one that a desktop causes.
        monkeypatch.setattr(sys.modules["ui.theme.manager"], "_system", lambda look=look: look)
        hints.colorSchemeChanged.emit(scheme)
        assert theme.current() is look
        assert window.grab().toImage().pixelColor(600, 5).name() == look.bg.lower()


def test_a_model_that_sleeps_wakes_for_the_next_question(
    qtbot: QtBot, service: AppService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.settings = Settings(context=512)
    window = open_window(qtbot, service)
    service.start(load=True)
    wait_ready(qtbot, window, service)
    window.show_page("Chat")
    model = window.chat.model
    ask(qtbot, window, "Name a colour.")
    stop_after_a_word(qtbot, window, 2)
    actions = {action.text().split("   ")[0]: action for action in model.menu.actions()}
    keep = actions[SAVE_UNLOAD]
    assert not keep.isEnabled(), "its size is not known yet"
    monkeypatch.setattr(model.menu, "popup", lambda _at: None)
    model.click()
    qtbot.waitUntil(keep.isEnabled, timeout=TIMEOUT_MS)
    assert "tokens" in keep.text()
    keep.trigger()
    qtbot.waitUntil(lambda: service.engine.pid is None, timeout=TIMEOUT_MS)
    qtbot.waitUntil(lambda: "asleep" in model.accessibleName(), timeout=TIMEOUT_MS)
    assert window.chat._note.text().startswith("KV cache saved")
    ask(qtbot, window, "And another one.")
    assert window.chat.composer.toPlainText(), "the question stays until it is asked"
    stop_after_a_word(qtbot, window, 4)
    assert not window.chat.composer.toPlainText()
    stats = service.chat.messages[-1].stats
    assert stats is not None
    assert stats.reused_tokens > 20
    window.show_page("Machine")
    window.launcher._unload.click()
    qtbot.waitUntil(lambda: service.engine.pid is None, timeout=TIMEOUT_MS)
