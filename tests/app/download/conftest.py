from __future__ import annotations

import dataclasses
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.catalog import api, tokens
from app.download.manager import DownloadManager
from app.download.model import (
    Download,
    DownloadEvent,
    DownloadFile,
    DownloadProgressed,
    DownloadRequest,
    DownloadState,
    DownloadStateChanged,
)
from app.download.source import Timing
from tests.helpers.faulty_hub import FaultyHub, faulty_hub
from tests.helpers.hub import COMMIT

QUICK = Timing(connect_s=2, stall_s=0.5, first_retry_s=0.02, longest_retry_s=0.1)
"""As in life, only faster."""


def point_at(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def make_file(path: Path, size_bytes: int, seed: int = 1) -> DownloadFile:
    """A file of random bytes, and what the Hub says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = random.Random(seed).randbytes(size_bytes)
    path.write_bytes(data)
    return DownloadFile(
        path=path.name, size_bytes=size_bytes, sha256=hashlib.sha256(data).hexdigest()
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A hub with files, and a request for them.

    Attributes:
        source: Where the hub's files are.
        folder: Where the models go.
        state: The records.
    """

    hub: FaultyHub
    source: Path
    folder: Path
    state: Path

    def serve(self, *sizes: int, repo: str = "org/repo", seed: int = 1) -> DownloadRequest:
        """Let the hub have files of these sizes; the request for all of them."""
        files = []
        for number, size in enumerate(sizes):
            path = self.source / repo / f"file-{number}.bin"
            files.append(make_file(path, size, seed + number))
            self.hub.add(f"{repo}/{path.name}", path)
        return DownloadRequest(
            repo=repo, revision="main", commit=COMMIT, files=tuple(files), folder=self.folder
        )

    def assert_right(self, request: DownloadRequest) -> None:
        """All files have the right content, and nothing else is there."""
        for file in request.files:
            data = request.target(file).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file.sha256
        there = {path for path in request.folder.rglob("*") if path.is_file()}
        assert there == {request.target(file) for file in request.files}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """A hub; nobody is logged in."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    monkeypatch.setattr(tokens, "_kept", lambda: None)
    with faulty_hub() as server:
        # The port may have been that of another one, which wanted to be left alone.
        monkeypatch.setattr(api, "_quiet_until", {})
        point_at(monkeypatch, server.endpoint)
        yield Stage(server, tmp_path / "source", tmp_path / "models", tmp_path / "state")


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Log:
    """What was told."""

    def __init__(self) -> None:
        self.events: list[DownloadEvent] = []

    def __call__(self, event: DownloadEvent) -> None:
        self.events.append(event)

    def states(self, id: str) -> list[DownloadState]:
        """Each state once for each time it was reached."""
        found: list[DownloadState] = []
        for event in self.events:
            if isinstance(event, DownloadStateChanged) and event.download.id == id:
                found += [event.download.state] if found[-1:] != [event.download.state] else []
        return found

    def assert_never_back(self, id: str) -> None:
        """No figure of a download ever fell."""
        before = None
        for event in self.events:
            if isinstance(event, DownloadProgressed) and event.id == id:
                now = event.progress
                if before is not None:
                    for old, new in zip(before.files, now.files, strict=True):
                        assert new.written_bytes >= old.written_bytes
                        assert new.hashed_bytes >= old.hashed_bytes
                        assert new.verified >= old.verified
                before = now


Make = Callable[..., DownloadManager]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def make(stage: Stage, log: Log) -> Iterator[Make]:
    made: list[DownloadManager] = []

    def build(**options: object) -> DownloadManager:
        manager = DownloadManager(stage.state, log, timing=QUICK, **options)  # type: ignore[arg-type]
        made.append(manager)
        return manager

    yield build
    for manager in made:
        manager.close()


def state_of(manager: DownloadManager, id: str) -> DownloadState:
    return next(d.state for d in manager.downloads() if d.id == id)


def reach(manager: DownloadManager, id: str, state: DownloadState) -> Download:
    wait_for(lambda: state_of(manager, id) is state)
    return next(d for d in manager.downloads() if d.id == id)
