"""An RPC server whose devices claim to have as much memory as a test wants: a proxy before a real one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

_GET_DEVICE_MEMORY = 11
"""RPC_CMD_GET_DEVICE_MEMORY in ggml-rpc.cpp; a request is | command | size | data |, an answer | size | data |."""


@contextlib.contextmanager
def with_memory(endpoint: str, free: Sequence[int]) -> Iterator[str]:
    """Pass everything through to `endpoint`, but answer for the memory of its devices; yields `host:port`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while not ended.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                thread = threading.Thread(target=_serve, args=(client, endpoint, free))
                thread.start()
                threads.append(thread)

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            acceptor.join()
            for thread in threads:
                thread.join()


def _serve(client: socket.socket, endpoint: str, free: Sequence[int]) -> None:
    """One connection, until either side ends it."""
    host, _, port = endpoint.rpartition(":")
    asked: list[int] = []
    with client, socket.create_connection((host, int(port))) as upstream:
        client.settimeout(None)
        answers = threading.Thread(target=_answers, args=(upstream, client, asked, free))
        answers.start()
        with contextlib.suppress(OSError, EOFError):
            while True:
                head = _exactly(client, 9)
                command, size = struct.unpack("<BQ", head)
                data = _exactly(client, size)
                if command == _GET_DEVICE_MEMORY:
                    asked.append(struct.unpack("<I", data[:4])[0])
                upstream.sendall(head + data)
        with contextlib.suppress(OSError):
            upstream.shutdown(socket.SHUT_RDWR)
        answers.join()


def _answers(
    upstream: socket.socket, client: socket.socket, asked: list[int], free: Sequence[int]
) -> None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            head = _exactly(upstream, 8)
            data = _exactly(upstream, struct.unpack("<Q", head)[0])
            if asked and len(data) == 16:
                memory = free[asked.pop(0)]
                data = struct.pack("<QQ", memory, memory)
            client.sendall(head + data)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
