"""The window: Qt widgets. No rule of the domain lives here."""

import ctypes
import sys

if sys.version_info < (3, 12) and sys.implementation.name == "cpython":
    # PySide6 6.12 drops a reference to None with every call that returns nothing (measured: 50 of 50),
    # which ends the process after some ten thousand calls. From 3.12 on None cannot be freed.
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40
