"""In the window: search, page, plan, download three shards, be killed, start again, go on, load, chat."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.faulty_hub import FaultyHub, faulty_hub
from tests.helpers.hub import Repo
from tests.helpers.split import split

REPO = "acme/SmolLM2-135M-Instruct-GGUF"
TIMEOUT_S = 90.0
LOST_BYTES = 8 * 1024 * 1024
"""Fetched again after a kill at most."""


class Window:
    """The app in a process of its own: orders go in, what can be seen comes out."""

    def __init__(self, endpoint: str, log: Path) -> None:
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(log.parent / "hf"),
            "QT_QPA_PLATFORM": "offscreen",
        }
        environment.pop("HF_TOKEN", None)
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.window_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        self.seen: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.seen = json.loads(line)
                self._changed.notify_all()

    def do(self, what: str, text: str = "") -> None:
        """Let the person do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, "text": text}) + "\n")
        self.process.stdin.flush()

    def wait(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """What is seen once `condition` holds of it."""
        with self._changed:
            met = self._changed.wait_for(lambda: self.seen and condition(self.seen), TIMEOUT_S)
        log = Path(self._log.name).read_text()[-2000:]
        assert met, f"last seen: {self.seen}\n{log}"
        return self.seen

    def kill(self) -> None:
        """As a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self._ended()

    def close(self) -> None:
        """As a person closes it."""
        if self.process.poll() is None:
            self.do("close")
        self._ended()

    def _ended(self) -> None:
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream is not None:
                stream.close()


@pytest.fixture
def server(tmp_path: Path, starter_model: Path) -> Iterator[FaultyHub]:
    shards = split(starter_model, tmp_path / "served", "SmolLM2-135M-Instruct-Q4_1", 33_000_000)
    assert len(shards) == 3
    with faulty_hub() as hub:
        for shard in shards:
            hub.add(f"{REPO}/{shard.name}", shard)
        hub.repos[REPO] = Repo(downloads=7, gguf={"total": 134_515_008, "architecture": "llama"})
        yield hub


@pytest.mark.engine
@pytest.mark.slow
def test_from_search_to_chat_with_a_kill_at_sixty_per_cent(
    server: FaultyHub, tmp_path: Path, home: Path
) -> None:
    total = sum(file.stat().st_size for file in server.files.values())
    server.rate = 2_000_000
    first = Window(server.endpoint, tmp_path / "first.log")
    try:
        first.wait(lambda seen: "primary" in seen)
        first.do("go", "Models")
        first.do("search", "smollm2")
        first.wait(lambda seen: REPO in seen["found"])
        first.do("open", REPO)
        seen = first.wait(lambda seen: seen["primary"].startswith("Download Q4_1, 98.4 MB"))
        seen = first.wait(lambda seen: seen["plan"])
        assert seen["answer"] == "Yes, with Q4_1"
        assert "all 30 layers" in seen["plan"], "planned from headers alone"
        assert server.sent_bytes < 16 * 1024 * 1024, "nothing but headers was read for it"
        before = server.sent_bytes
        first.do("primary")
        first.wait(lambda seen: seen["written"] >= 0.6 * total)
    finally:
        first.kill()
    assert not list((home / "models").rglob("*-00003-of-00003.gguf")), "it was not done"
    written = server.sent_bytes - before

    server.rate = None
    second = Window(server.endpoint, tmp_path / "second.log")
    try:
        seen = second.wait(lambda seen: seen["download"])
        assert seen["written"] >= 0.5 * total, "the figures begin where they were"
        seen = second.wait(lambda seen: seen["download"].startswith("Done"))
        assert seen["files"] == ["Verified"] * 3
        assert server.sent_bytes - before <= total + LOST_BYTES, f"{written} before the kill"
        for name, source in server.files.items():
            there = home / "models" / name
            assert digest(there) == digest(source)
        assert not list((home / "models").rglob("*.part"))
        second.do("go", "Downloads")
        second.do("load")
        seen = second.wait(lambda seen: seen["launcher"] == "Open chat")
        second.do("launcher")
        second.wait(lambda seen: seen["sendable"])
        second.do("ask", "Say hello.")
        assert second.wait(lambda seen: seen["said"])["said"].strip()
    finally:
        second.close()
    assert second.process.returncode == 0


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
