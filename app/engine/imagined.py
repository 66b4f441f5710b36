"""Devices that are not there, for dry runs: a child process serves this CPU as several of them.

The child listens on loopback only, at a port that the system chooses, and ends when its stdin
does, thus with its parent. ggml's RPC protocol has no authentication: let it run no longer than
a dry run takes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import psutil

from app import processes
from app.errors import AppError, ErrorKind

START_S = 60.0
HOST = "127.0.0.1"
_POLL_S = 0.01


@contextlib.contextmanager
def rpc_devices(count: int) -> Iterator[str]:
    """Serve `count` devices; yields the server's endpoint, `host:port`.

    Raises:
        AppError: The server did not start.
    """
    try:
        child = subprocess.Popen(
            processes.child_command("app.engine.imagined"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.child_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise AppError(
            "The devices of an imagined machine could not be set up on this one.",
            detail=f"The system started no process for them: {error.strerror or error}.",
            hint="Close other programs, then try again, or leave --confirm out.",
            kind=ErrorKind.ENGINE,
        ) from error
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - pipes
    deadline = threading.Timer(START_S, child.kill)
    deadline.start()
    try:
        with contextlib.suppress(OSError):  # it may have ended already
            child.stdin.write(f"{count}\n")
            child.stdin.flush()
        port = child.stdout.readline().strip()
        deadline.cancel()
        if not port:
            raise AppError(
                "The devices of an imagined machine could not be set up on this one.",
                detail="llama.cpp's RPC server did not start.",
                hint="Build the engine again with `make engine`, or leave --confirm out.",
                kind=ErrorKind.ENGINE,
            )
        yield f"{HOST}:{port}"
    finally:
        deadline.cancel()
        child.kill()
        child.wait()
        deadline.join()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                stream.close()


def main() -> None:
    """The child: read the number of devices, tell the port, serve."""
    from app import ggml

    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ggml prints to fd 1
    count = int(sys.stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()
    threading.Thread(target=tell_port, args=(private,), daemon=True).start()
    cpu = next(device.handle for device in ggml.devices() if device.kind == "cpu")
    ggml.serve_rpc(f"{HOST}:0", [cpu] * count)
    os._exit(1)


def end_with_parent() -> None:
    """Runs in a thread: the end of stdin ends the process."""
    sys.stdin.read()
    os._exit(0)


def tell_port(out: TextIO) -> None:
    """Say where the server listens as soon as it does; ggml itself does not tell."""
    me = psutil.Process()
    while True:
        for connection in me.net_connections("tcp4"):
            if connection.status == psutil.CONN_LISTEN:
                out.write(f"{connection.laddr.port}\n")
                out.flush()
                return
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main()
