"""Threads that work off jobs one after the other; what goes wrong arrives as an event."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
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


class Worker:
    """One thread."""

    def __init__(self, name: str, emit: Emit) -> None:
        """The thread starts with the first job."""
        self._emit = emit
        self._jobs = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)

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

        # After close there is nobody to hear the answer.
        with contextlib.suppress(RuntimeError):
            self._jobs.submit(guarded)

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._jobs.shutdown(wait=True, cancel_futures=True)
