"""Controls of settings that are lists: addresses, folders, texts, and tokens with their biases."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from app.settings.entries import Entry, Json
from app.settings.shown import Control
from app.settings.text import SettingError, escaped, folder, unescaped
from ui.settings.controls import Field, name
from ui.widgets.labels import button, label

_EXAMPLES = {"rpc_servers": "192.168.1.20:50052"}
_BIAS_WIDTH = 84


class _Item(QWidget):
    """One of the list. Signals: removed."""

    removed = Signal()

    def __init__(self, text: str, more: str = "") -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        row.addWidget(label(text, elide=True), 1)
        if more:
            row.addWidget(label(more, "body-muted"))
        self.remove = button("Remove", "link")
        self.remove.setAccessibleName(f"Remove {text}")
        self.remove.clicked.connect(self.removed)
        row.addWidget(self.remove)


class _ListField(Field):
    """Items, each with Remove, above a line that adds one."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self._values: list[Any] = []
        self._wanted: list[Any] = []
        self._before: list[Any] = []
        """The list as it was sent last, and the one before: storing it may take a while."""
        self._adds = False
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(4)
        column.addLayout(self._rows)
        self.items: list[_Item] = []
        self.entering = QHBoxLayout()
        self.entering.setSpacing(8)
        column.addLayout(self.entering)
        self.line = QLineEdit()
        self.line.setAccessibleName(f"Another one of {entry.title}")
        self.line.setAccessibleDescription(entry.description)
        self.line.textEdited.connect(self._typed)
        self.line.returnPressed.connect(self.add)
        self.add_button = button("Add")
        self.add_button.setAccessibleName(f"Add to {entry.title}")
        self.add_button.clicked.connect(self.add)

    def show_value(self, value: Json) -> None:
        """The stored items; what stands in the line stays."""
        self._wanted = list(value)
        if value == self._values and len(self.items) == len(value):
            return
        self._values = list(value)
        for item in self.items:
            self._rows.removeWidget(item)
            item.hide()
            item.deleteLater()
        self.items = []
        for index, one in enumerate(self._values):
            item = _Item(*self._words(one))
            item.removed.connect(lambda at=index: self._remove(at))
            self._rows.addWidget(item)
            self.items.append(item)

    def add(self) -> None:
        """Add what was entered; it stays in the line until it is stored."""
        if not self.line.text():
            self._fail(self.entry.allowed)
            return
        try:
            one = self._entered()
        except SettingError as problem:
            self._fail(str(problem))
            return
        if self._adds and one == self._wanted[-1]:
            return  # on its way
        if one in self._wanted:
            self._fail("It is in the list already.")
            return
        self._adds = True
        self._change([*self._wanted, one])

    def _change(self, values: list[Any]) -> None:
        self._before, self._wanted = self._wanted, values
        self._send(values)

    def refused(self) -> None:
        """The list stays as it was."""
        self._wanted, self._adds = self._before, False

    def stored(self) -> None:
        """What was entered is in the list now."""
        super().stored()
        if self._adds:
            self._adds = False
            self.clear()

    def clear(self) -> None:
        """Nothing is entered."""
        self.line.clear()

    def _typed(self) -> None:
        self._adds = False
        self.unsaved = bool(self.line.text())

    def _remove(self, index: int) -> None:
        self._adds = False
        self._change([one for one in self._wanted if one != self._values[index]])

    def _entered(self) -> Any:  # noqa: ANN401 - an item of the list
        raise NotImplementedError

    def _words(self, one: Any) -> tuple[str, str]:  # noqa: ANN401 - an item of the list
        raise NotImplementedError


class LinesField(_ListField):
    """Texts."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        folders = "whole path of a folder" if entry.control is Control.FOLDERS else ""
        self.line.setPlaceholderText(_EXAMPLES.get(entry.key, folders))
        self.entering.addWidget(self.line, 1)
        self.entering.addWidget(self.add_button)
        if entry.control is Control.FOLDERS:
            choose = button("Choose…")
            choose.setAccessibleName(f"Choose a folder for {entry.title}")
            choose.clicked.connect(self._choose)
            self.entering.addWidget(choose)

    def _choose(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self.entry.title)
        if chosen:
            self.line.setText(chosen)
            self.add()

    def _entered(self) -> str:
        text = self.line.text()
        if self.entry.control is Control.FOLDERS:
            return folder(self.entry, text)
        return unescaped(text if self.entry.option else text.strip())

    def _words(self, one: str) -> tuple[str, str]:
        return escaped(one), ""


class BiasField(_ListField):
    """Tokens, by text or number, each with a bias."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.kind = QComboBox()
        self.kind.addItems(["Text", "Token"])
        name(self.kind, entry, ": by text or number")
        self.bias = QLineEdit()
        self.bias.setPlaceholderText("bias")
        self.bias.setFixedWidth(_BIAS_WIDTH)
        name(self.bias, entry, ": bias")
        self.bias.returnPressed.connect(self.add)
        self.line.setPlaceholderText("text or number of a token")
        self.line.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for widget in (self.kind, self.line, self.bias, self.add_button):
            self.entering.addWidget(widget, 1 if widget is self.line else 0)

    def clear(self) -> None:
        """Both fields."""
        super().clear()
        self.bias.clear()

    def _entered(self) -> list[Any]:
        text = self.line.text()
        by_number = self.kind.currentText() == "Token"
        if by_number and not text.strip().isdecimal():
            raise SettingError(f"“{text}” is no number of a token.")
        try:
            bias = float(self.bias.text().replace(",", "."))
        except ValueError:
            raise SettingError(f"“{self.bias.text()}” is no bias. {self.entry.allowed}") from None
        return [int(text) if by_number else unescaped(text), bias]

    def _words(self, one: list[Any]) -> tuple[str, str]:
        what, bias = one
        token = f"token {what}" if isinstance(what, int) else f"“{escaped(what)}”"
        return token, "never" if bias <= -100 else f"{bias:+g}"
