"""Lends this machine's devices to other machines, by llama.cpp's RPC server in a child process.

The child ends when its stdin does, thus with its parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from app import processes
from app.engine.imagined import end_with_parent, tell_port
from app.errors import AppError, ErrorKind

MOST_PORT = 65_535
WARNING = (
    "The RPC protocol has no password and no encryption: whoever reaches this address can use the "
    "devices, and read what is computed on them. Share in a network that you trust, never on the internet."
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is lent.

    Attributes:
        endpoint: `host:port`, as other machines are told.
        devices: Name and description of each, in order.
        wait: Returns once the server has ended by itself.
    """

    endpoint: str
    devices: tuple[tuple[str, str], ...]
    wait: Callable[[], int]


@contextlib.contextmanager
def shared_devices(host: str, port: int, names: tuple[str, ...] = ()) -> Iterator[Shared]:
    """Lend devices until the block ends.

    Args:
        host: An IPv4 address of this machine, or a name of one.
        port: 0 lets the system choose.
        names: As llama.cpp lists them; all GPUs if empty, or the CPU where there is none.

    Raises:
        AppError: A device is unknown, or nothing can be bound there.
    """
    host = address(host, port)
    try:
        child = subprocess.Popen(
            processes.child_command("app.engine.share"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=processes.child_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise AppError(
            f"Nothing can be shared at {host}:{port}.",
            detail=f"The system started no process for it: {error.strerror or error}.",
            hint="Close other programs, then try again.",
            kind=ErrorKind.ENGINE,
        ) from error
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - pipes
    assert child.stderr is not None  # noqa: S101 - a pipe
    last: list[str] = []
    drain = threading.Thread(target=_drain, args=(child.stderr, last), daemon=True)
    drain.start()
    try:
        with contextlib.suppress(OSError):  # it may have ended already
            child.stdin.write(json.dumps({"host": host, "port": port, "names": names}) + "\n")
            child.stdin.flush()
        devices = child.stdout.readline().strip()
        listening = child.stdout.readline().strip()
        if not devices or not listening:
            child.wait()
            drain.join()
            raise AppError(
                f"Nothing can be shared at {host}:{port}.",
                detail=last[-1] if last else "",
                hint="Choose another port or address, and devices that `detect` shows.",
                kind=ErrorKind.HARDWARE,
            )
        yield Shared(
            endpoint=f"{host}:{listening}",
            devices=tuple((name, words) for name, words in json.loads(devices)),
            wait=child.wait,
        )
    finally:
        child.kill()
        child.wait()
        drain.join()
        for stream in (child.stdin, child.stdout, child.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def address(host: str, port: int) -> str:
    """The IPv4 address of `host`, once it is sure that the port can be bound there.

    llama.cpp's server takes no other (ggml-rpc/transport.cpp, `create_server`), and tells no reason.

    Raises:
        AppError: It is another kind of address, not this machine's, or in use.
    """

    def refused(reason: str, hint: str) -> AppError:
        title = f"Nothing can be shared at {host}:{port}: {reason}."
        return AppError(title, hint=hint, kind=ErrorKind.USAGE)

    if ":" in host:
        raise refused("llama.cpp's RPC speaks IPv4 only", "Give an IPv4 address of this machine.")
    if not 0 <= port <= MOST_PORT:
        raise refused(f"a port is at most {MOST_PORT}", "Choose another one; 50052 is usual.")
    try:
        found = socket.gethostbyname(host)
    except OSError as error:
        raise refused("nothing has this name", "Give an IPv4 address of this machine.") from error
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((found, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            hint = "Choose another port, or another address of this machine."
            raise refused(reason, hint) from error
    return found


def _drain(stream: Iterator[str], last: list[str]) -> None:
    for line in stream:
        last[:] = [*last[-4:], line.strip()]


def main() -> None:
    """The child: read what to share, tell the devices and the port, serve."""
    from app import ggml

    processes.die_with_parent()
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ggml prints to fd 1
    wanted = json.loads(sys.stdin.readline())
    found = {device.name: device for device in ggml.devices()}
    names = wanted["names"] or [d.name for d in found.values() if d.kind in ("gpu", "igpu")]
    names = names or [device.name for device in found.values() if device.kind == "cpu"]
    unknown = [name for name in names if name not in found]
    if unknown:
        sys.exit(f"The engine does not see {', '.join(unknown)}.")
    private.write(json.dumps([(name, found[name].description) for name in names]) + "\n")
    private.flush()
    threading.Thread(target=end_with_parent, daemon=True).start()
    threading.Thread(target=tell_port, args=(private,), daemon=True).start()
    endpoint = f"{wanted['host']}:{wanted['port']}"
    ggml.serve_rpc(endpoint, [found[name].handle for name in names])
    print(f"{endpoint} cannot be bound.", file=sys.stderr, flush=True)  # noqa: T201 - to the parent
    os._exit(1)


if __name__ == "__main__":
    main()
