"""The chat in a terminal: a load's stages, and an engine that hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest

from app import processes
from app.cli.load_line import LoadLine
from app.engine.model import EngineState, EngineStateChanged
from app.engine.protocol import LoadProgressed

IMPATIENT = """
import functools, sys
from app.engine.supervisor import EngineSupervisor
from app.service import engine
engine.EngineSupervisor = functools.partial(EngineSupervisor, stall_s=0.4)
from app.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


def loading(**values: object) -> EngineStateChanged:
    progress = LoadProgressed.model_validate({"stage": "reading"} | values)
    return EngineStateChanged(state=EngineState.LOADING, stage=progress.stage, progress=progress)


def test_a_terminal_shows_one_line_and_a_file_one_a_stage() -> None:
    events = (
        EngineStateChanged(state=EngineState.STARTING),
        loading(shard=1, shards=2),
        loading(shard=2, shards=2),
        loading(stage="warming_up"),
    )
    screen, file = Screen(), StringIO()
    for stream in (screen, file):
        line = LoadLine(stream)
        for event in events:
            line.show(event)
        line.clear()
    assert "\n" not in screen.getvalue()
    assert [part.strip() for part in screen.getvalue().split("\r")][1:-1] == [
        "Starting the engine", "Reading shard 1 of 2", "Reading shard 2 of 2", "Warm-up", "",
    ]  # fmt: skip
    assert file.getvalue().splitlines() == [
        "Starting the engine", "Reading shard 1 of 2", "Warm-up",
    ]  # fmt: skip


def test_a_line_is_never_longer_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    progress = LoadProgressed(
        stage="reading", shard=2, shards=4, bytes_per_s=3.1e9, device=1, devices=8,
        done_bytes=37_700_000_000, total_bytes=150_900_000_000,
    )  # fmt: skip
    event = EngineStateChanged(
        state=EngineState.LOADING, stage="reading", progress=progress, elapsed_s=12, expected_s=49
    )
    screen = Screen()
    line = LoadLine(screen)
    line.show(event)
    line.show(event)
    line.clear()
    assert "Reading shard 2 of 4" in screen.getvalue()
    assert max(map(len, screen.getvalue().split("\r"))) == 59


class Talk:
    """One who types into a chat, and reads its events."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._keys = process, process.stdin
        self.lines: Iterator[dict[str, object]] = map(json.loads, process.stdout)

    def say(self, text: str) -> None:
        self._keys.write(f"{text}\n")
        self._keys.flush()

    def until(self, *kinds: str) -> dict[str, object]:
        found = next(line for line in self.lines if line["type"] in (*kinds, "error"))
        assert found["type"] in kinds, found
        return found

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        self._keys.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def own_model(starter_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(starter_model, tmp_path / "model.gguf"))


@pytest.fixture
def process(own_model: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", IMPATIENT, "chat", "--json", "--context", "2048"]
    command += ["--model", str(own_model)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=processes.child_environment(),
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_an_engine_that_hangs_is_told_and_ctrl_c_ends_it(process: subprocess.Popen[str]) -> None:
    talk = Talk(process)
    stages = []
    for line in talk.lines:
        if line["type"] == "loading":
            stages.append(line["stage"])
        if line["type"] == "loaded":
            break
    assert list(dict.fromkeys(stages)) == ["reading", "allocating", "warming_up"]
    talk.say("Tell a very long story.")
    said = talk.until("text")["text"]
    children = psutil.Process(process.pid).children(recursive=True)
    worker = next(c for c in children if "app.engine.worker" in c.cmdline())
    worker.suspend()
    assert talk.until("silent")["computing"] is False
    talk.interrupt()
    ended = talk.until("finished")
    assert str(ended["text"]).startswith(str(said))
    assert "nothing was heard of it" in str(ended["error"])
    assert not worker.is_running()
    talk.say("Name a colour.")
    assert talk.until("text")["text"], "it loads again"
    talk.interrupt()
    assert talk.until("finished")["error"] is None
    talk.end()


def test_commands_of_a_chat_that_was_unloaded(process: subprocess.Popen[str]) -> None:
    talk = Talk(process)
    talk.until("loaded")
    talk.say("Tell a very long story.")
    talk.until("text")
    talk.interrupt()
    begun = str(talk.until("finished")["text"])
    talk.say("/unload save")
    assert talk.until("snapshot")["state"] == "saving"
    assert talk.until("snapshot")["state"] == "saved"
    for no_way in ("/²", f"/{'9' * 5000}"):
        talk.say(no_way)
    talk.say("/continue")
    talk.until("loaded")
    talk.until("text")
    talk.interrupt()
    whole = str(talk.until("finished")["text"])
    assert whole.startswith(begun)
    assert len(whole) > len(begun)
    talk.end()


def test_neither_ctrl_c_nor_a_load_that_fails_ends_the_chat(
    process: subprocess.Popen[str], own_model: Path
) -> None:
    talk = Talk(process)
    talk.until("loaded")
    talk.say("Reply with one word.")
    first = talk.until("prompt_read")["total"]
    talk.until("finished")
    talk.say("/unload")
    away = own_model.rename(own_model.with_suffix(".away"))
    talk.say("What is asked here is kept.")
    failed = talk.until("error")
    assert "model.gguf" in f"{failed['title']} {failed['detail']}"
    away.rename(own_model)
    for _ in range(20):  # the load is short: it may be over before it is stopped
        talk.say("/reload")
        talk.until("loading")
        talk.interrupt()
        if talk.until("stopped", "loaded")["type"] == "stopped":
            break
    else:
        pytest.fail("no load was stopped")
    talk.say("")
    talk.until("loaded")
    assert int(str(talk.until("prompt_read")["total"])) > 1.5 * int(str(first)), (
        "it has the first turn"
    )
    assert talk.until("finished")["outcome"] == "complete"
    talk.end()
