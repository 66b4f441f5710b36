"""Faults of RPC servers in the real window: what it says, and one click out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState
from app.plan.model import KvCacheType
from app.service import AppService
from app.settings.model import Settings
from app.settings.store import SettingsStore
from app.units import MIB
from tests.end_to_end.test_window import (
    TIMEOUT_MS,
    answers,
    ask,
    open_window,
    wait_answered,
    wait_ready,
)
from tests.helpers.rpc import leave, rpc_server_at, rpc_servers, server_at
from ui.widgets.ways_panel import WaysPanel


@pytest.fixture
def service() -> Iterator[AppService]:
    service = AppService()
    yield service
    service.close()


def press(qtbot: QtBot, panel: WaysPanel, words: str) -> None:
    def there() -> bool:
        return panel.isVisible() and any(words in each.text() for each in panel.buttons)

    qtbot.waitUntil(there, timeout=TIMEOUT_MS)
    QApplication.processEvents()
    next(each for each in panel.buttons if words in each.text()).click()


def test_a_server_that_vanishes_and_comes_back_costs_one_click_each(
    qtbot: QtBot, service: AppService
) -> None:
    with rpc_servers(2) as endpoints:
        service.settings = Settings(rpc_servers=endpoints, context=512, threads=1)
        window = open_window(qtbot, service)
        service.start(load=True)
        wait_ready(qtbot, window, service)
        window.show_page("Chat")
        ask(qtbot, window, "Tell a very long story.")
        qtbot.waitUntil(
            lambda: bool(answers(window)[-1:] and answers(window)[-1]), timeout=TIMEOUT_MS
        )
        server_at(endpoints[0]).kill()
        qtbot.waitUntil(lambda: service.engine.state is EngineState.CRASHED, timeout=TIMEOUT_MS)
        qtbot.waitUntil(lambda: bool(service.ways.found.ways), timeout=TIMEOUT_MS)
        service.set_system_prompt("Be brief.")
        press(qtbot, window.chat.trouble, f"Reload without {endpoints[0]}")
        assert window.chat.trouble.text.text() == f"The RPC server {endpoints[0]} is gone."
        wait_ready(qtbot, window, service)
        assert service.settings.system_prompt == "Be brief.", "what was set meanwhile stays"
        assert service.settings.rpc_servers == endpoints, "it stays known, only switched off"
        assert service.settings.disabled_devices == (f"rpc:{endpoints[0]}/0",)
        assert not window.chat.trouble.isVisible()
        assert answers(window)[-1] == service.chat.messages[-1].text, "what was shown stays"
        ask(qtbot, window, "Name a colour.")
        wait_answered(qtbot, window, 4)
        with rpc_server_at(endpoints[0]):
            service.engine.loaded = None
            press(qtbot, window.chat.trouble, "Try it again")
            wait_ready(qtbot, window, service)
            assert service.engine.loaded is not None
            counts = {m.device: m.layer_count for m in service.engine.loaded.loaded.memory}
            assert counts["RPC0"]
            assert counts["RPC1"]
            assert service.settings.disabled_devices == ()


def test_a_device_that_is_short_says_how_much_and_what_helps(
    qtbot: QtBot, service: AppService
) -> None:
    with rpc_servers(1) as endpoints:
        service.settings = Settings(rpc_servers=endpoints, context=8192, micro_batch=64, threads=1)
        window = open_window(qtbot, service)
        service.start()
        launcher = window.launcher
        qtbot.waitUntil(launcher._primary.isEnabled, timeout=TIMEOUT_MS)
        plan = service.planning.plan
        assert plan is not None
        leave(endpoints[0], plan.devices[0].weights_bytes + 150 * MIB)
        launcher._primary.click()
        press(qtbot, launcher.trouble, "Use a KV cache of")
        assert launcher.trouble.text.text().startswith("RPC 0 is about ")
        assert not launcher.outcome._helps.isVisible(), "what would help is told once"
        wait_ready(qtbot, window, service)
        kind = service.settings.kv_type_k
        assert kind is not KvCacheType.F16
        stored, _ = SettingsStore(service.folders.config / "settings.json").load()
        assert stored.kv_type_k is kind
        assert service.settings.context == 8192
        qtbot.waitUntil(lambda: not launcher.trouble.isVisible(), timeout=TIMEOUT_MS)
        assert launcher.outcome._helps.isVisible()
