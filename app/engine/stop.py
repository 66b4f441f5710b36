"""A flag that llama.cpp itself looks at while it computes. Only the worker imports this."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp.llama_cpp as lib


class StopFlag:
    """Set by any thread; ends the batch that is being computed, within one operation of the graph.

    ggml asks after each of about a thousand operations a token. A Python function there would take
    the interpreter's lock as often, and a tenth of the speed; so the callback is C's own `strlen`,
    and the flag the first byte of a string of at most one character.
    """

    def __init__(self) -> None:
        self._text = (ctypes.c_char * 2)()
        library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
        self.callback: Any = ctypes.cast(library.strlen, lib.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        """Stop what runs."""
        self._text[0] = b"\x01"

    def clear(self) -> None:
        """Let the next command run."""
        self._text[0] = b"\x00"

    def is_set(self) -> bool:
        """True between `set` and `clear`."""
        return self._text[0] != b"\x00"
