"""Both ends of a probe's child process: a hang or a crash of a driver concerns that child alone."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from app import processes

KILL_WAIT_S = 1.0
ERROR_LINES = 20


class ProbeError(Exception):
    """A probe's child hung, died or answered nonsense; the message says which.

    Attributes:
        lines: What it had printed until then.
        errors: The end of its stderr.
        hung: True if it was killed for its silence.
    """

    def __init__(
        self, message: str, *, lines: Sequence[str] = (), errors: str = "", hung: bool = False
    ) -> None:
        """Keep what the child left."""
        super().__init__(message)
        self.lines = tuple(lines)
        self.errors = errors
        self.hung = hung


class NotStartedError(ProbeError):
    """The system started no child: it has no memory, or no files, left."""


class Child:
    """A running probe whose output arrives line by line.

    Lines go to `on_line` in a thread of their own, None at the end. The child's stdin stays
    open: its end tells the child that this process is gone.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], on_line: Callable[[str | None], None]
    ) -> None:
        """Start `python -m module arguments...`."""
        self._process = subprocess.Popen(
            [*processes.child_command(module), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=processes.child_environment(),
            text=True,
            errors="replace",
            # A session of its own: Ctrl+C is for the app, and whatever it starts ends with it.
            start_new_session=os.name == "posix",
        )
        self._on_line = on_line
        self._error_lines: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_output, name=f"{module} output", daemon=True),
            threading.Thread(target=self._read_errors, name=f"{module} errors", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def errors(self) -> str:
        """The end of its stderr so far."""
        return "\n".join(self._error_lines)

    def send(self, line: str) -> None:
        """Write a line to its stdin; one that has ended ignores it."""
        stdin = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            if stdin is not None:
                stdin.write(line + "\n")
                stdin.flush()

    def wait(self) -> int | None:
        """Its exit status once its output has ended; None if it stays although killed."""
        try:
            return self._process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it, with all that it started. One stuck in the kernel is left to the kernel."""
        if self._process.poll() is None and os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self.close()

    def close(self) -> None:
        """Wait for its end and for the readers, not for ever."""
        self.wait()
        for reader in self._readers:
            reader.join(KILL_WAIT_S)
        if not any(reader.is_alive() for reader in self._readers):
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    stream.close() if stream is not None else None

    def _read_output(self) -> None:
        for line in self._process.stdout or ():
            self._on_line(line.rstrip("\n"))
        self._on_line(None)

    def _read_errors(self) -> None:
        for line in self._process.stderr or ():
            self._error_lines.append(line.rstrip("\n"))
            del self._error_lines[:-ERROR_LINES]


def ask(
    module: str, *arguments: str, timeout_s: float, next_timeout_s: float | None = None
) -> list[str]:
    """What the child `module` printed, line by line.

    Args:
        module: Run with `-m`.
        arguments: For the child.
        timeout_s: How long the first line may take, and all of them if nothing else is said.
        next_timeout_s: How long each later line may take.

    Raises:
        ProbeError: It could not be started, hung or died.
    """
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    try:
        child = Child(module, arguments, arrived.put)
    except OSError as error:
        raise NotStartedError(f"could not be started ({error.strerror or error})") from error
    lines: list[str] = []
    deadline = time.monotonic() + timeout_s
    try:
        while (line := arrived.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            lines.append(line)
            if next_timeout_s is not None:
                deadline = time.monotonic() + next_timeout_s
        status = child.wait()
    except queue.Empty:
        waited_s = timeout_s if next_timeout_s is None or not lines else next_timeout_s
        message = f"no answer within {waited_s:g} s"
        child.kill()
        raise ProbeError(message, lines=lines, errors=child.errors, hung=True) from None
    finally:
        child.kill()
    if status != 0:
        raise ProbeError(ended(status), lines=lines, errors=child.errors)
    return lines


def ended(status: int | None) -> str:
    """An exit status in words: `ended with status 1`, `was killed by SIGSEGV`."""
    if status is None:
        return "cannot be ended"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


# --- in the child -----------------------------------------------------------


def private_stdout() -> TextIO:
    """A stream to the real stdout; what C code prints there goes to stderr from now on."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def exit_with_parent(on_line: Callable[[str], None] | None = None) -> None:
    """End this process as soon as stdin ends, whatever the main thread hangs in.

    Lines that come before are handed to `on_line`.
    """

    def watch() -> None:
        # Not through sys.stdin: its lock, held here, would make the interpreter's end fail.
        rest = b""
        while data := os.read(0, 4096):
            *lines, rest = (rest + data).split(b"\n")
            if on_line is not None:
                for line in lines:
                    on_line(line.decode())
        os._exit(0)

    threading.Thread(target=watch, name="stdin", daemon=True).start()
