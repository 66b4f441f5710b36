"""What the service says, told in a terminal; Ctrl+C comes in between two events."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterator
from types import FrameType

from app.cli.context import ContextWords, Emit, Say
from app.cli.load_line import LoadLine
from app.cli.ways import Ways
from app.engine import words
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded, SafetyApplied
from app.errors import AppError
from app.events import (
    AlarmRaised,
    AppEvent,
    ContextOffered,
    HardwareDetected,
    NoticeRaised,
    OperationFailed,
    SnapshotChanged,
    WaysOutFound,
)
from app.service import AppService


class Hearing:
    """Hears events one after the other, and prints those that every part of the chat tells alike.

    Attributes:
        silent: True while what runs has not been heard of for long.
    """

    def __init__(
        self,
        service: AppService,
        say: Say,
        emit: Emit,
        ways: Ways,
        context: ContextWords,
        *,
        as_json: bool,
    ) -> None:
        """`say` prints for a person, `emit` an object for a program."""
        self.silent = False
        self._service, self._say, self._emit = service, say, emit
        self._ways, self._context = ways, context
        self._line, self._json = LoadLine(), as_json
        # None is Ctrl+C; only this kind of queue may be put into by a signal.
        self._events: queue.SimpleQueue[AppEvent | None] = queue.SimpleQueue()
        self._at_once = False

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hear all that is said in here, and of Ctrl+C."""
        end = self._service.subscribe(self._events.put)
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            end()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Something else than events is awaited: Ctrl+C raises KeyboardInterrupt at once."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self._at_once:
            raise KeyboardInterrupt
        self._events.put(None)

    @property
    def waits(self) -> bool:
        """True while there is something unheard."""
        return not self._events.empty()

    def next(self) -> AppEvent:
        """The next event.

        Raises:
            KeyboardInterrupt: Ctrl+C was pressed; nothing is lost, the next call goes on.
        """
        event = self._events.get()
        if event is None:
            raise KeyboardInterrupt
        return event

    def drop(self) -> None:
        """What was told before a command; alarms are heard all the same."""
        while self.waits:
            event = self._events.get()
            if isinstance(event, AlarmRaised | WaysOutFound):
                self.tell(event)
            elif isinstance(event, ContextOffered):
                self._context.offered(event)

    def until_loaded(self, *, stopped: bool | None) -> ModelLoaded:
        """Tell of a load until the model is ready.

        Args:
            stopped: True stops the load once it has begun, False waits for Ctrl+C to do so;
                with None Ctrl+C is raised at once.

        Raises:
            AppError: It failed.
            KeyboardInterrupt: Ctrl+C.
        """
        cancelled = False
        while True:
            if stopped and self._service.engine.state in words.LOADING:
                self._service.engine.cancel()
                cancelled = True
            try:
                event = self.next()
            except KeyboardInterrupt:
                if stopped is None:
                    raise
                stopped = True
                continue
            self.tell(event)
            match event:
                case ModelLoaded():
                    self._line.clear()
                    return event
                case EngineStateChanged(error=AppError() as error):
                    self._line.clear()
                    raise error
                case EngineStateChanged(state=EngineState.LOADING):
                    self._loading(event)
                case EngineStateChanged(state=EngineState.STOPPED) if cancelled:
                    self._line.clear()
                    raise KeyboardInterrupt
                case _:
                    pass

    def _loading(self, event: EngineStateChanged) -> None:
        if event.silent_s is not None:
            return
        if not self._json:
            self._line.show(event)
        progress = event.progress.model_dump(exclude={"type"}) if event.progress else {}
        times = {"elapsed_s": event.elapsed_s, "expected_s": event.expected_s}
        self._emit("loading", **({"stage": event.stage, "fraction": None} | progress | times))

    def _listen_for_silence(self, event: EngineStateChanged) -> None:
        """A silence is told each time it has lasted for so long again; Ctrl+C is the answer."""
        self.silent = event.silent_s is not None
        if self.silent:
            self._line.clear()
            self._say(f"\n{words.silence(event)} Ctrl+C stops it.")
            self._emit("silent", seconds=event.silent_s, computing=event.computing)

    def tell(self, event: AppEvent) -> None:
        """What every part of the chat tells alike.

        Raises:
            AppError: What was asked for failed.
        """
        match event:
            case EngineStateChanged():
                self._listen_for_silence(event)
            case AlarmRaised(error=error):
                self._say(f"Warning: {error}")
                self._emit("alarm", sentence=str(error))
            case OperationFailed(error=error):
                raise error
            case HardwareDetected(report=report):
                for notice in report.notices:
                    self._say(f"{notice.title} {notice.hint}".strip())
                    self._emit("notice", sentence=f"{notice.title} {notice.hint}".strip())
            case WaysOutFound():
                self._ways.tell(event)
            case NoticeRaised(sentence=sentence) | SafetyApplied(sentence=sentence):
                self._say(sentence)
                self._emit("notice", sentence=sentence)
            case SnapshotChanged(state=state, sentence=sentence):
                self._say(sentence)
                self._emit("snapshot", state=state, tokens=event.tokens, bytes=event.size_bytes)
            case _:
                pass
