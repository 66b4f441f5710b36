"""The engine's process as its parent sees it: a pipe in, a pipe out, and what it said at the end."""

from __future__ import annotations

import collections
import contextlib
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping

import psutil

from app import processes
from app.engine import protocol

SHUTDOWN_S = 2.0
STDERR_LINES = 200


class WorkerProcess:
    """One worker with its threads; `said` and `ended` are called on one of them.

    Nothing here waits for the worker to read: one that hangs must not hang its parent, too.
    """

    def __init__(
        self,
        said: Callable[[WorkerProcess, str], None],
        ended: Callable[[WorkerProcess], None],
        environment: Mapping[str, str] | None,
    ) -> None:
        """Start it.

        Raises:
            OSError: The system cannot.
        """
        self._said, self._ended = said, ended
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._killed_before = processes.killed_for_memory()
        self._child = subprocess.Popen(
            processes.child_command("app.engine.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=processes.child_environment(environment),
            start_new_session=True,
        )
        self._outbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._write, name="engine stdin", daemon=True),
            threading.Thread(target=self._read, name="engine stdout", daemon=True),
            threading.Thread(target=self._drain, name="engine stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int | None:
        """The process id while it lives."""
        return self._child.pid if self._child.poll() is None else None

    @property
    def stderr(self) -> str:
        """The end of what it wrote there."""
        return "".join(self._stderr)

    @property
    def starved(self) -> bool:
        """True if it was killed, and the system killed something for lack of memory since its start."""
        killed = self._child.poll() == -signal.SIGKILL
        return killed and processes.killed_for_memory() > self._killed_before

    def note(self, line: str) -> None:
        """Keep a line that is no message beside what it wrote to stderr."""
        self._stderr.append(line)

    def processor_s(self) -> float:
        """Processor time that it used so far."""
        try:
            times = psutil.Process(self._child.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def send(self, command: protocol.Command) -> None:
        """A line to its stdin, once it reads."""
        self._outbox.put(protocol.command_line(command))

    def wait(self) -> int:
        """The exit status once it has ended by itself."""
        return self._child.wait()

    def end(self) -> None:
        """End it, by force where it does not obey, and wait for the threads."""
        child = self._child
        self._outbox.put(None)
        try:
            child.wait(SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for thread in self._threads:
            thread.join()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()

    def _write(self) -> None:
        """Runs in a thread; the end of stdin tells the worker to end."""
        stdin = self._child.stdin
        assert stdin is not None  # noqa: S101 - a pipe
        # A broken pipe means that the process is gone; the end of its output tells the rest.
        with contextlib.suppress(OSError):
            while (line := self._outbox.get()) is not None:
                stdin.write(line)
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()

    def _read(self) -> None:
        for line in self._child.stdout or ():
            self._said(self, line)
        self._ended(self)

    def _drain(self) -> None:
        for line in self._child.stderr or ():
            self._stderr.append(line)
