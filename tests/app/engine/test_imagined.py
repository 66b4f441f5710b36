"""Devices that are not there: real servers in real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from app import processes
from app.engine.imagined import rpc_devices
from app.errors import AppError

TIMEOUT_S = 60
PARENT = """
import sys, psutil
from app.engine.imagined import rpc_devices
with rpc_devices(2):
    print(psutil.Process().children()[0].pid, flush=True)
    sys.stdin.read()
"""


def test_it_listens_on_loopback_only_and_ends_with_its_block() -> None:
    with rpc_devices(3) as endpoint:
        host, _, port = endpoint.partition(":")
        (child,) = psutil.Process().children()
        listening = [c for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert [tuple(c.laddr) for c in listening] == [(host, int(port))]
        assert host == "127.0.0.1"
    assert not child.is_running()
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port))):
        pass


def test_it_ends_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=processes.child_environment(),
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _gone, alive = psutil.wait_procs([child], timeout=TIMEOUT_S)
    assert not alive


def test_a_server_that_does_not_start_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AppError, match="could not be set up") as caught, rpc_devices(1):
        pass
    assert "make engine" in caught.value.hint


def test_several_at_once_do_not_meet() -> None:
    with rpc_devices(1) as first, rpc_devices(1) as second:
        assert first != second
        assert len(psutil.Process(os.getpid()).children()) == 2
