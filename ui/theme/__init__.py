"""The look: tokens, fonts, icons and one style sheet, light and dark, following the system.

Signals reach every custom-painted widget through `manager().changed`.
"""

from ui.theme.icons import icon, pixmap
from ui.theme.manager import Appearance, ThemeManager, current, manager
from ui.theme.tokens import DARK, LIGHT, Theme

__all__ = [
    "DARK",
    "LIGHT",
    "Appearance",
    "Theme",
    "ThemeManager",
    "current",
    "icon",
    "manager",
    "pixmap",
]
