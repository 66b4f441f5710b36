"""Real RPC devices: ggml servers on loopback, each a child process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from app.engine.imagined import rpc_devices

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def rpc_servers(count: int, *, devices_each: int = 1) -> Iterator[tuple[str, ...]]:
    """Start `count` servers, each with devices of its own, and end them afterwards; yields `host:port`."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(rpc_devices(devices_each)) for _ in range(count))
