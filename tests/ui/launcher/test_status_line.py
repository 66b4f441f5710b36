"""The launcher's foot: stages of a load, a question after a long silence, an alarm."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from app.engine.model import EngineState, EngineStateChanged
from app.engine.protocol import LoadProgressed
from app.errors import AppError
from ui.launcher.status_line import StatusLine


@pytest.fixture
def line(qtbot: QtBot) -> StatusLine:
    line = StatusLine()
    qtbot.addWidget(line)
    line.show()
    return line


def reading(elapsed_s: float = 12, silent_s: float | None = None) -> EngineStateChanged:
    progress = LoadProgressed(
        stage="reading", shard=2, shards=4, device=1, devices=8, fraction=0.4, bytes_per_s=3.1e9,
        done_bytes=60_000_000_000, total_bytes=150_900_000_000,
    )  # fmt: skip
    return EngineStateChanged(
        state=EngineState.LOADING, stage="reading", fraction=0.4, elapsed_s=elapsed_s,
        expected_s=52, silent_s=silent_s, progress=None if silent_s else progress,
    )  # fmt: skip


def test_a_load_tells_its_stage_its_share_and_its_time(qtbot: QtBot, line: StatusLine) -> None:
    line.set_engine(reading())
    assert line.label.text() == "Reading shard 2 of 4, 3.1 GB/s · device 1 of 8"
    assert line.detail.text() == "60.0 GB of 150.9 GB · about 40 s left, last time 52 s"
    assert (line.bar.isVisible(), line.bar.value()) == (True, 40)
    qtbot.waitUntil(lambda: "about 39 s left" in line.detail.text(), timeout=5000)
    line.set_engine(
        EngineStateChanged(
            state=EngineState.LOADING, stage="warming_up", elapsed_s=60, expected_s=52,
            progress=LoadProgressed(stage="warming_up"),
        )
    )  # fmt: skip
    assert line.label.text() == "Warm-up"
    assert line.detail.text() == "60 s so far, last time 52 s"
    assert (line.bar.minimum(), line.bar.maximum()) == (0, 0), "nobody knows how far it is"
    line.set_engine(EngineStateChanged(state=EngineState.READY))
    assert line.label.text() == "Loaded and ready."
    assert not line.bar.isVisible()
    assert not line.detail.isVisible()


def test_silence_asks_once_and_what_was_shown_stays(qtbot: QtBot, line: StatusLine) -> None:
    line.set_engine(reading())
    line.set_engine(reading(140, silent_s=125))
    assert "does not compute" in line.question.text.text()
    assert line.question.isVisible()
    assert line.label.text().startswith("Reading shard 2 of 4")
    with qtbot.waitSignal(line.stop_clicked):
        line.question.accept.click()
    line.question.wait.click()
    line.set_engine(reading(200, silent_s=185))
    assert not line.question.isVisible(), "the person waits"
    line.set_engine(reading(201))
    line.set_engine(reading(330, silent_s=125))
    assert line.question.isVisible(), "another silence, another question"


def test_an_alarm_stays_until_it_is_read_or_another_model_comes(
    qtbot: QtBot, line: StatusLine
) -> None:
    line.alarm.show_error(str(AppError("5.3 GiB lie in main memory.", hint="Move layers.")))
    line.set_engine(EngineStateChanged(state=EngineState.GENERATING))
    assert line.alarm.isVisible()
    assert line.alarm.text.property("state") == "error"
    with qtbot.waitSignal(line.split_clicked):
        line.alarm.action.click()
    line.set_engine(EngineStateChanged(state=EngineState.STARTING))
    assert not line.alarm.isVisible()
