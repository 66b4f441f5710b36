"""What `pull` draws on a terminal."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from app.cli.main import main
from app.gguf.reader import read_layout
from tests.app.download.conftest import Stage, stage
from tests.helpers import shards

__all__ = ["stage"]

LONG = "nvidia_Llama-3_1-Nemotron-Ultra-253B-v1-Q4_K_M"
_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME = re.compile(r"(?:\r?\x1b\[2K(?:\x1b\[1A)?)+")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("TTY_COMPATIBLE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERM", "xterm")


def serve(stage: Stage, starter_model: Path, stem: str, count: int) -> None:
    layout = read_layout(starter_model)
    plain = {k: v for k, v in layout.metadata.items() if not isinstance(v, tuple)}
    layout = dataclasses.replace(layout, metadata=plain)
    for file in shards.write(layout, stage.source / stem, stem, count):
        stage.hub.add(f"org/long/{file.name}", file)


@pytest.mark.usefixtures("terminal", "home")
def test_long_names_leave_room_for_bars_numbers_and_figures(
    stage: Stage, starter_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(stage, starter_model, LONG, 4)
    assert main(["pull", "hf:org/long:Q4_K_M"]) == 0
    shown = capsys.readouterr().out
    assert f"{LONG}-00001-of-00004.gguf, 4 files, " in shown
    lines = [_CODE.sub("", line).rstrip() for line in _FRAME.split(shown)[-1].splitlines()]
    last = lines[next(n for n, line in enumerate(lines) if line.startswith("00001-of")) :]
    for number in range(1, 5):
        assert re.fullmatch(rf"0000{number}-of-00004 ━{{20,}} verified", last[number - 1])
    assert re.fullmatch(r"all +━{20,} 100 %", last[4])
    assert re.fullmatch(r"100 % of [\d.]+ MB, [\d.]+ .B/s, 4 of 4 verified  done", last[5])


@pytest.mark.usefixtures("terminal", "home")
def test_of_many_shards_those_are_seen_that_fit_with_the_total(
    stage: Stage, starter_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(stage, starter_model, LONG, 30)
    assert main(["pull", "hf:org/long:Q4_K_M"]) == 0
    frames = [_CODE.sub("", frame) for frame in _FRAME.split(capsys.readouterr().out)]
    for frame in frames[1:]:
        if "of-00030 " in frame:
            assert "\nall " in frame
            assert frame.count("of-00030 ") <= 19
    assert "00030-of-00030 " in frames[-1]


@pytest.mark.usefixtures("terminal", "home")
def test_a_name_is_no_markup(
    stage: Stage, starter_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.hub.add("org/long/a[bold]b-Q8_0.gguf", starter_model)
    assert main(["pull", "hf:org/long/a[bold]b-Q8_0.gguf"]) == 0
    shown = _CODE.sub("", capsys.readouterr().out)
    assert re.search(r"^a\[bold\]b-Q8_0.gguf ━", shown, re.MULTILINE)
