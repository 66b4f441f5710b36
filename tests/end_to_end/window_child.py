"""The real window as a process of its own, which can be killed: `python -m tests.end_to_end.window_child`.

Lines on its standard input are what a person does, in JSON; lines on its standard output what the
person sees. Everything goes through widgets of the window.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QObject, Qt, QTimer, Signal
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from app.chat.message import Message, Outcome, Role
from app.service import AppService
from ui import theme
from ui.main_window import MainWindow

LOOK_MS = 50
ENDED = (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.FULL)


class Person(QObject):
    """Does what it is told, and tells what it sees whenever that changes."""

    told = Signal(str)

    def __init__(self, window: MainWindow) -> None:
        super().__init__()
        self._window = window
        self._seen = ""
        self.told.connect(self._act, Qt.ConnectionType.QueuedConnection)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._look)
        self._timer.start(LOOK_MS)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.told.emit(line)
        self.told.emit('{"do": "close"}')

    def _act(self, line: str) -> None:
        order = json.loads(line)
        window, text = self._window, order.get("text", "")
        models, page = window.models, window.models.page
        match order["do"]:
            case "go":
                window.rail._items[text].click()
            case "search":
                QTest.keyClicks(models.view.field, text)
                QTest.keyClick(models.view.field, Qt.Key.Key_Return)
            case "open":
                row = next(r for r in models.view.hub.rows if r.values.name == text)
                QTest.keyClick(row, Qt.Key.Key_Return)
            case "primary":
                page.primary.click()
            case "resume":
                window.downloads.view.board.resume.click()
            case "load":
                window.downloads.view.board.load.click()
            case "launcher":
                window.launcher._primary.click()
            case "ask":
                QTest.keyClicks(window.chat.composer, text)
                QTest.keyClick(window.chat.composer, Qt.Key.Key_Return)
            case "close":
                window.close()
                QApplication.quit()
            case unknown:
                raise ValueError(unknown)

    def _look(self) -> None:
        window = self._window
        models, board = window.models, window.downloads.view.board
        shown = window.downloads.view.get(board.id)
        messages = window._service.chat.messages
        seen = json.dumps({
            "found": [row.values.name for row in models.view.hub.rows],
            "page": models.page.title.text() if models.pages.currentIndex() else "",
            "answer": models.page.answer.word.text(),
            "plan": models.page.strip.verdict.word.text() if not models.page.strip.isHidden() else "",
            "primary": models.page.primary.text(),
            "reason": models.page.reason.words.text(),
            "download": board.state.word.text() if shown else "",
            "files": [shard.state.word.text() for shard in board._shards],
            "written": shown.progress.written_bytes if shown else 0,
            "refetched": shown.progress.refetched_bytes if shown else 0,
            "launcher": window.launcher._primary.text(),
            "model": window.launcher._title.text(),
            "status": window.launcher._status.text(),
            "sendable": window.chat._send.isEnabled(),
            "said": _said(messages),
        })  # fmt: skip
        if seen != self._seen:
            self._seen = seen
            sys.stdout.write(seen + "\n")
            sys.stdout.flush()


def _said(messages: Sequence[Message]) -> str:
    """The answer, once it is whole."""
    last = messages[-1] if messages else None
    ended = last is not None and last.role is Role.ASSISTANT and last.outcome in ENDED
    return last.text if last is not None and ended else ""


def main() -> int:
    """Run until told to close, or killed."""
    app = QApplication(sys.argv[:1])
    service = AppService()
    theme.manager().install(app, theme.Appearance.LIGHT)
    window = MainWindow(service)
    window.show()
    person = Person(window)
    service.start(meters=False, downloads=True)
    code = app.exec()
    del person
    service.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
