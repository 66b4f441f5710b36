"""Run by `tests.helpers.rpc`: one real ggml RPC server over the CPU, until stdin ends."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from llama_cpp import _ggml, llama_cpp

from app import ggml


def main() -> None:
    """Serve `sys.argv[1]` (`host:port`) with `sys.argv[2]` CPU devices."""
    endpoint, count = sys.argv[1], int(sys.argv[2])
    llama_cpp.llama_backend_init()
    cpu = next(device.handle for device in ggml.devices() if device.kind == "cpu")
    library = _ggml.libggml
    library.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    rpc = library.ggml_backend_reg_by_name(b"RPC")
    address = library.ggml_backend_reg_get_proc_address(rpc, b"ggml_backend_rpc_start_server")
    start = ctypes.CFUNCTYPE(
        None,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    )(address)
    # The server never returns; it must not outlive the test that started it.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    handles = (ctypes.c_void_p * count)(*([cpu] * count))
    start(endpoint.encode(), None, 1, count, handles)


if __name__ == "__main__":
    main()
