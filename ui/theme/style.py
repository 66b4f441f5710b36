"""The one style sheet. Widgets choose their part by a dynamic property `kind`, or by object name.

`kind` of labels: `title`, `lead`, `strong`, `small`, `small-strong`, `muted` (small and muted), `body-muted`.
`kind` of buttons: `primary`, `plain`, `icon`, `link`; none is the ordinary button.
`kind` of frames: `card`, `rule`, `vrule`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from string import Template

from ui.theme.tokens import RADIUS_CARD, RADIUS_CONTROL, TEXT_LEAD, TEXT_SMALL, TEXT_TITLE, Theme

_CHEVRON = Path(__file__).resolve().parents[2] / "resources" / "icons" / "chevron-muted.svg"

_SHEET = Template("""
QWidget { color: $text; }
QMainWindow, QDialog { background: $bg; }
QScrollArea { background: transparent; border: none; }
QScrollArea > QWidget > QWidget { background: transparent; }
QLabel { background: transparent; }
QLabel[kind="title"] { font-size: ${title_px}px; font-weight: 600; }
QLabel[kind="lead"] { font-size: ${lead_px}px; }
QLabel[kind="section"] { font-size: ${lead_px}px; font-weight: 600; }
QLabel[kind="strong"] { font-weight: 600; }
QLabel[kind="small"] { font-size: ${small_px}px; }
QLabel[kind="small-strong"] { font-size: ${small_px}px; font-weight: 600; }
QLabel[kind="muted"] { font-size: ${small_px}px; color: $muted; }
QLabel[kind="body-muted"] { color: $muted; }
QLabel[kind="state"] { font-size: ${small_px}px; font-weight: 600; }
QLabel[state="ok"] { color: $ok; }
QLabel[state="accent"] { color: $accent; }
QLabel[state="warn"] { color: $warn; }
QLabel[state="error"] { color: $error; }
QTextEdit[state="muted"] { color: $muted; }
QFrame[kind="card"] { background: $surface; border: 1px solid $line; border-radius: ${card_px}px; }
QFrame[kind="bubble"] { background: $alt; border: none; border-radius: ${card_px}px; }
QLabel[kind="tag"] {
    max-height: 16px; min-height: 16px;
    background: $text; color: $bg; border-radius: 8px; padding: 0 8px; font-weight: 600;
    font-size: ${small_px}px;
}
QPushButton[kind="tile"] {
    min-height: 52px; text-align: left; border-radius: ${card_px}px; background: $surface;
    border: 1px solid $line_strong;
}
QPushButton[kind="tile"]:hover { background: $alt; }
QPushButton[kind="tile"]:checked { border: 2px solid $accent; }
QPushButton[kind="tile"]:focus { border: 2px solid $text; }
QFrame[kind="segments"] { background: $alt; border: 1px solid $line; border-radius: ${control_px}px; }
QPushButton[kind="segment"] {
    border: 1px solid transparent; background: transparent; min-height: 26px; padding: 0 6px;
    border-radius: 6px; color: $muted;
}
QPushButton[kind="segment"]:checked {
    background: $segment_on; border-color: $line_strong; color: $text; font-weight: 600;
}
QPushButton[kind="segment"]:focus { border: 2px solid $accent; padding: 0 5px; min-height: 24px; }
QFrame[kind="rule"] { background: $line; border: none; max-height: 1px; min-height: 1px; }
QFrame[kind="vrule"] { background: $line; border: none; max-width: 1px; min-width: 1px; }
QPushButton {
    min-height: 32px; padding: 0 14px; border: 1px solid $line_strong;
    border-radius: ${control_px}px; background: $surface; color: $text; outline: none;
}
QPushButton:hover { background: $alt; }
QPushButton:pressed { background: $line; }
QPushButton:focus { border: 2px solid $accent; padding: 0 13px; min-height: 30px; }
QPushButton:disabled { background: $alt; color: $muted; border-color: $line; }
QPushButton[kind="primary"] {
    background: $accent; border-color: $accent; color: $on_accent; font-weight: 600;
}
QPushButton[kind="primary"]:focus { border: 2px solid $text; }
QPushButton[kind="primary"]:disabled { background: $alt; border-color: $line; color: $muted; }
QPushButton[big="true"] { min-height: 38px; }
QPushButton[big="true"]:focus { min-height: 36px; }
QPushButton[kind="plain"], QPushButton[kind="icon"] {
    border-color: transparent; background: transparent;
}
QPushButton[kind="icon"] { padding: 0; min-width: 30px; min-height: 30px; }
QPushButton[kind="plain"]:hover, QPushButton[kind="icon"]:hover { background: $alt; }
QPushButton[kind="plain"]:focus, QPushButton[kind="icon"]:focus { border: 2px solid $accent; }
QPushButton[kind="icon"]:focus { padding: 0; min-width: 28px; min-height: 28px; }
QPushButton[kind="link"] {
    border: 2px solid transparent; border-radius: 4px; background: transparent; color: $accent;
    padding: 0 2px; min-height: 18px; font-size: ${small_px}px;
}
QPushButton[kind="link"][menu="true"] { padding-right: 16px; text-align: left; }
QToolButton[kind="link"] {
    outline: none; border: 2px solid transparent; border-radius: 4px; background: transparent; color: $muted;
    padding: 0 2px; min-height: 18px; font-size: ${small_px}px;
}
QToolButton[kind="link"]:hover { color: $text; }
QToolButton[kind="link"]:focus { border-color: $accent; }
QPushButton[kind="link"]::menu-indicator {
    image: url($chevron); width: 14px; height: 14px; subcontrol-origin: border; subcontrol-position: right center;
}
QPushButton[kind="link"]:hover { text-decoration: underline; }
QPushButton[kind="link"]:focus { border-color: $accent; }
QPushButton[kind="link"]:disabled { color: $muted; border-color: transparent; }
QComboBox, QLineEdit, QSpinBox, QDoubleSpinBox, QPlainTextEdit, QTextEdit {
    border: 1px solid $line_strong; border-radius: ${control_px}px; background: $surface;
    selection-background-color: $accent; selection-color: $on_accent;
}
QComboBox, QLineEdit { min-height: 34px; padding: 0 12px; }
QSpinBox, QDoubleSpinBox { min-height: 32px; padding: 0 0 0 8px; }
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button,
QDoubleSpinBox::down-button { width: 0; border: none; }
QComboBox:focus, QLineEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QPlainTextEdit:focus, QTextEdit:focus {
    border: 1px solid $accent;
}
QComboBox:disabled, QLineEdit:disabled, QPlainTextEdit:disabled {
    background: $alt; color: $muted; border-color: $line;
}
QComboBox::drop-down { border: none; width: 28px; }
QComboBox::down-arrow { image: url($chevron); width: 14px; height: 14px; }
QPlainTextEdit { padding: 4px 10px; }
QComboBox QAbstractItemView {
    background: $surface; border: 1px solid $line_strong; selection-background-color: $alt;
    selection-color: $text; outline: none;
}
QTableView { background: transparent; border: none; }
QHeaderView { background: transparent; border: none; }
QHeaderView::section {
    background: transparent; border: none; border-bottom: 1px solid $line; padding: 0 8px;
    font-size: ${small_px}px; color: $muted;
}
QHeaderView::section:first { padding-left: 16px; }
QWidget[kind="line"] { background: $line; }
QProgressBar { background: $track; border: none; border-radius: 3px; }
QProgressBar::chunk { background: $accent; border-radius: 3px; }
QSlider::groove:horizontal { height: 4px; background: $line; border-radius: 2px; }
QSlider::sub-page:horizontal { height: 4px; background: $accent; border-radius: 2px; }
QSlider::handle:horizontal {
    width: 14px; height: 14px; margin: -6px 0; border-radius: 8px;
    background: $thumb; border: 1px solid $switch_off;
}
QSlider::handle:horizontal:focus { border: 2px solid $accent; }
QRadioButton::indicator {
    width: 14px; height: 14px; border: 1px solid $muted; border-radius: 8px; background: $surface;
}
QRadioButton::indicator:checked { width: 6px; height: 6px; border: 5px solid $accent; }
QRadioButton::indicator:focus { border-color: $text; }
QRadioButton::indicator:disabled { border-color: $line_strong; background: $alt; }
QRadioButton:disabled { color: $muted; }
QMenu { background: $surface; border: 1px solid $line_strong; padding: 4px; }
QMenu::item { padding: 6px 20px; border-radius: 6px; }
QMenu::item:selected { background: $alt; }
QMenu::item:disabled { color: $muted; background: transparent; }
QToolTip { background: $surface; color: $text; border: 1px solid $line_strong; padding: 4px; }
QScrollBar:vertical { background: transparent; width: 10px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 10px; margin: 0; }
QScrollBar::handle { background: $line_strong; border-radius: 4px; margin: 1px; }
QScrollBar::handle:vertical { min-height: 32px; }
QScrollBar::handle:horizontal { min-width: 32px; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }
""")


def sheet(theme: Theme) -> str:
    """The application's style sheet in `theme`."""
    return _SHEET.substitute(
        dataclasses.asdict(theme),
        title_px=TEXT_TITLE,
        lead_px=TEXT_LEAD,
        small_px=TEXT_SMALL,
        card_px=RADIUS_CARD,
        control_px=RADIUS_CONTROL,
        chevron=_CHEVRON.as_posix(),
    )
