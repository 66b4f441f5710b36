"""The quiet line above the composer: how full the context is, what will happen, how to change that."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QHBoxLayout, QMenu, QVBoxLayout, QWidget

from app.chat.message import ContextLevel, ContextUse
from app.plan.larger import LargerContext
from app.service.context import warning
from app.settings.model import OVERFLOW_TITLES, OVERFLOW_WORDS, Overflow
from ui.widgets.labels import button, label, set_state

CUT_OFF = (
    "The context is full, and the answer was cut off. Choose what is left out, or enlarge the"
    " context; then the answer can be continued."
)
_SHORTENS = (Overflow.DROP_OLDEST, Overflow.SUMMARISE)


class ContextLine(QWidget):
    """Hidden while there is room. Signals: what the person asks for."""

    overflow_chosen = Signal(Overflow)
    enlarge_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._overflow = Overflow.STOP
        self._use: ContextUse | None = None
        self._problem = ""
        self._shortened = self._cut_off = self._busy = False
        self._offer: LargerContext | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 4)
        column.setSpacing(2)
        self.text = label("", "small", wrap=True)
        column.addWidget(self.text)
        self.offer = label("", "muted", wrap=True)
        column.addWidget(self.offer)
        row = QHBoxLayout()
        row.setSpacing(16)
        self.choice = button("", "link")
        self.choice.setProperty("menu", True)
        self.choice.setMenu(self._menu())
        self.enlarge = button("", "link")
        self.enlarge.clicked.connect(self.enlarge_clicked)
        row.addWidget(self.choice)
        row.addWidget(self.enlarge)
        row.addStretch(1)
        column.addLayout(row)
        self.set_overflow(Overflow.STOP)

    def _menu(self) -> QMenu:
        menu = QMenu(self)
        group = QActionGroup(menu)
        self.actions_of = {}
        for overflow, title in OVERFLOW_TITLES.items():
            action = menu.addAction(title)
            action.setCheckable(True)
            action.setToolTip(f"When the context is full, {OVERFLOW_WORDS[overflow]}.")
            action.triggered.connect(lambda _on, o=overflow: self.overflow_chosen.emit(o))
            group.addAction(action)
            self.actions_of[overflow] = action
        menu.setToolTipsVisible(True)
        return menu

    def set_overflow(self, overflow: Overflow) -> None:
        """What happens when the context is full."""
        self._overflow = overflow
        self.actions_of[overflow].setChecked(True)
        self.choice.setText(f"When full: {OVERFLOW_TITLES[overflow].lower()}")
        self._show()

    def set_use(self, use: ContextUse | None, *, shortened: bool) -> None:
        """How full it is; `shortened`: something was left out before, which marks in the chat tell."""
        self._use, self._shortened = use, shortened
        self._show()

    def set_busy(self, busy: bool) -> None:
        """While an answer runs nothing can be loaded or continued."""
        self._busy = busy
        self._show()

    def set_problem(self, problem: str) -> None:
        """The last question does not fit; empty once something else was asked."""
        self._problem = problem
        self._show()

    def set_cut_off(self, cut_off: bool) -> None:
        """The last answer ended with the context."""
        self._cut_off = cut_off
        self._show()

    def set_offer(self, offer: LargerContext | None, sentence: str = "") -> None:
        """Which longer context fits."""
        self._offer = offer
        self.offer.setText(sentence)
        self._show()

    def _show(self) -> None:
        level = self._use.level if self._use else ContextLevel.FREE
        least = ContextLevel.FILLING
        if self._overflow in _SHORTENS and self._shortened:
            least = ContextLevel.NEARLY_FULL
        full = bool(self._problem) or self._cut_off
        if self._problem:
            self.text.setText(self._problem)
        elif self._cut_off:
            self.text.setText(CUT_OFF)
        elif self._use is not None:
            self.text.setText(warning(self._use, self._overflow))
        set_state(self.text, "error" if full or level is ContextLevel.NEARLY_FULL else "warn")
        offer = self._offer
        larger = offer is not None and bool(offer.larger)
        self.offer.setVisible(bool(self.offer.text()))
        self.enlarge.setVisible(larger)
        self.enlarge.setEnabled(not self._busy)
        if offer is not None:
            kind = f" with {offer.kv_type}" if offer.kv_type else ""
            self.enlarge.setText(f"Enlarge to {offer.larger:,}{kind}")
        self.setVisible(full or level >= least)
