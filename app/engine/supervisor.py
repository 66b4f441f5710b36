"""The thread that owns the engine's process: starts it, listens to it, outlives its crashes."""

from __future__ import annotations

import collections
import contextlib
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import assert_never

from app import processes
from app.engine import diagnose, protocol, safety
from app.engine.model import (
    EngineEvent,
    EngineState,
    EngineStateChanged,
    ModelLoaded,
    SafetyApplied,
    TokensCounted,
    TurnEnded,
    TurnProgressed,
)
from app.errors import AppError

Listener = Callable[[EngineEvent], None]
SHUTDOWN_S = 2.0
STDERR_LINES = 200
_BUSY = (EngineState.PREFILL, EngineState.GENERATING)


class _Close:
    """Tells the thread to end."""


class _Unload:
    """Tells the thread to end the process."""


class _Ended:
    """The process `child` closed its output."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child


class _Said:
    """The process `child` sent a line."""

    def __init__(self, child: subprocess.Popen[str], line: str) -> None:
        self.child, self.line = child, line


class EngineSupervisor:
    """Drives one worker process from one thread. All methods return at once and may be called anywhere.

    Events reach `listener` on the supervisor's thread. There is no deadline on anything that
    works: a load of 150 GB or a long prompt takes as long as it takes, and can be cancelled.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        store: safety.SafetyStore | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the thread; no process before the first load."""
        self._listener = listener
        self._store = store
        self._environment = environment
        self._inbox: queue.Queue[protocol.Command | _Close | _Unload | _Ended | _Said] = (
            queue.Queue()
        )
        self._child: subprocess.Popen[str] | None = None
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._readers: list[threading.Thread] = []
        self._state = EngineState.STOPPED
        self._command: protocol.Load | None = None
        self._step: str | None = None
        self._turn: int | None = None
        self._stage = ""
        self._thread = threading.Thread(target=self._run, name="engine supervisor", daemon=True)
        self._thread.start()

    @property
    def state(self) -> EngineState:
        """Where the engine is now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def load(self, command: protocol.Load) -> None:
        """Load a model in a new process; the one before is ended first."""
        self._inbox.put(command)

    def generate(self, command: protocol.Generate) -> None:
        """Answer a conversation."""
        self._inbox.put(command)

    def count_tokens(self, command: protocol.CountTokens) -> None:
        """Ask for a number of tokens; the answer is an event."""
        self._inbox.put(command)

    def cancel(self) -> None:
        """Stop the running turn or load."""
        self._inbox.put(protocol.Cancel())

    def unload(self) -> None:
        """End the process, so that all its memory comes back."""
        self._inbox.put(_Unload())

    def close(self) -> None:
        """End process and thread, and wait for both."""
        self._inbox.put(_Close())
        self._thread.join()

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        while True:
            item = self._inbox.get()
            if isinstance(item, _Close):
                self._end_child()
                return
            if isinstance(item, _Unload):
                self._set(EngineState.STOPPING)
                self._end_child()
                self._finish_turn(None)
                self._set(EngineState.STOPPED)
            elif isinstance(item, _Said):
                if item.child is self._child:
                    self._receive(item.line)
            elif isinstance(item, _Ended):
                if item.child is self._child:
                    self._crashed()
            else:
                self._obey(item)

    def _obey(self, command: protocol.Command) -> None:
        match command:
            case protocol.Load():
                self._command = command
                self._step = self._store.get() if self._store else None
                self._start()
            case protocol.Generate():
                if self._state is not EngineState.READY:
                    error = diagnose.turn_failed(_failed("generate", "no model is loaded"))
                    self._listener(TurnEnded(turn=command.turn, error=error))
                    return
                self._turn = command.turn
                self._set(EngineState.PREFILL)
                self._send(command)
            case protocol.Cancel():
                if self._state is EngineState.LOADING or self._state is EngineState.STARTING:
                    self._end_child()
                    self._set(EngineState.STOPPED)
                elif self._state in _BUSY:
                    self._send(command)
            case protocol.CountTokens() | protocol.Shutdown():
                self._send(command)
            case _:
                assert_never(command)

    def _start(self) -> None:
        """A new process for the current load."""
        assert self._command is not None  # noqa: S101 - set by every caller
        self._end_child()
        self._finish_turn(None)
        self._stderr.clear()
        self._stage = ""
        self._set(EngineState.STARTING)
        try:
            child = subprocess.Popen(
                processes.child_command("app.engine.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=processes.child_environment(self._environment),
                start_new_session=True,
            )
        except OSError as error:
            self._set(EngineState.CRASHED, error=diagnose.crashed(None, str(error)))
            return
        self._child = child
        self._readers = [
            threading.Thread(target=self._read, args=(child,), name="engine stdout", daemon=True),
            threading.Thread(target=self._drain, args=(child,), name="engine stderr", daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._send(safety.apply(self._command, self._step))

    def _read(self, child: subprocess.Popen[str]) -> None:
        for line in child.stdout or ():
            self._inbox.put(_Said(child, line))
        self._inbox.put(_Ended(child))

    def _drain(self, child: subprocess.Popen[str]) -> None:
        for line in child.stderr or ():
            self._stderr.append(line)

    def _send(self, command: protocol.Command) -> None:
        child = self._child
        if child is None or child.stdin is None:
            return
        # A broken pipe means that the process is gone; the end of its output tells the rest.
        with contextlib.suppress(OSError, ValueError):
            child.stdin.write(command.model_dump_json() + "\n")
            child.stdin.flush()

    def _receive(self, line: str) -> None:  # noqa: C901 - one arm a message
        try:
            message = protocol.message_adapter.validate_json(line)
        except ValueError:
            self._stderr.append(line)
            return
        match message:
            case protocol.Hello():
                self._set(EngineState.LOADING, stage="reading")
            case protocol.LoadProgressed():
                self._stage = message.stage
                self._set(EngineState.LOADING, stage=message.stage, fraction=message.fraction)
            case protocol.Loaded():
                self._loaded(message)
            case protocol.PrefillProgressed():
                self._listener(TurnProgressed(message=message))
            case protocol.TokensGenerated():
                if self._state is EngineState.PREFILL:
                    self._set(EngineState.GENERATING)
                self._listener(TurnProgressed(message=message))
            case protocol.TurnFinished():
                self._turn = None
                self._set(EngineState.READY)
                self._listener(TurnEnded(turn=message.turn, finished=message))
            case protocol.TokensCounted():
                self._listener(TokensCounted(request=message.request, tokens=message.tokens))
            case protocol.Failed():
                self._failed(message)
            case _:
                assert_never(message)

    def _loaded(self, message: protocol.Loaded) -> None:
        assert self._command is not None  # noqa: S101 - a load was sent
        if self._step and self._store and self._store.get() != self._step:
            self._store.put(self._step)
            self._listener(SafetyApplied(setting=self._step, sentence=safety.STEPS[self._step]))
        self._set(EngineState.READY)
        self._listener(ModelLoaded(model_path=self._command.model_path, loaded=message))

    def _failed(self, failed: protocol.Failed) -> None:
        if failed.stage == "load":
            path = self._command.model_path if self._command else ""
            self._end_child()
            self._set(EngineState.STOPPED, error=diagnose.load_failed(failed, path))
        elif failed.stage == "generate" and failed.turn is not None:
            self._turn = None
            self._set(EngineState.READY)
            self._listener(TurnEnded(turn=failed.turn, error=diagnose.turn_failed(failed)))

    def _crashed(self) -> None:
        child = self._child
        assert child is not None  # noqa: S101 - the caller compared it
        loading = self._state is EngineState.LOADING and self._stage in ("allocating", "warming_up")
        returncode = child.wait()
        self._end_child()
        error = diagnose.crashed(returncode, "".join(self._stderr))
        step = safety.next_step(self._step)
        if loading and returncode < 0 and step is not None and self._store is not None:
            self._step = step
            self._start()
            return
        self._finish_turn(error)
        self._set(EngineState.CRASHED, error=error)

    def _finish_turn(self, error: AppError | None) -> None:
        """A turn that lost its process ends; what had arrived stays with the listener."""
        turn, self._turn = self._turn, None
        if turn is not None:
            stopped = error or diagnose.crashed(None, "")
            self._listener(TurnEnded(turn=turn, error=stopped))

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                child.stdin.close()
        try:
            child.wait(SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for reader in self._readers:
            reader.join()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()

    def _set(
        self,
        state: EngineState,
        *,
        stage: str = "",
        fraction: float | None = None,
        error: AppError | None = None,
    ) -> None:
        self._state = state
        path = self._command.model_path if self._command else None
        self._listener(
            EngineStateChanged(
                state=state, stage=stage, fraction=fraction, model_path=path, error=error
            )
        )


def _failed(stage: str, detail: str) -> protocol.Failed:
    return protocol.Failed.model_validate({"stage": stage, "reason": "other", "detail": detail})
