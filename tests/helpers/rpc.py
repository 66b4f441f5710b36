"""Real RPC devices: ggml servers on loopback, each a child process."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import threading
from typing import TYPE_CHECKING

import psutil

from app.engine.imagined import rpc_devices
from app.engine.share import shared_devices

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def rpc_servers(count: int, *, devices_each: int = 1) -> Iterator[tuple[str, ...]]:
    """Start `count` servers, each with devices of its own, and end them afterwards; yields `host:port`."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(rpc_devices(devices_each)) for _ in range(count))


def server_at(endpoint: str) -> psutil.Process:
    """The process behind one of `rpc_servers`."""
    port = int(endpoint.rpartition(":")[2])
    for child in psutil.Process().children():
        for connection in child.net_connections("tcp4"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return child
    raise LookupError(endpoint)


def leave(endpoint: str, size_bytes: int) -> None:
    """From now on the server can allocate only so much more, though it says that more is free."""
    process = server_at(endpoint)
    limit = process.memory_info().vms + size_bytes
    resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


@contextlib.contextmanager
def rpc_server_at(endpoint: str) -> Iterator[None]:
    """A server that is back where one was before."""
    host, _, port = endpoint.rpartition(":")
    with shared_devices(host, int(port), ("CPU",)):
        yield


class Cable:
    """A wire to a server, which can be cut: then nobody answers, and nobody is told so."""

    def __init__(self, endpoint: str) -> None:
        self._host, _, port = endpoint.rpartition(":")
        self._port = int(port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._cut = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Open connections stay open, but nothing goes through."""
        self._cut.set()
        for thread in list(self._threads):
            thread.join()
        self._server.close()

    def close(self) -> None:
        """Cut it, and end its connections."""
        self.cut()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        self._server.settimeout(0.05)
        while not self._cut.is_set():
            with contextlib.suppress(TimeoutError):
                near, _ = self._server.accept()
                far = socket.create_connection((self._host, self._port))
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._pass, args=(source, target))
                    thread.start()
                    self._threads.append(thread)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        # Both directions share the sockets, so neither may change their timeouts.
        while not self._cut.is_set():
            if not select.select([source], [], [], 0.05)[0]:
                continue
            try:
                data = source.recv(1 << 20)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return
