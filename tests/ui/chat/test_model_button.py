"""The menu of the model on top of the chat."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from app.catalog.library import Library, LocalModel, State
from app.catalog.places import Origin
from app.events import LibraryScanned, SnapshotMeasured
from app.plan.model import Verdict
from app.plan.overview import Fit
from ui.chat.chat_view import ChatView
from ui.chat.model_button import MOST_MODELS, SAVE, ModelButton


def local(name: str, state: State = State.COMPLETE) -> LocalModel:
    return LocalModel(
        name=name,
        origin=Origin.APP,
        files=(Path(f"/models/{name}.gguf"),),
        state=state,
        size_bytes=98_400_000,
        quantization="Q4_1",
    )


def test_other_models_on_this_disk_are_one_click_away(qtbot: QtBot) -> None:
    button = ModelButton()
    qtbot.addWidget(button)
    button.set_model("One", "/models/One.gguf")
    models = (local("One"), local("A&B"), local("Huge"), local("Half", State.INCOMPLETE))
    fits = {"/models/Huge.gguf": Fit(verdict=Verdict.TOO_LARGE)}
    button.set_library(LibraryScanned(library=Library(models=models), fits=fits))
    one, other, huge, _separator = button.models
    assert button.menu.actions()[:3] == [one, other, huge]
    assert one.isChecked()
    assert not one.isEnabled()
    assert other.text() == "A&&B   Q4_1, 98.4 MB"
    assert (huge.isEnabled(), huge.toolTip()) == (False, "It does not fit on this machine.")
    with qtbot.waitSignal(button.model_chosen) as chosen:
        other.trigger()
    assert chosen.args == ["/models/A&B.gguf"]
    button.set_model("A&B", "/models/A&B.gguf")
    assert [action.isChecked() for action in button.models[:2]] == [False, True]


def test_many_models_are_on_their_own_page(qtbot: QtBot) -> None:
    button = ModelButton()
    qtbot.addWidget(button)
    models = tuple(local(f"Model {n}") for n in range(MOST_MODELS + 3))
    button.set_library(LibraryScanned(library=Library(models=models), fits={}))
    last = button.menu.actions()[-1]
    assert last.text() == "3 more models"
    with qtbot.waitSignal(button.models_clicked):
        last.trigger()


def test_the_kv_cache_can_be_saved_once_an_answer_has_ended(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ChatView()
    qtbot.addWidget(view)
    view.show()
    view._begin()
    view.set_engine("loaded", ready=True)  # said before the end of the answer
    view._end()
    size = SnapshotMeasured(
        size_bytes=10**6, tokens=40, kept_bytes=0, limit_bytes=10**9, free_bytes=10**9
    )
    view.model.menu_opened.connect(lambda: view.model.set_measured(size))
    monkeypatch.setattr(view.model.menu, "popup", lambda _at: None)
    view.model.click()
    save = next(a for a in view.model.menu.actions() if a.text().startswith(SAVE))
    assert save.isEnabled()
