"""Threads that work off jobs one after the other; what goes wrong arrives as an event."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from app.errors import Action, AppError, Cancelled
from app.events import AppEvent, OperationFailed

Emit = Callable[[AppEvent], None]
log = logging.getLogger("app.service")


class Listeners:
    """All who are told of everything, on the thread that tells it."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._listeners: list[Emit] = []

    def add(self, listener: Emit) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, event: AppEvent) -> None:
        """Everybody gets it."""
        for listener in tuple(self._listeners):
            listener(event)


HUB_CLOSE_S = 2.0
"""A request that hangs holds up no end of the app for longer."""


class Worker:
    """One thread."""

    def __init__(self, name: str, emit: Emit) -> None:
        """The thread starts with the first job."""
        self._emit = emit
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self, job: Callable[[], object], on_error: Callable[[AppError], object] | None = None
    ) -> None:
        """Run `job` after those before it; an `AppError` goes to `on_error`, else it is told as failed."""

        def guarded() -> None:
            try:
                job()
            except AppError as error:
                if on_error is not None:
                    on_error(error)
                else:
                    self._emit(OperationFailed(error=error))
            except Cancelled:
                pass
            except Exception as error:  # the one reporter of bugs
                log.exception("a job failed")
                text = AppError(
                    "Something went wrong inside the app.",
                    detail=f"{type(error).__name__}: {error}",
                    hint="The log has the details: run `ultra-launcher doctor`.",
                    action=Action.COPY_DIAGNOSTICS,
                )
                self._emit(OperationFailed(error=text))

        with self._lock:
            if self._closed:
                return  # there is nobody to hear the answer
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._jobs.put(guarded)

    def close(self, timeout_s: float | None = None) -> None:
        """Drop what waits, and wait for what runs; after `timeout_s` seconds it is left to itself."""
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            job()


def close_soon(*workers: Worker) -> None:
    """Close workers that ask the Hub, in `HUB_CLOSE_S` together."""
    until = time.monotonic() + HUB_CLOSE_S
    for worker in workers:
        worker.close(max(0.0, until - time.monotonic()))
