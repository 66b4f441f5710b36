"""Devices lent by the command, used by an engine, gone with the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app import processes
from app.engine.share import WARNING, shared_devices
from app.errors import AppError
from tests.helpers.engines import answer, engine, is_loaded, load, talk


def test_the_command_lends_devices_that_an_engine_uses(starter_model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "share-gpus", "--port", "0", "--devices", "CPU", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=processes.child_environment(),
    )  # fmt: skip
    assert process.stdout is not None
    shared = json.loads(process.stdout.readline())
    host, port = shared["endpoint"].split(":")
    assert host == "127.0.0.1", "loopback unless told otherwise"
    assert int(port) > 0
    assert [name for name, _ in shared["devices"]] == ["CPU"]
    with engine() as (supervisor, events):
        supervisor.load(
            load(
                starter_model, devices=("RPC0",), rpc_servers=(shared["endpoint"],),
                gpu_layers=31, tensor_split=(31,),
            )
        )  # fmt: skip
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Hello"), limit=4).text
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert WARNING in words
    assert "no password" in words
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)


def test_what_cannot_be_shared_is_named() -> None:
    with pytest.raises(AppError, match="CUDA9"), shared_devices("127.0.0.1", 0, ("CUDA9",)):
        pass
    with shared_devices("127.0.0.1", 0, ("CPU",)) as first:
        port = int(first.endpoint.split(":")[1])
        with pytest.raises(AppError, match=str(port)), shared_devices("127.0.0.1", port, ("CPU",)):
            pass
