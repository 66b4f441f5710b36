"""A load in the terminal: one line that is written over, or a line a stage where nothing can be."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from app.engine import words
from app.engine.model import EngineStateChanged


class LoadLine:
    """Shows what a load does."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        """`stream` is written over if it is a `terminal`."""
        self._stream = stream
        self.terminal = stream.isatty()
        self._stage = ""
        self._width = 0

    def show(self, event: EngineStateChanged) -> None:
        """The stage, and how far it is."""
        if event.state not in words.LOADING or event.silent_s is not None:
            return
        if self.terminal:
            self.say(words.load(event))
            return
        stage = event.progress.stage if event.progress else str(event.state)
        if stage != self._stage:
            self._stage = stage
            self._stream.write(f"{words.load(event)}\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Another line in its place, if it is on a terminal."""
        if not self.terminal:
            return
        # A line that goes on in the next one cannot be written over.
        line = text[: shutil.get_terminal_size().columns - 1]
        self._stream.write(f"\r{line:{self._width}}")
        self._width = len(line)
        self._stream.flush()

    def clear(self) -> None:
        """Nothing of it stays on a terminal."""
        if self._width:
            self._stream.write(f"\r{'':{self._width}}\r")
            self._stream.flush()
        self._width, self._stage = 0, ""
