"""Photographs the chat when things get tight: `python -m tests.end_to_end.photograph_chat FOLDER [full|ways]`.

`full`: a context that fills up, what was left out of it, a summary. `ways`: a device without memory for
what is asked of it. All of it happens to the starter model while the pictures are taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from PySide6.QtTest import QTest

from app.engine.model import EngineState
from app.service import AppService
from app.settings.model import Overflow, Settings
from app.units import MIB
from tests.end_to_end.photograph import NARROW, looks, save, studio, wait
from tests.helpers.rpc import leave, rpc_servers
from ui.main_window import MainWindow

WIDE = 1280, 820
FACT = (
    "Remember: the lamp of lighthouse number {0} is lit at {0} minutes past six, and put out at dawn. "
    "The keeper of lighthouse {0} is called Anna, and she has {0} cats. What else should I tell you about it?"
)


class Desk:
    """The window on a loaded starter model."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.service, self._folder = AppService(), folder
        self.service.settings = settings
        self.window = MainWindow(self.service)
        self.chat = self.window.chat
        self.window.show()
        self.window.show_page("Chat")
        self.service.start(load=True, meters=True)
        self.wait_ready()

    def wait_ready(self) -> None:
        wait(
            lambda: (
                self.service.engine.loaded is not None
                and self.service.engine.state is EngineState.READY
            )
        )

    def ask(self, text: str, tokens: int = 40) -> None:
        """Returns once it is answered, or returned."""
        self.chat.composer.setPlainText(text)
        before = self.service.chat.turn
        self.service.chat.send(text, max_tokens=tokens)
        wait(
            lambda: (
                self.service.chat.turn > before
                and not self.service.chat.running
                and not self.chat._running
            )
        )

    def ask_until(self, condition: Callable[[], object]) -> None:
        """One fact after the other."""
        number = len(self.service.chat.messages) // 2
        while not condition():
            self.ask(FACT.format(number))
            number += 1

    def shoot(self, name: str, *, narrow: bool = False) -> None:
        """Light, dark, and narrow if wanted."""
        for look in looks():
            save(self.window, self._folder / f"{name}{look}.png")
        if narrow:
            self.window.resize(*NARROW)
            save(self.window, self._folder / f"{name}-narrow.png")
            self.window.resize(*WIDE)

    def close(self) -> None:
        self.window.close()
        self.service.close()


def full(folder: Path) -> None:
    """The question that does not fit, what is left out for it, what stands for older turns."""
    desk = Desk(
        Settings.model_validate(
            {
                "context": 768,
                "reply_reserve": 96,
                "overflow": Overflow.STOP,
                "sampling": {"temperature": 0},
            }
        ),
        folder,
    )
    chat, transcript = desk.chat, desk.chat.transcript
    desk.ask_until(lambda: chat._returned)
    wait(chat.context_line.offer.text)
    desk.shoot("chat-full", narrow=True)
    desk.service.set_overflow(Overflow.DROP_OLDEST)
    desk.ask(chat._returned)
    bar = transcript.verticalScrollBar()
    bar.setValue(bar.maximum() // 2)
    desk.shoot("chat-left-out")
    desk.service.set_overflow(Overflow.SUMMARISE)
    desk.ask_until(lambda: transcript._summaries)
    mark = transcript._summaries[-1]
    mark.head.click()
    QTest.qWait(100)
    transcript.ensureWidgetVisible(mark, 50, 200)
    desk.shoot("chat-summary")
    desk.close()


def ways(folder: Path) -> None:
    """A larger context is asked of a server that no longer has the memory."""
    with rpc_servers(1) as endpoints:
        desk = Desk(Settings(rpc_servers=endpoints, context=4096, micro_batch=64), folder)
        desk.ask("Name the planets, one on each line.", 80)
        leave(endpoints[0], 8 * MIB)
        larger = desk.service.settings.model_copy(update={"context": 8192})
        desk.service.update_settings(larger, reload=True)
        wait(lambda: desk.service.ways.found.ways)
        wait(lambda: desk.chat.trouble.buttons)
        desk.shoot("chat-ways", narrow=True)
        desk.window.show_page("Machine")
        desk.shoot("launcher-ways")
        desk.close()


def main() -> None:
    """All pictures, or those of one sort."""
    with studio() as folder:
        for name, scene in (("full", full), ("ways", ways)):
            if name in (sys.argv[2:] or [name]):
                scene(folder)


if __name__ == "__main__":
    main()
