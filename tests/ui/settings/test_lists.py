"""Lists that are changed faster than they are stored."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from app.settings.entries import Json, entry
from app.settings.model import Settings
from app.settings.text import SettingError
from ui.settings.lists import LinesField
from ui.settings.setting_row import SettingRow

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


class Desk:
    """The row of RPC servers, whose changes are stored when `store` is called."""

    def __init__(self, qtbot: QtBot) -> None:
        self.row = SettingRow(entry("rpc_servers"))
        qtbot.addWidget(self.row)
        self.settings = Settings()
        self.row.edited.connect(lambda _entry, value: self._put(value))
        field = self.row.field
        assert isinstance(field, LinesField)
        self.field = field
        self.field.show_value([])

    def _put(self, value: Json) -> None:
        try:
            self.settings = self.row.entry.put(self.settings, value)
        except SettingError as problem:
            self.row.refuse(value, str(problem))

    def add(self, text: str) -> None:
        self.field.line.setText(text)
        self.field.add()

    def store(self) -> None:
        self.field.stored()
        self.field.show_value(list(self.settings.rpc_servers))


@pytest.fixture
def desk(qtbot: QtBot) -> Desk:
    return Desk(qtbot)


def test_what_is_added_in_a_row_is_all_kept_and_what_is_wrong_left_out(desk: Desk) -> None:
    desk.add(A)
    desk.add("nonsense")
    assert desk.row.problem
    desk.add(B)
    desk.field.add()  # a second click on the same
    desk.add(C)
    assert desk.settings.rpc_servers == (A, B, C)
    desk.store()
    assert len(desk.field.items) == 3
    desk.add(A)
    assert desk.row.problem == "It is in the list already."


def test_what_is_removed_in_a_row_stays_away(desk: Desk) -> None:
    for server in (A, B, C):
        desk.add(server)
        desk.store()
    first, second, _third = desk.field.items
    first.remove.click()
    second.remove.click()
    assert desk.settings.rpc_servers == (C,)
