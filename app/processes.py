"""How the app starts children of its own: a hidden switch in a frozen build, `-m` otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

CHILD_SWITCH = "--run-child"


def strange_endpoint() -> str:
    """Why HF_ENDPOINT can be no address, as sentences; empty if it may be one.

    With such a one huggingface_hub does not even load, so programs look before they load it.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urlsplit(endpoint).port
    except ValueError as error:
        return f"HF_ENDPOINT is {endpoint!a}, and can be no address: {error}. Correct or unset it."
    return ""


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


def killed_for_memory() -> int:
    """Processes that this system killed for lack of memory since it started; 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def die_with_parent() -> None:
    """Called by a child: the system kills it as soon as the thread that started it is gone.

    So even one that is stopped, or that never looks at its stdin, outlives its parent by no
    moment. Linux alone knows this; elsewhere the end of stdin must do.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
