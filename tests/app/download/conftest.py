from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.catalog import tokens
from app.download.model import DownloadFile, DownloadRequest
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
        point_at(monkeypatch, server.endpoint)
        yield Stage(server, tmp_path / "source", tmp_path / "models", tmp_path / "state")
