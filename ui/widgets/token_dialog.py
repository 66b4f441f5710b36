"""Asks for a token of the Hub."""

from __future__ import annotations

from PySide6.QtWidgets import QInputDialog, QLineEdit, QWidget


def ask_token(parent: QWidget) -> str:
    """The token that the person gives; empty if none."""
    token, given = QInputDialog.getText(
        parent,
        "Log in to the Hub",
        "A token of your account; the system's keyring keeps it.\n"
        "Accept the model's terms on its page first.",
        QLineEdit.EchoMode.Password,
    )
    return token.strip() if given else ""
