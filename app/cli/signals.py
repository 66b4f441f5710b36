"""How SIGTERM and SIGHUP end a command: as Ctrl+C does, with an exit code of their own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt here, as Ctrl+C does; its argument is their number.

    One that is ignored, as below nohup, stays so.
    """
    terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def stop(number: int, _frame: object) -> None:
        for fd in terminals:
            if not os.isatty(fd):  # it hung up: what is still to be said goes nowhere
                with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
                    os.dup2(nowhere.fileno(), fd)
        raise KeyboardInterrupt(number)

    wanted = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    before = {n: signal.getsignal(n) for n in wanted if n is not None}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """As a shell tells that a signal ended a process: 130, or 128 with the signal's number."""
    return 128 + (int(stop.args[0]) if stop.args else signal.SIGINT)
