"""The page of settings in the real window, on the real service."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState
from app.engine.protocol import Sampling
from app.errors import AppError
from app.events import ModelChosen, OperationFailed
from app.gguf import bundled
from app.plan.model import KvCacheType
from app.service import AppService
from app.settings.entries import on_page
from app.settings.model import Appearance, LoadMode, Settings
from ui import theme
from ui.main_window import MainWindow
from ui.settings.controls import ChoiceField, LineField, SwitchField, TextField
from ui.settings.lists import BiasField, LinesField
from ui.settings.setting_row import SettingRow
from ui.theme.tokens import DARK, LIGHT

TIMEOUT_MS = 30_000
LOAD_MS = 90_000


@dataclasses.dataclass(slots=True)
class Desk:
    window: MainWindow
    service: AppService
    qtbot: QtBot

    def row(self, key: str) -> SettingRow:
        return self.window.settings.view.rows[key]

    def line(self, key: str) -> LineField:
        field = self.row(key).field
        assert isinstance(field, LineField)
        return field

    def type(self, key: str, text: str) -> None:
        """As a person does: the old text is replaced, and it counts by itself."""
        line = self.line(key).line
        line.setFocus()
        line.selectAll()
        self.qtbot.keyClick(line, Qt.Key.Key_Backspace)
        self.qtbot.keyClicks(line, text)

    def until(self, **values: object) -> None:
        def reached() -> bool:
            return self.service.settings.model_dump().items() >= values.items()

        self.qtbot.waitUntil(reached, timeout=TIMEOUT_MS)

    def problem(self, key: str) -> str:
        told = self.row(key).told
        shown = told.word.text() if told.isVisibleTo(self.window) else ""
        return shown if self.row(key).problem == shown else ""

    def until_problem(self, key: str) -> str:
        self.qtbot.waitUntil(lambda: bool(self.problem(key)), timeout=TIMEOUT_MS)
        return self.problem(key)

    def until_drawn(self, key: str) -> None:
        """What was entered is stored, and the page has heard of it."""
        row = self.row(key)
        self.qtbot.waitUntil(
            lambda: not row.field.unsaved and not self.problem(key), timeout=TIMEOUT_MS
        )


@pytest.fixture
def desk(qtbot: QtBot) -> Iterator[Desk]:
    service = AppService()
    window = MainWindow(service)
    qtbot.addWidget(window)
    window.show()
    window.show_page("Settings")
    yield Desk(window, service, qtbot)
    window.close()
    service.close()


def test_every_setting_has_a_row_and_starts_without_reset(desk: Desk) -> None:
    view = desk.window.settings.view
    assert view.rows.keys() == {entry.key for entry in on_page()}
    for row in view.rows.values():
        assert not row.back.isVisibleTo(desk.window), row.entry.key
        assert not row.field.unsaved
    assert desk.window.rail._items["Settings"].isChecked()


def test_choices_switches_and_numbers_are_stored_at_once(desk: Desk) -> None:
    loading = desk.row("load_mode").field
    assert isinstance(loading, ChoiceField)
    assert loading.segments is not None
    loading.segments._buttons["Read"].click()
    assert desk.service.settings.load_mode is LoadMode.READ
    cache = desk.row("kv_type_k").field
    assert isinstance(cache, ChoiceField)
    assert cache.combo is not None
    cache.combo.setFocus()
    desk.qtbot.keyClicks(cache.combo, "q8_0")
    desk.until(kv_type_k=KvCacheType.Q8_0)
    desk.type("reply_reserve", "2k")
    desk.until(reply_reserve=2048)
    desk.until_drawn("reply_reserve")
    assert desk.line("reply_reserve").line.text() == "2k", "as it was written, while it is edited"
    back = desk.row("reply_reserve").back
    assert back.text() == "Reset to 1,024"
    back.click()
    desk.until(reply_reserve=1024)
    desk.qtbot.waitUntil(lambda: desk.line("reply_reserve").line.text() == "1,024")


def test_what_is_not_possible_is_told_kept_in_the_field_and_never_stored(desk: Desk) -> None:
    before = desk.service.settings
    desk.type("micro_batch", "8")
    assert desk.until_problem("micro_batch") == (
        "8 is not possible. It is a whole number from 16 to 4,096 tokens."
    )
    desk.type("sampling.temperature", "warm")
    assert "“warm” is not possible" in desk.until_problem("sampling.temperature")
    assert desk.service.settings == before
    desk.service.put_setting(desk.row("reply_reserve").entry, 77)
    desk.qtbot.waitUntil(lambda: desk.line("reply_reserve").line.text() == "77")
    desk.window.show_page("Chat")
    desk.window.show_page("Settings")
    assert desk.line("micro_batch").line.text() == "8", "another change does not take it away"
    assert desk.line("sampling.temperature").line.text() == "warm"
    assert desk.problem("micro_batch")
    desk.row("micro_batch").back.click()
    assert desk.line("micro_batch").line.text() == "512"
    assert not desk.problem("micro_batch")
    desk.type("sampling.temperature", "0.25")
    desk.until(sampling={"temperature": 0.25})
    desk.until_drawn("sampling.temperature")


def test_automatic_is_a_switch(desk: Desk) -> None:
    context = desk.line("context")
    assert context.automatic is not None
    assert context.automatic.isChecked()
    assert not context.line.isEnabled()
    context.automatic.click()
    assert context.line.isEnabled()
    assert not desk.problem("context"), "an empty field that was just opened is no fault"
    desk.qtbot.keyClicks(context.line, "4096")
    desk.until(context=4096)
    desk.until_drawn("context")
    context.automatic.click()
    desk.until(context=None)
    assert context.line.text() == ""


def test_what_was_typed_last_counts_when_the_page_is_left(desk: Desk) -> None:
    desk.type("sampling.top_k", "7")
    assert desk.service.settings.sampling == {}
    desk.window.show_page("Machine")
    assert desk.service.settings.sampling == {"top_k": 7}
    desk.window.show_page("Settings")
    desk.type("sampling.top_k", "8")
    desk.window.close()
    assert desk.service.settings.sampling == {"top_k": 8}


def test_lists_grow_and_shrink(desk: Desk, tmp_path: Path) -> None:
    servers = desk.row("rpc_servers").field
    assert isinstance(servers, LinesField)
    desk.qtbot.keyClicks(servers.line, "127.0.0.1")
    servers.add_button.click()
    assert "“127.0.0.1” is not an address" in desk.until_problem("rpc_servers")
    assert servers.line.text() == "127.0.0.1"
    desk.qtbot.keyClicks(servers.line, ":5")
    desk.qtbot.keyClick(servers.line, Qt.Key.Key_Return)
    desk.until(rpc_servers=("127.0.0.1:5",))
    desk.qtbot.waitUntil(lambda: servers.line.text() == "" and len(servers.items) == 1)
    assert not desk.problem("rpc_servers")
    servers.items[0].remove.click()
    desk.until(rpc_servers=())
    folders = desk.row("model_folders").field
    assert isinstance(folders, LinesField)
    folders.line.setText(str(tmp_path / "none"))
    folders.add_button.click()
    assert "There is no folder" in desk.until_problem("model_folders")
    folders.line.setText(str(tmp_path))
    folders.add_button.click()
    desk.until(model_folders=(str(tmp_path),))


def test_biases_are_a_table_of_tokens(desk: Desk) -> None:
    biases = desk.row("sampling.logit_bias").field
    assert isinstance(biases, BiasField)
    desk.qtbot.keyClicks(biases.line, " the")
    biases.add_button.click()
    assert "is no bias" in desk.until_problem("sampling.logit_bias")
    desk.qtbot.keyClicks(biases.bias, "-5")
    biases.add_button.click()
    desk.until(sampling={"logit_bias": [[" the", -5.0]]})
    desk.qtbot.waitUntil(lambda: biases.line.text() == biases.bias.text() == "")
    biases.kind.setCurrentText("Token")
    desk.qtbot.keyClicks(biases.line, "42")
    desk.qtbot.keyClicks(biases.bias, "-100")
    desk.qtbot.keyClick(biases.bias, Qt.Key.Key_Return)
    desk.until(sampling={"logit_bias": [[" the", -5.0], [42, -100.0]]})


def test_a_broken_grammar_is_told_before_any_turn_and_stays_in_its_field(desk: Desk) -> None:
    grammar = desk.row("sampling.grammar").field
    schema = desk.row("sampling.json_schema").field
    assert isinstance(grammar, TextField)
    assert isinstance(schema, TextField)
    grammar.box.setPlainText("root ::= (")
    assert "expecting ')'" in desk.until_problem("sampling.grammar")
    assert grammar.box.toPlainText() == "root ::= ("
    assert desk.service.settings.sampling == {}
    for text in ("root ::= [", 'root ::= "yes"'):  # the second while the first is checked
        grammar.box.setPlainText(text)
        grammar.commit()
    desk.until(sampling={"grammar": 'root ::= "yes"'})
    desk.until_drawn("sampling.grammar")
    schema.box.setPlainText('{"type": ')
    assert "This is not JSON" in desk.until_problem("sampling.json_schema")
    schema.box.clear()
    desk.until_drawn("sampling.json_schema")
    assert desk.service.settings.sampling == {"grammar": 'root ::= "yes"'}


def test_advice_of_the_makers_is_shown_and_what_differs_goes_back_to_it(desk: Desk) -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    desk.service.planning.layout = layout
    desk.window.receive(ModelChosen(layout=layout))
    row = desk.row("sampling.temperature")
    assert desk.line("sampling.temperature").line.text() == "0", "greedy without reasoning"
    assert row.note.text() == "As the model's makers advise."
    prompt = desk.row("system_prompt").field
    assert isinstance(prompt, TextField)
    prompt.box.setPlainText("detailed thinking on")
    desk.until(system_prompt="detailed thinking on")
    field = desk.line("sampling.temperature").line
    desk.qtbot.waitUntil(lambda: field.text() == "0.6", timeout=TIMEOUT_MS)
    desk.type("sampling.temperature", "1.1")
    desk.until(sampling={"temperature": 1.1})
    desk.until_drawn("sampling.temperature")
    assert row.note.text() == "Differs from what the model's makers advise: 0.6."
    assert row.back.text() == "Reset to 0.6"
    view = desk.window.settings.view
    buttons = {b.text(): b for b in view.findChildren(QPushButton)}
    buttons["Reset all sampling"].click()
    desk.until(sampling={})
    desk.qtbot.waitUntil(lambda: field.text() == "0.6", timeout=TIMEOUT_MS)


def test_what_needs_a_load_says_so_and_offers_it(desk: Desk) -> None:
    view = desk.window.settings.view
    view.show_settings(Settings(threads=2, reply_reserve=5), Sampling(), Settings())
    assert view.waiting.word.text() == "In effect once the model is loaded again: Threads."
    assert view.reload.isVisible()
    assert desk.row("threads").told.isVisibleTo(desk.window)
    assert not desk.row("reply_reserve").told.isVisibleTo(desk.window)
    view.show_settings(Settings(), Sampling(), Settings())
    assert not view.reload.isVisible()


def test_reload_loads_with_what_was_changed(desk: Desk) -> None:
    service, view = desk.service, desk.window.settings.view
    service.settings = Settings(context=512)
    service.start(load=True)
    ready = lambda: service.engine.state is EngineState.READY  # noqa: E731
    desk.qtbot.waitUntil(lambda: service.engine.loaded is not None and ready(), timeout=LOAD_MS)
    desk.row("threads").field.show_value(2)
    desk.type("threads", "1")
    desk.until(threads=1)
    desk.qtbot.waitUntil(view.reload.isVisible, timeout=TIMEOUT_MS)
    service.engine.loaded = None
    view.reload.click()
    assert desk.window.rail._items["Machine"].isChecked()
    desk.qtbot.waitUntil(lambda: service.engine.loaded is not None and ready(), timeout=LOAD_MS)
    assert service.engine.loaded is not None
    assert service.engine.loaded.loaded.threads == 1
    desk.window.show_page("Settings")
    desk.qtbot.waitUntil(lambda: not view.reload.isVisible(), timeout=TIMEOUT_MS)


def test_the_search_leaves_what_was_looked_for(desk: Desk) -> None:
    view = desk.window.settings.view
    desk.qtbot.keyClicks(view.search, "dry")
    shown = {key for key, row in view.rows.items() if row.isVisibleTo(view)}
    assert shown == {key for key in view.rows if ".dry_" in key}
    view.search.setText("no such thing")
    assert view._nothing.isVisibleTo(view)
    assert "no such thing" in view._nothing.text()
    view.search.clear()
    assert all(row.isVisibleTo(view) for row in view.rows.values())


def test_the_look_follows_its_settings(desk: Desk) -> None:
    look = desk.row("appearance").field
    assert isinstance(look, ChoiceField)
    assert look.segments is not None
    look.segments._buttons["Dark"].click()
    desk.qtbot.waitUntil(lambda: theme.current() == DARK, timeout=TIMEOUT_MS)
    assert desk.service.settings.appearance is Appearance.DARK
    contrast = desk.row("high_contrast").field
    assert isinstance(contrast, SwitchField)
    contrast.switch.click()
    desk.qtbot.waitUntil(lambda: theme.current().line_strong == DARK.muted, timeout=TIMEOUT_MS)
    look.segments._buttons["Light"].click()
    desk.qtbot.waitUntil(lambda: theme.current().line_strong == LIGHT.muted, timeout=TIMEOUT_MS)


def test_the_wheel_scrolls_and_changes_nothing(desk: Desk) -> None:
    cache = desk.row("kv_type_k").field
    assert isinstance(cache, ChoiceField)
    assert cache.combo is not None
    chosen = cache.combo.currentIndex()
    cache.combo.setFocus()
    event = QWheelEvent(
        QPointF(5, 5), QPointF(5, 5), QPoint(0, -120), QPoint(0, -120),
        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(cache.combo, event)
    assert cache.combo.currentIndex() == chosen
    assert desk.service.settings == Settings()


def test_an_error_is_shown_on_the_page_too(desk: Desk) -> None:
    desk.window.receive(OperationFailed(error=AppError("The settings could not be saved.")))
    assert desk.window.settings.view.error.isVisible()
