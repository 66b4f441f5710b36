"""Photographs the real window with real RPC devices: `python -m tests.end_to_end.photograph FOLDER`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget

from app.engine.model import EngineState
from app.service import AppService
from app.settings.model import Settings
from tests.helpers.rpc import rpc_servers
from ui import theme
from ui.main_window import MainWindow

TIMEOUT_S = 120


def wait(condition: Callable[[], bool]) -> None:
    """Run the event loop until `condition`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        QTest.qWait(20)


def main() -> None:
    """Ask something, then take each screen, light and dark."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    app = QApplication(sys.argv[:1])
    theme.manager().install(app, theme.Appearance.LIGHT)
    with rpc_servers(2) as endpoints:
        service = AppService()
        service.settings = Settings(rpc_servers=endpoints, context=4096)
        window = MainWindow(service)
        window.show()
        service.start(load=True, meters=True)
        wait(lambda: service.loaded is not None and service.engine_state is EngineState.READY)
        service.send(
            "Write a Python function that adds two numbers, and explain it.", max_tokens=180
        )
        wait(lambda: len(service.messages) == 2 and service.messages[-1].outcome != "running")
        window.open_split()
        assert window.dialog is not None
        window.dialog._rows[0].number.setValue(14)
        screens: dict[str, QWidget] = {"launcher": window, "chat": window, "split": window.dialog}
        for appearance in (theme.Appearance.LIGHT, theme.Appearance.DARK):
            theme.manager().set_appearance(appearance)
            suffix = "-dark" if appearance is theme.Appearance.DARK else ""
            for name, widget in screens.items():
                if widget is window:
                    window.show_page({"launcher": "Machine", "chat": "Chat"}[name])
                QTest.qWait(200)
                widget.grab().save(str(folder / f"{name}{suffix}.png"))
        window.resize(960, 640)
        for name, page in (("launcher-narrow", "Machine"), ("chat-narrow", "Chat")):
            window.show_page(page)
            QTest.qWait(200)
            window.grab().save(str(folder / f"{name}.png"))
        window.dialog.close()
        window.close()
        service.close()


if __name__ == "__main__":
    main()
