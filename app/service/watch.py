"""Waits until servers that are gone answer again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable

EVERY_S = 2.0
TIMEOUT_S = 1.0


class ServerWatch:
    """Knocks at servers until each has answered."""

    def __init__(self, on_answer: Callable[[str], object], every_s: float = EVERY_S) -> None:
        """`on_answer` is told each endpoint, once, on a thread of its own."""
        self._on_answer, self._every_s = on_answer, every_s
        self._lock = threading.Lock()
        self._ended: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def watch(self, endpoints: Iterable[str]) -> None:
        """Wait for these servers, and no longer for those before."""
        self.close()
        with self._lock:
            ended = self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._wait, args=(list(endpoints), ended), name="server watch", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Wait for none; returns at once."""
        with self._lock:
            if self._ended is not None:
                self._ended.set()

    def close(self) -> None:
        """Wait for none, and for the end of the thread."""
        self.stop()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _wait(self, endpoints: list[str], ended: threading.Event) -> None:
        while endpoints and not ended.wait(self._every_s):
            for endpoint in tuple(endpoints):
                if answers(endpoint) and not ended.is_set():
                    endpoints.remove(endpoint)
                    self._on_answer(endpoint)


def answers(endpoint: str) -> bool:
    """True if something listens at `host:port`."""
    host, _, port = endpoint.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        address = (host.strip("[]"), int(port))
        with socket.create_connection(address, timeout=TIMEOUT_S):
            return True
    return False
