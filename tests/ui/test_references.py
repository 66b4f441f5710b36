"""Calls of Qt, however many, do not end the process (PySide6 6.12 with Python 3.11 did)."""

from __future__ import annotations

import subprocess
import sys

MANY = """
import ui
from PySide6.QtCore import QObject
thing = QObject()
for _ in range(300_000):
    thing.setObjectName("x")
    thing.blockSignals(False)
    thing.isWidgetType()
"""


def test_hundreds_of_thousands_of_calls_do_not_end_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
