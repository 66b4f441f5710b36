"""Where lines of a text may be broken."""

from __future__ import annotations

import re

from PySide6.QtGui import QTextOption

LONGEST_WORD = 2_000
"""Qt's search for a place between words takes time with the square of this: a megabyte, minutes."""
_LONGER = re.compile(rf"\S{{{LONGEST_WORD}}}")


def wrapping(text: str) -> QTextOption.WrapMode:
    """Between words, unless one is so long that the window would stand still meanwhile."""
    if _LONGER.search(text):
        return QTextOption.WrapMode.WrapAnywhere
    return QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere
