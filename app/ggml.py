"""A thin binding of ggml's device registry, which llama-cpp-python leaves out.

Import it only in a child process: loading backends runs driver code, and a bad
driver hangs or kills whoever asks. Signatures: ggml/include/ggml-backend.h and
ggml-rpc.h of llama.cpp as bundled with llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.metadata
import socket
import struct
import time
from collections.abc import Sequence

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
"""A server that has just lost its client still frees that one's memory."""
_HELLO = struct.pack("<BQ24x", 14, 24)
_HELLO_ANSWER = struct.Struct("<QBBBx24x")
_RPC_MAJOR = 7
"""ggml-rpc.cpp: command 14 with 24 bytes of capabilities (none here); ggml-rpc.h: the protocol's version."""

_KINDS = ("cpu", "gpu", "igpu", "accel", "meta")


class _Capabilities(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_bool)
        for name in ("async", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support")
    ]


class _Properties(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", _Capabilities),
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDevice:
    """One device of ggml's registry; `handle` is its `ggml_backend_dev_t`."""

    handle: int
    name: str
    description: str
    backend: str
    kind: str
    pci_bus_id: str | None
    endpoint: str | None
    memory_total_bytes: int
    memory_free_bytes: int


@functools.cache
def _library() -> ctypes.CDLL:
    from llama_cpp import _ggml, llama_cpp

    library: ctypes.CDLL = _ggml.libggml
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("ggml_backend_reg_count", ctypes.c_size_t, []),
        ("ggml_backend_reg_get", pointer, [ctypes.c_size_t]),
        ("ggml_backend_dev_count", ctypes.c_size_t, []),
        ("ggml_backend_dev_get", pointer, [ctypes.c_size_t]),
        ("ggml_backend_dev_get_props", None, [pointer, ctypes.POINTER(_Properties)]),
        ("ggml_backend_dev_memory", None, [pointer, pointer, pointer]),
        ("ggml_backend_dev_backend_reg", pointer, [pointer]),
        ("ggml_backend_reg_name", text, [pointer]),
        ("ggml_backend_reg_by_name", pointer, [text]),
        ("ggml_backend_reg_get_proc_address", pointer, [pointer, text]),
        ("ggml_backend_register", None, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    llama_cpp.llama_backend_init()
    return library


def engine_version() -> str:
    """Version of the installed llama-cpp-python, for example `0.3.36`."""
    return importlib.metadata.version("llama-cpp-python")


class RpcError(Exception):
    """A server cannot be used; the message says why, as a part of a sentence."""


def _connect(endpoint: str) -> socket.socket:
    """A connection to `host:port`, over IPv4, as ggml makes it.

    Raises:
        OSError: Nothing answers there.
        ValueError: That is no port.
    """
    host, _, port = endpoint.rpartition(":")
    address = socket.gethostbyname(host), int(port)
    return socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)


def check_rpc_server(endpoint: str) -> None:
    """Say hello to an RPC server, with a limit of time, which ggml itself has not.

    Raises:
        RpcError: There is none, it is another version's, or it serves somebody else.
    """
    try:
        connection = _connect(endpoint)
    except (OSError, ValueError) as error:
        raise RpcError(f"no RPC server answers at {endpoint}") from error
    answer = b""
    with connection:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        try:
            connection.sendall(_HELLO)
            while len(answer) < _HELLO_ANSWER.size:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                data = connection.recv(_HELLO_ANSWER.size - len(answer))
                if not data:
                    break
                answer += data
        except TimeoutError as error:
            raise RpcError(
                f"the RPC server at {endpoint} is busy with another program, or hangs; it serves one at a time"
            ) from error
        except OSError:
            answer = b""
    if len(answer) < _HELLO_ANSWER.size or _HELLO_ANSWER.unpack(answer)[0] != 28:
        raise RpcError(f"what answers at {endpoint} is no RPC server of this engine's version")
    major, minor, patch = _HELLO_ANSWER.unpack(answer)[1:]
    if major != _RPC_MAJOR:
        raise RpcError(
            f"the RPC server at {endpoint} speaks version {major}.{minor}.{patch} of the protocol, "
            f"this engine {_RPC_MAJOR}: both machines need the same version"
        )


def add_rpc_server(endpoint: str) -> bool:
    """Register the devices of the RPC server at `endpoint` (`host:port`).

    Returns False if this engine has no RPC backend, or if nothing answers there. That is
    tried first, since ggml ends the whole process where it cannot connect (ggml-rpc.cpp).
    """
    try:
        _connect(endpoint).close()
    except (OSError, ValueError):
        return False
    library = _library()
    rpc = library.ggml_backend_reg_by_name(b"RPC")
    address = rpc and library.ggml_backend_reg_get_proc_address(rpc, b"ggml_backend_rpc_add_server")
    if not address:
        return False
    add_server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)
    registry = add_server(endpoint.encode())
    if not registry:
        return False
    library.ggml_backend_register(registry)
    return True


def free_bytes(handle: int) -> int:
    """What the device with this `ggml_backend_dev_t` says is free now."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _library().ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    return free.value


def serve_rpc(endpoint: str, handles: Sequence[int]) -> bool:
    """Serve devices at `endpoint` (an IPv4 address and a port), in this order.

    Does not return while it works; returns False if this engine has no RPC backend, or if
    nothing can be bound there. Port 0 lets the system choose.
    """
    library = _library()
    rpc = library.ggml_backend_reg_by_name(b"RPC")
    address = rpc and library.ggml_backend_reg_get_proc_address(
        rpc, b"ggml_backend_rpc_start_server"
    )
    if not address or not handles:
        return False
    text, size, pointers = ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
    start_server = ctypes.CFUNCTYPE(None, text, text, size, size, pointers)(address)
    count = len(handles)
    start_server(endpoint.encode(), None, 1, count, (ctypes.c_void_p * count)(*handles))
    return False


def backends() -> tuple[str, ...]:
    """The backends that are compiled in, in lower case, whether they have devices or not."""
    library = _library()
    names = (
        library.ggml_backend_reg_name(library.ggml_backend_reg_get(index)).decode().lower()
        for index in range(library.ggml_backend_reg_count())
    )
    # Each RPC server registers as one more backend, named after its address.
    return tuple(sorted({"rpc" if name.startswith("rpc") else name for name in names}))


def devices(start: int = 0) -> tuple[RegisteredDevice, ...]:
    """Registered devices from number `start` on, the CPU and accelerators included, in registry order."""
    library = _library()
    result = []
    for index in range(start, library.ggml_backend_dev_count()):
        handle = library.ggml_backend_dev_get(index)
        properties = _Properties()
        library.ggml_backend_dev_get_props(handle, ctypes.byref(properties))
        registry = library.ggml_backend_dev_backend_reg(handle)
        backend = library.ggml_backend_reg_name(registry).decode()
        name = properties.name.decode()
        description = properties.description.decode()
        result.append(
            RegisteredDevice(
                handle=handle,
                name=name,
                description=description,
                backend="rpc" if backend.startswith("RPC") else backend.lower(),
                kind=_KINDS[properties.type],
                pci_bus_id=properties.device_id.decode() if properties.device_id else None,
                endpoint=description if backend.startswith("RPC") else None,
                memory_total_bytes=properties.memory_total,
                memory_free_bytes=properties.memory_free,
            )
        )
    return tuple(result)
