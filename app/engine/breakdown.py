"""llama.cpp's own account of a context's memory, to the byte.

`llama_get_memory_breakdown` (src/llama-ext.h) returns a `std::map` by value; it is walked here as
libstdc++ lays it out (bits/stl_tree.h). Where the C++ library is another one, `read` returns None.
"""

from __future__ import annotations

import ctypes
import dataclasses
import platform
from collections.abc import Iterator

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_NODES = 1_000


class _Node(ctypes.Structure):
    """`_Rb_tree_node<pair<ggml_backend_buffer_type_t, llama_memory_breakdown_data>>`."""

    _fields_ = [
        ("color", ctypes.c_int),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    ]


class _Map(ctypes.Structure):
    """`std::map`: an empty comparator, the header node, the number of nodes."""

    _fields_ = [
        ("compare", ctypes.c_void_p),
        ("color", ctypes.c_int),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BufferMemory:
    """Bytes in buffers of one type; `device` is its `ggml_backend_dev_t`, None on the host."""

    name: str
    device: int | None
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int


def read(context: int) -> tuple[BufferMemory, ...] | None:
    """Memory of the `llama_context` at `context`, or None where this engine cannot tell."""
    if platform.system() != "Linux":
        return None
    import llama_cpp.llama_cpp as lib
    from llama_cpp import _ggml

    get = getattr(lib._lib, _SYMBOL, None)  # noqa: SLF001 - the binding leaves it out
    if get is None:
        return None
    get.restype, get.argtypes = _Map, [ctypes.c_void_p]
    ggml = _ggml.libggml
    pointer = ctypes.c_void_p
    for name, result in (
        ("ggml_backend_buft_name", ctypes.c_char_p),
        ("ggml_backend_buft_get_device", pointer),
        ("ggml_backend_buft_is_host", ctypes.c_bool),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, [pointer]
    found = get(context)
    if not 0 < found.count <= _MOST_NODES:
        return None
    return tuple(
        BufferMemory(
            name=ggml.ggml_backend_buft_name(node.buffer_type).decode(),
            device=None
            if ggml.ggml_backend_buft_is_host(node.buffer_type)
            else ggml.ggml_backend_buft_get_device(node.buffer_type),
            weights_bytes=node.model,
            kv_cache_bytes=node.context,
            compute_bytes=node.compute,
        )
        for node in _walk(found.root)
    )


def _walk(address: int | None) -> Iterator[_Node]:
    if address:
        node = _Node.from_address(address)
        yield from _walk(node.left)
        yield node
        yield from _walk(node.right)
