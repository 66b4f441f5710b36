"""Devices lent by the command, used by an engine, gone with the command."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app import processes
from app.cli import share
from app.engine.imagined import rpc_devices
from app.engine.model import EngineStateChanged
from app.engine.share import WARNING, Shared, address, shared_devices
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, ErrorKind
from tests.helpers.engines import Events, answer, engine, is_error, is_loaded, load, talk

HELLO = struct.pack("<BQ24x", 14, 24)


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


def test_a_system_that_starts_no_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "child_command", lambda _module: ["/no/such/program"])
    with (
        pytest.raises(AppError, match="Nothing can be shared") as error,
        shared_devices("127.0.0.1", 0),
    ):
        pass
    assert error.value.kind is ErrorKind.ENGINE
    with pytest.raises(AppError, match="could not be set up") as error, rpc_devices(1):
        pass
    assert error.value.kind is ErrorKind.ENGINE


def test_what_cannot_be_shared_is_named() -> None:
    with pytest.raises(AppError, match="CUDA9"), shared_devices("127.0.0.1", 0, ("CUDA9",)):
        pass
    with shared_devices("127.0.0.1", 0, ("CPU",)) as first:
        port = int(first.endpoint.split(":")[1])
        with pytest.raises(AppError, match=str(port)), shared_devices("127.0.0.1", port, ("CPU",)):
            pass


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("::1", 50052, "IPv4 only"),
        ("nowhere.invalid", 50052, "nothing has this name"),
        ("127.0.0.1", 65_536, "at most 65535"),
        ("192.0.2.1", 50052, "cannot assign"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_words(host: str, port: int, words: str) -> None:
    with pytest.raises(AppError, match=words):
        address(host, port)


def test_a_name_of_this_machine_will_do() -> None:
    with shared_devices("localhost", 0, ("CPU",)) as shared:
        assert shared.endpoint.startswith("127.0.0.1:")


def failure(supervisor: EngineSupervisor, events: Events, model: Path, endpoint: str) -> str:
    """What is told of a load that shall fail."""
    supervisor.load(
        load(
            model, devices=("RPC0",), rpc_servers=(endpoint,), gpu_layers=31, tensor_split=(31,)
        )
    )  # fmt: skip
    event = events.until(is_error)[-1]
    assert isinstance(event, EngineStateChanged)
    return str(event.error)


def test_a_server_that_serves_somebody_else_is_named_and_not_waited_for(
    starter_model: Path,
) -> None:
    with shared_devices("127.0.0.1", 0, ("CPU",)) as shared, engine() as (supervisor, events):
        host, port = shared.endpoint.split(":")
        with socket.create_connection((host, int(port))) as first:
            first.sendall(HELLO)
            assert first.recv(36), "it is served"
            assert "busy with another program" in failure(
                supervisor, events, starter_model, shared.endpoint
            )
        supervisor.load(
            load(
                starter_model, devices=("RPC0",), rpc_servers=(shared.endpoint,), gpu_layers=31,
                tensor_split=(31,),
            )
        )  # fmt: skip
        events.until(is_loaded)


@pytest.mark.parametrize(
    ("answer_bytes", "words"),
    [
        (struct.pack("<QBBBx24x", 28, 6, 1, 0), "speaks version 6.1.0"),
        (b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 40, "is no RPC server"),
        (b"", "is no RPC server"),
    ],
)
def test_what_is_no_server_of_this_engine_is_told(
    answer_bytes: bytes, words: str, starter_model: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, engine() as (supervisor, events):
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(33)
                connection.sendall(answer_bytes)

        server = threading.Thread(target=serve)
        server.start()
        assert words in failure(supervisor, events, starter_model, endpoint)
        server.join()


def test_a_server_that_drips_is_not_waited_for(starter_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, engine() as (supervisor, events):
        ended = threading.Event()

        def serve() -> None:
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                while not ended.wait(0.3):
                    connection.sendall(b"\0")

        server = threading.Thread(target=serve)
        server.start()
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        assert "or hangs" in failure(supervisor, events, starter_model, endpoint)
        ended.set()
        server.join()


def test_a_server_on_all_addresses_is_reached_at_one_of_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def shared(host: str, _port: int, _names: tuple[str, ...]) -> Iterator[Shared]:
        yield Shared(endpoint=f"{host}:50052", devices=(), wait=lambda: 1)

    monkeypatch.setattr(share, "shared_devices", shared)
    net = argparse.Namespace(family=socket.AF_INET, address="192.0.2.7")
    loopback = argparse.Namespace(family=socket.AF_INET, address="127.0.0.1")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [loopback], "eth0": [net]})
    for host, told in (("0.0.0.0", "192.0.2.7"), ("192.0.2.9", "192.0.2.9")):
        options = argparse.Namespace(host=host, port=50052, devices=None, json=False)
        with pytest.raises(AppError):
            share.share(options)
        assert f"chat --rpc {told}:50052\n" in capsys.readouterr().out
