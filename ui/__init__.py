"""The window: Qt widgets. No rule of the domain lives here."""

import ctypes
import sys

if sys.version_info < (3, 12) and sys.implementation.name == "cpython":
    # PySide6 6.12 drops a reference to None with every call that returns nothing, and to True or False
    # with others (measured: 50 of 50); some ten thousand calls later the process ends. From 3.12 on
    # these cannot be freed. 32 bits of it count on every platform.
    for _lasting in (None, True, False, NotImplemented):
        ctypes.c_ssize_t.from_address(id(_lasting)).value += 1 << 30
