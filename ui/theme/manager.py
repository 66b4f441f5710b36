"""Which theme is on, and putting it on the application."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

from ui.theme import style
from ui.theme.tokens import DARK, LIGHT, TEXT_BODY, Theme

FONTS = Path(__file__).resolve().parent.parent.parent / "resources" / "fonts"


class Appearance(enum.StrEnum):
    """What the person chose."""

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


class ThemeManager(QObject):
    """Holds the theme of the application.

    Signals:
        changed: Another theme was put on; painted widgets repaint.
    """

    changed = Signal()

    def __init__(self) -> None:
        """Start light; `install` looks at the system."""
        super().__init__()
        self._theme, self._is_on = LIGHT, False
        self._appearance = Appearance.SYSTEM
        self._high_contrast = False

    @property
    def theme(self) -> Theme:
        """The theme that is on."""
        return self._theme

    @property
    def appearance(self) -> Appearance:
        """What the person chose."""
        return self._appearance

    def install(
        self,
        app: QApplication,
        appearance: Appearance = Appearance.SYSTEM,
        *,
        high_contrast: bool = False,
    ) -> None:
        """Load fonts, set Fusion, palette and style sheet, and follow the system from now on."""
        for file in sorted(FONTS.glob("*.[ot]tf")):
            QFontDatabase.addApplicationFont(str(file))
        app.setStyle("Fusion")
        font = QFont("Inter")
        font.setPixelSize(TEXT_BODY)
        font.setFeature(QFont.Tag("tnum"), 1)
        font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
        app.setFont(font)
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._system_changed)
        self.set_appearance(appearance, high_contrast=high_contrast)

    def set_appearance(self, appearance: Appearance, *, high_contrast: bool = False) -> None:
        """Put on light, dark, or what the system says; edges as dark as text where wanted."""
        self._appearance, self._high_contrast = appearance, high_contrast
        self._put_on({Appearance.LIGHT: LIGHT, Appearance.DARK: DARK}.get(appearance) or _system())

    def _system_changed(self) -> None:
        if self._appearance is Appearance.SYSTEM:
            self._put_on(_system())

    def _put_on(self, theme: Theme) -> None:
        if self._high_contrast:
            theme = dataclasses.replace(theme, line_strong=theme.muted, line=theme.line_strong)
        if theme == self._theme and self._is_on:
            return
        self._theme, self._is_on = theme, True
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setPalette(_palette(theme))
            app.setStyleSheet(style.sheet(theme))
        self.changed.emit()


def _system() -> Theme:
    """The system's scheme; where Qt does not know it (bare X11), the style's own palette tells."""
    scheme = QGuiApplication.styleHints().colorScheme()
    if scheme == Qt.ColorScheme.Unknown:
        app = QApplication.instance()
        if isinstance(app, QApplication):
            base = app.style().standardPalette().color(QPalette.ColorRole.Window)
            return DARK if base.lightness() < 128 else LIGHT
    return DARK if scheme == Qt.ColorScheme.Dark else LIGHT


def _palette(theme: Theme) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for target, value in {
        role.Window: theme.bg,
        role.WindowText: theme.text,
        role.Base: theme.surface,
        role.AlternateBase: theme.alt,
        role.Text: theme.text,
        role.PlaceholderText: theme.muted,
        role.Button: theme.surface,
        role.ButtonText: theme.text,
        role.ToolTipBase: theme.surface,
        role.ToolTipText: theme.text,
        role.Highlight: theme.accent,
        role.HighlightedText: theme.on_accent,
        role.Link: theme.accent,
        role.Accent: theme.accent,
        role.Mid: theme.line,
        role.Light: theme.surface,
        role.Dark: theme.line_strong,
    }.items():
        palette.setColor(target, QColor(value))
    for target in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, target, QColor(theme.muted))
    return palette


_manager: ThemeManager | None = None


def manager() -> ThemeManager:
    """The application's one theme manager."""
    global _manager
    if _manager is None:
        _manager = ThemeManager()
    return _manager


def current() -> Theme:
    """The theme that is on."""
    return manager().theme
