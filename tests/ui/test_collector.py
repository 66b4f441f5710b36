"""Where Python's garbage is collected."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from pytestqt.qtbot import QtBot

from ui.collector import Collector


class Knot:
    def __init__(self, freed_on: list[threading.Thread]) -> None:
        self.myself = self
        weakref.finalize(self, lambda: freed_on.append(threading.current_thread()))


@pytest.fixture
def collector(qtbot: QtBot) -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.deleteLater()


def test_knots_of_any_thread_are_untied_on_the_gui_thread(
    qtbot: QtBot, collector: Collector
) -> None:
    freed_on: list[threading.Thread] = []

    def work() -> None:
        for _ in range(3 * gc.get_threshold()[0]):
            Knot(freed_on)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert not freed_on
    qtbot.waitUntil(lambda: len(freed_on) == 3 * gc.get_threshold()[0])
    assert set(freed_on) == {threading.main_thread()}
