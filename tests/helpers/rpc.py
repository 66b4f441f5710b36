"""Real RPC devices: ggml servers on loopback, each a child process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from app import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 60


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def rpc_servers(count: int, *, devices_each: int = 1) -> Iterator[tuple[str, ...]]:
    """Start `count` servers, wait until each listens, and end them afterwards; yields `host:port`."""
    endpoints = tuple(f"127.0.0.1:{free_port()}" for _ in range(count))
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.rpc_server", endpoint, str(devices_each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=processes.child_environment(),
        )
        for endpoint in endpoints
    ]
    try:
        for child, endpoint in zip(children, endpoints, strict=True):
            _wait_until_listening(child, endpoint)
        yield endpoints
    finally:
        for child in children:
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()


def _wait_until_listening(child: subprocess.Popen[bytes], endpoint: str) -> None:
    host, port = endpoint.split(":")
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"RPC server ended with {child.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(endpoint)
