"""The thread that owns the engine's process: starts it, listens to it, outlives its crashes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import assert_never

from app.engine import diagnose, files, inbox, protocol, safety
from app.engine.load_times import LoadTimes
from app.engine.model import (
    EngineEvent,
    EngineState,
    EngineStateChanged,
    ModelLoaded,
    SafetyApplied,
    TurnEnded,
    TurnProgressed,
)
from app.engine.process import WorkerProcess
from app.engine.silence import STALL_S, Silence
from app.errors import AppError, ErrorKind

Listener = Callable[[EngineEvent], None]
log = logging.getLogger("app.engine.supervisor")
_BUSY = (EngineState.PREFILL, EngineState.GENERATING)
_LOADING = (EngineState.STARTING, EngineState.LOADING)


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
        times: LoadTimes | None = None,
        stall_s: float = STALL_S,
        idle_s: float | None = None,
        on_idle: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the thread; no process before the first load.

        `on_idle` is called once nothing was asked for `idle_s` seconds; without it the process is ended.
        """
        self._listener = listener
        self._on_idle = on_idle or self._unload
        self._store, self._times = store, times
        self._silence = Silence(stall_s)
        self._idle_s = None if idle_s is None else float(idle_s)
        self._heard_at = self._started_at = time.monotonic()
        self._expected_s: float | None = None
        self._files: files.Fingerprint = {}
        self._environment = environment
        self._inbox: queue.Queue[inbox.Item | inbox.Close] = queue.Queue()
        self._snapshots: dict[int, inbox.SnapshotListener] = {}
        self._child: WorkerProcess | None = None
        self._state = EngineState.STOPPED
        self._command: protocol.Load | None = None
        self._step: str | None = None
        self._turn: int | None = None
        self._progress: protocol.LoadProgressed | None = None
        self._thread = threading.Thread(target=self._run, name="engine supervisor", daemon=True)
        self._thread.start()

    def unload_when_idle(self, after_s: float | None) -> None:
        """Call that idle where nothing was asked for so long; None is never."""
        self._inbox.put(inbox.IdleLimit(after_s))

    @property
    def state(self) -> EngineState:
        """Where the engine is now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        child = self._child
        return child.pid if child is not None else None

    def load(self, command: protocol.Load) -> None:
        """Load a model in a new process; the one before is ended first."""
        self._inbox.put(command)

    def generate(self, command: protocol.Generate) -> None:
        """Answer a conversation."""
        self._inbox.put(command)

    def snapshot(self, command: protocol.Snapshot, done: inbox.SnapshotListener) -> None:
        """Measure, save or restore the KV cache; `done` hears of it on the supervisor's thread."""
        self._inbox.put(inbox.TakeSnapshot(command, done))

    def cancel(self) -> None:
        """Stop the running turn or load."""
        self._inbox.put(protocol.Cancel())

    def unload(self) -> None:
        """End the process, so that all its memory comes back."""
        self._inbox.put(inbox.Unload())

    def close(self) -> None:
        """End process and thread, and wait for both."""
        self._inbox.put(inbox.Close())
        self._thread.join()

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                item = self._inbox.get(timeout=self._patience_s())
            except queue.Empty:
                if self._runs:
                    self._listen_for_silence()
                else:
                    self._heard_at = time.monotonic()
                    self._on_idle()
                continue
            if isinstance(item, inbox.Close):
                self._end_child()
                return
            try:
                self._handle(item)
            except Exception:
                # Nobody would hear of the engine again once this thread has ended.
                log.exception("the engine's thread failed")
                if isinstance(item, protocol.Load):
                    self._end_child()
                    self._set(EngineState.CRASHED, error=diagnose.crashed(None, ""))

    def _handle(self, item: inbox.Item) -> None:
        if isinstance(item, inbox.IdleLimit):
            self._idle_s = item.after_s
        elif isinstance(item, inbox.Unload):
            self._unload()
        elif isinstance(item, inbox.TakeSnapshot):
            self._snapshots[item.command.request] = item.done
            self._send(item.command)
            if self._child is None:
                self._lose_snapshots("no model is loaded")
        elif isinstance(item, inbox.Said):
            if item.child is self._child:
                self._receive(item.line)
        elif isinstance(item, inbox.Ended):
            if item.child is self._child:
                self._crashed()
        else:
            self._obey(item)

    def _unload(self) -> None:
        error = diagnose.given_up() if self._silence.asked else None
        self._set(EngineState.STOPPING)
        self._end_child()
        # Whoever hears of the turn's end may load again at once.
        self._set(EngineState.STOPPED, error=error)
        self._finish_turn(error)

    def _patience_s(self) -> float | None:
        """How long to wait for something to happen before doing something about it."""
        if self._runs:
            return self._silence.look_s
        idle = self._state is EngineState.READY and not self._snapshots
        if idle and self._idle_s is not None:
            return max(0.0, self._heard_at + self._idle_s - time.monotonic())
        return None

    @property
    def _runs(self) -> bool:
        return self._state in _BUSY or self._state in _LOADING

    def _listen_for_silence(self) -> None:
        """Nothing was heard: once for long, say so, and ask; a turn whose end got lost is found out."""
        computed_s = self._child.processor_s() if self._child is not None else 0.0
        silence = self._silence.look(computed_s)
        if silence is None:
            return
        self._set(self._state, silence=silence)
        if self._turn is not None:
            self._send(protocol.Ping(turn=self._turn))

    def _obey(self, command: protocol.Command) -> None:
        match command:
            case protocol.Load():
                self._command = command
                self._step = self._store.get() if self._store else None
                self._start()
            case protocol.Generate():
                problem = self._problem()
                if problem is not None:
                    self._listener(TurnEnded(turn=command.turn, error=problem))
                    return
                self._turn = command.turn
                self._silence.heard()
                self._set(EngineState.PREFILL)
                self._send(command)
            case protocol.Cancel():
                if self._state in _LOADING:
                    self._end_child()
                    self._set(EngineState.STOPPED)
                elif self._state in _BUSY:
                    self._send(command)
            case protocol.Snapshot() | protocol.Ping() | protocol.Shutdown():
                self._send(command)
            case _:
                assert_never(command)

    def _problem(self) -> AppError | None:
        """Why no turn can begin now."""
        if self._state is not EngineState.READY or self._command is None:
            return diagnose.turn_failed(_failed("generate", "no model is loaded"))
        if self._command.load_mode == "mapped" and files.overwritten(self._files):
            return diagnose.file_changed(self._command.model_path)
        return None

    def _start(self) -> None:
        """A new process for the current load."""
        assert self._command is not None  # noqa: S101 - set by every caller
        self._end_child()
        self._finish_turn(None)
        self._progress = None
        self._silence.heard()
        self._started_at = self._heard_at = time.monotonic()
        self._expected_s = self._times.expected_s(self._command) if self._times else None
        self._files = files.fingerprint(Path(self._command.model_path))
        self._set(EngineState.STARTING)
        try:
            self._child = WorkerProcess(
                lambda child, line: self._inbox.put(inbox.Said(child, line)),
                lambda child: self._inbox.put(inbox.Ended(child)),
                {**(self._environment or {}), **self._command.environment},
            )
        except OSError as error:
            self._set(EngineState.CRASHED, error=diagnose.crashed(None, str(error)))
            return
        self._send(safety.apply(self._command, self._step))

    def _send(self, command: protocol.Command) -> None:
        if self._child is not None:
            self._child.send(command)

    def _receive(self, line: str) -> None:  # noqa: C901 - one arm a message
        try:
            message = protocol.message_adapter.validate_json(line)
        except ValueError:
            # It may have swallowed the end of a turn.
            if self._child is not None:
                self._child.note(line[:10_000])
            if self._turn is not None:
                self._send(protocol.Ping(turn=self._turn))
            return
        self._heard(message)
        match message:
            case protocol.Hello():
                self._set(EngineState.LOADING)
            case protocol.LoadProgressed():
                self._progress = message
                self._set(EngineState.LOADING)
            case protocol.Loaded():
                self._loaded(message)
            case protocol.PrefillProgressed() | protocol.SummaryProgressed():
                self._listener(TurnProgressed(message=message))
            case protocol.TokensGenerated():
                if self._state is EngineState.PREFILL:
                    self._set(EngineState.GENERATING)
                self._listener(TurnProgressed(message=message))
            case protocol.TurnFinished():
                self._turn = None
                self._set(EngineState.READY)
                self._listener(TurnEnded(turn=message.turn, finished=message))
            case protocol.SnapshotDone():
                if done := self._snapshots.pop(message.request, None):
                    done(message)
            case protocol.Alive():
                if message.turn == self._turn and not message.running:
                    self._turn = None
                    self._set(EngineState.READY)
                    error = diagnose.turn_failed(_failed("generate", "the end of it was lost"))
                    self._listener(TurnEnded(turn=message.turn, error=error))
            case protocol.Failed():
                self._failed(message)
            case _:
                assert_never(message)

    def _heard(self, message: protocol.Message) -> None:
        self._heard_at = time.monotonic()
        # That it lives does not mean that it gets on.
        if not isinstance(message, protocol.Alive) and self._silence.heard():
            self._set(self._state)

    def _loaded(self, message: protocol.Loaded) -> None:
        assert self._command is not None  # noqa: S101 - a load was sent
        if self._step and self._store and self._store.get() != self._step:
            self._store.put(self._step)
            self._listener(SafetyApplied(setting=self._step, sentence=safety.STEPS[self._step]))
        if self._times:
            self._times.put(self._command, time.monotonic() - self._started_at)
        self._set(EngineState.READY)
        self._listener(ModelLoaded(model_path=self._command.model_path, loaded=message))

    def _failed(self, failed: protocol.Failed) -> None:
        command = self._command
        if failed.stage == "load" and failed.reason == "device" and command and command.environment:
            # The driver knows its devices by other UUIDs than it told: then nothing is hidden.
            self._command = command.model_copy(update={"environment": {}, "bus_ids": {}})
            self._start()
        elif failed.stage == "load":
            path = self._command.model_path if self._command else ""
            self._end_child()
            self._set(EngineState.STOPPED, error=diagnose.load_failed(failed, path))
        elif failed.stage == "generate" and failed.turn is not None:
            self._turn = None
            self._set(EngineState.READY)
            error, full = diagnose.turn_failed(failed), failed.reason in ("context", "question")
            self._listener(
                TurnEnded(turn=failed.turn, error=error, context_full=full, tokens=failed.tokens)
            )
        elif failed.stage == "snapshot" and failed.request in self._snapshots:
            self._snapshots.pop(failed.request)(diagnose.snapshot_failed(failed.detail))

    def _lose_snapshots(self, why: str) -> None:
        """There is no process that could answer."""
        waiting, self._snapshots = self._snapshots, {}
        for done in waiting.values():
            done(diagnose.snapshot_failed(why))

    def _crashed(self) -> None:
        child = self._child
        assert child is not None  # noqa: S101 - the caller compared it
        stage = self._progress.stage if self._progress else ""
        loading = self._state is EngineState.LOADING and stage in ("allocating", "warming_up")
        returncode = child.wait()
        self._end_child()
        error = (
            diagnose.starved()
            if child.starved
            else diagnose.crashed(returncode, child.stderr, self._command)
        )
        if self._command is not None and files.changed(self._files):
            error = diagnose.file_changed(self._command.model_path, error.detail)
        step = safety.next_step(self._step, self._command)
        unexplained = loading and error.kind is ErrorKind.ENGINE
        if unexplained and returncode < 0 and step is not None and self._store is not None:
            self._step = step
            self._start()
            return
        self._finish_turn(error)
        self._set(EngineState.CRASHED, error=error)

    def _finish_turn(self, error: AppError | None) -> None:
        """A turn that lost its process ends; what had arrived stays with the listener."""
        turn, self._turn = self._turn, None
        if turn is not None:
            stopped = error or diagnose.interrupted()
            self._listener(TurnEnded(turn=turn, error=stopped))

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()
            self._lose_snapshots("the engine stopped meanwhile")

    def _set(
        self,
        state: EngineState,
        *,
        silence: tuple[float | None, bool] = (None, False),
        error: AppError | None = None,
    ) -> None:
        self._state = state
        loading = state in _LOADING
        progress = self._progress if state is EngineState.LOADING else None
        begun = "reading" if state is EngineState.LOADING else ""
        self._listener(
            EngineStateChanged(
                state=state,
                stage=progress.stage if progress else begun,
                fraction=progress.fraction if progress else None,
                progress=progress,
                elapsed_s=time.monotonic() - self._started_at if loading else 0.0,
                expected_s=self._expected_s if loading else None,
                silent_s=silence[0],
                computing=silence[1],
                model_path=self._command.model_path if self._command else None,
                error=error,
            )
        )


def _failed(stage: str, detail: str) -> protocol.Failed:
    return protocol.Failed.model_validate({"stage": stage, "reason": "other", "detail": detail})
