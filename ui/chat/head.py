"""The top of the chat: a new one, the model and its state, the system prompt."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from ui.chat.model_button import ModelButton
from ui.widgets.labels import button


class ChatHead(QWidget):
    """Signals: what the person asks for."""

    new_chat_clicked = Signal()
    system_prompt_changed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        top = QHBoxLayout()
        top.setContentsMargins(32, 10, 32, 10)
        new = button("New chat")
        new.clicked.connect(self.new_chat_clicked)
        top.addWidget(new)
        top.addStretch(1)
        self.model = ModelButton()
        top.addWidget(self.model)
        top.addStretch(1)
        toggle = button("System prompt")
        toggle.setCheckable(True)
        top.addWidget(toggle)
        column.addLayout(top)
        self._system = QPlainTextEdit()
        self._system.setAccessibleName("System prompt")
        self._system.setPlaceholderText(
            "Sent before each chat. A change holds from the next message on."
        )
        self._system.setFixedHeight(96)
        self._system.hide()
        self._system.textChanged.connect(
            lambda: self.system_prompt_changed.emit(self._system.toPlainText())
        )
        toggle.toggled.connect(self._system.setVisible)
        row = QHBoxLayout()
        row.setContentsMargins(32, 0, 32, 0)
        row.addWidget(self._system)
        column.addLayout(row)

    def set_system_prompt(self, text: str) -> None:
        """Show the stored system prompt, without announcing it as a change."""
        if text != self._system.toPlainText():
            self._system.blockSignals(True)
            self._system.setPlainText(text)
            self._system.blockSignals(False)
