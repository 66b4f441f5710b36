"""The chat in a terminal: a load's stages, and an engine that hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO

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


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", IMPATIENT, "chat", "--json", "--context", "2048"]
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
    assert process.stdin is not None
    assert process.stdout is not None
    lines: Iterator[dict[str, object]] = map(json.loads, process.stdout)
    stages = []
    for line in lines:
        if line["type"] == "loading":
            stages.append(line["stage"])
        if line["type"] == "loaded":
            break
    assert list(dict.fromkeys(stages)) == ["reading", "allocating", "warming_up"]
    process.stdin.write("Tell a very long story.\n")
    process.stdin.flush()
    said = next(line for line in lines if line["type"] == "text")["text"]
    children = psutil.Process(process.pid).children(recursive=True)
    worker = next(c for c in children if "app.engine.worker" in c.cmdline())
    worker.suspend()
    silent = next(line for line in lines if line["type"] == "silent")
    assert silent["computing"] is False
    os.kill(process.pid, signal.SIGINT)
    ended = next(line for line in lines if line["type"] == "finished")
    assert str(ended["text"]).startswith(str(said))
    assert "nothing was heard of it" in str(ended["error"])
    assert not worker.is_running()
    process.stdin.write("Name a colour.\n")
    process.stdin.flush()
    assert next(line for line in lines if line["type"] == "text")["text"], "it loads again"
    process.stdin.close()
    os.kill(process.pid, signal.SIGINT)
    assert next(line for line in lines if line["type"] == "finished")["error"] is None
    assert process.wait(30) == 0


def test_commands_of_a_chat_that_was_unloaded(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    lines: Iterator[dict[str, object]] = map(json.loads, process.stdout)

    def say(text: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{text}\n")
        process.stdin.flush()

    def until(kind: str) -> dict[str, object]:
        found = next(line for line in lines if line["type"] in (kind, "error"))
        assert found["type"] == kind, found
        return found

    until("loaded")
    say("Tell a very long story.")
    until("text")
    os.kill(process.pid, signal.SIGINT)
    begun = str(until("finished")["text"])
    say("/unload save")
    assert until("snapshot")["state"] == "saving"
    assert until("snapshot")["state"] == "saved"
    for no_way in ("/²", f"/{'9' * 5000}"):
        say(no_way)
    say("/continue")
    until("loaded")
    until("text")
    os.kill(process.pid, signal.SIGINT)
    whole = str(until("finished")["text"])
    assert whole.startswith(begun)
    assert len(whole) > len(begun)
    process.stdin.close()
    assert process.wait(30) == 0
