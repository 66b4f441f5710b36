"""Runs a probe as a child with a timeout; a hang or a crash concerns that child alone."""

from __future__ import annotations

import subprocess

from app import processes


class ProbeError(Exception):
    """A probe's child hung, died or answered nonsense; the message says which."""


def ask(module: str, *arguments: str, timeout_s: float) -> str:
    """What the child printed.

    Raises:
        ProbeError: It hung or died.
    """
    command = [*processes.child_command(module), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=processes.child_environment(),
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"no answer within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ProbeError(f"ended with {done.returncode}: {last[0]}")
    return done.stdout
