"""How the app starts children of its own, by a hidden switch in a frozen build, and how signals end it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CHILD_SWITCH = "--run-child"


def child_command(module: str) -> list[str]:
    """The command line that runs `module` (for example `app.engine.worker`) as a child."""
    if getattr(sys, "frozen", False):
        return [sys.executable, CHILD_SWITCH, module]
    return [sys.executable, "-m", module]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: CUDA ordered as the bus is, this source tree importable."""
    environment = dict(os.environ)
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    environment["PYTHONUNBUFFERED"] = "1"
    # A failed assertion of ggml would start gdb on itself; the exit status and stderr say enough.
    environment["GGML_NO_BACKTRACE"] = "1"
    root = str(Path(__file__).resolve().parent.parent)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = root + (os.pathsep + inherited if inherited else "")
    environment.update(extra or {})
    return environment


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
