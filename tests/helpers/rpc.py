"""Real RPC devices: ggml servers on loopback, each a child process."""

from __future__ import annotations

import contextlib
import resource
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
