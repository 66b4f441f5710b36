"""`chat`: the chat window's twin in a terminal. Ctrl+C stops the answer, not the program."""

from __future__ import annotations

import argparse
import json
import queue
import signal
import sys
from pathlib import Path
from types import FrameType

from app import units
from app.chat.events import (
    AnswerExtended,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
)
from app.chat.message import Outcome
from app.cli.answer import AnswerWords
from app.cli.context import ContextWords
from app.cli.load_line import LoadLine
from app.cli.split import take_split
from app.cli.ways import Ways
from app.engine import words
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded, SafetyApplied
from app.errors import AppError
from app.events import (
    AlarmRaised,
    AppEvent,
    ContextOffered,
    HardwareDetected,
    ModelChosen,
    NoticeRaised,
    OperationFailed,
    PlanChanged,
    SnapshotChanged,
    SnapshotMeasured,
    SnapshotState,
    WaysOutFound,
)
from app.plan.text import VERDICT_WORDS
from app.service import AppService
from app.settings.model import Overflow, Settings

HELP = (
    "Ctrl+C stops an answer, /continue goes on with it, /new begins a new chat, /reload loads the model "
    "again, /unload frees its memory until the next question (/unload save keeps the KV cache on disk), "
    "/overflow says what happens when the context is full, Ctrl+D ends."
)


def chat(options: argparse.Namespace, settings: Settings, model: Path) -> int:
    """Load the model, then answer each line of stdin; returns the exit code."""
    service = AppService()
    service.settings = settings
    try:
        terminal = _Terminal(service, options)
        terminal.load(model)
        return terminal.talk()
    finally:
        service.close()


class _Terminal:
    """Prints events as text, or as one JSON object a line."""

    def __init__(self, service: AppService, options: argparse.Namespace) -> None:
        self._service, self._options = service, options
        self._json: bool = options.json
        self._events: queue.Queue[AppEvent] = queue.Queue()
        self._answering = self._silent = False
        self._line = LoadLine()
        self._words = AnswerWords(self._say, self._emit, as_json=self._json)
        self._context = ContextWords(service, self._say, self._emit)
        self._ways = Ways(service, self._say, self._emit)
        self._kept = ""
        signal.signal(signal.SIGINT, self._interrupted)
        service.subscribe(self._events.put)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl+C: stops the answer where one runs; never lands in the middle of anything else.

        What hangs does not hear of that, so there it ends the engine.
        """
        if not self._answering:
            raise KeyboardInterrupt
        if self._silent:
            self._service.engine.unload()
        else:
            self._service.engine.cancel()

    def _say(self, text: str) -> None:
        if not self._json:
            print(text, file=sys.stderr, flush=True)

    def _emit(self, kind: str, **values: object) -> None:
        if self._json:
            print(json.dumps({"type": kind, **values}, default=str, ensure_ascii=False), flush=True)

    def load(self, model: Path) -> None:
        """Detect, plan and load; returns once the model is ready."""
        self._service.start(model)
        while self._service.planning.plan is None or not self._events.empty():
            event = self._events.get()
            if isinstance(event, PlanChanged):
                break
            if isinstance(event, ModelChosen):
                self._say(event.layout.name)
            self._notice(event)
        plan = self._service.planning.plan
        if plan is not None:
            take_split(self._options, self._service, plan)
            plan = self._service.planning.plan
        if plan is not None:
            self._say(f"{VERDICT_WORDS[plan.verdict]} {plan.sentence} {plan.note}".rstrip())
            self._emit(
                "plan", sentence=plan.sentence, fits=plan.fits, tensor_split=plan.tensor_split
            )
        self._service.engine.load()
        self._await_ready()

    def _await_ready(self) -> None:
        while True:
            event = self._events.get()
            self._notice(event)
            match event:
                case ModelLoaded(loaded=loaded):
                    self._line.clear()
                    self._say(f"Loaded in {units.format_duration(loaded.duration_s)}. {HELP}")
                    self._emit("loaded", **loaded.model_dump(exclude={"type"}))
                    return
                case EngineStateChanged(error=AppError() as error):
                    self._line.clear()
                    if not (self._followed(error) and self._ways.ask()):
                        raise error
                case EngineStateChanged(state=EngineState.LOADING):
                    self._loading(event)
                case _:
                    pass

    def _followed(self, error: AppError) -> bool:
        """Tell what can be done about a fault; False if nothing can by a setting."""
        return self._ways.follow(error, self._events, self._notice)

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
        self._silent = event.silent_s is not None
        if self._silent:
            self._line.clear()
            self._say(f"\n{words.silence(event)} Ctrl+C stops it.")
            self._emit("silent", seconds=event.silent_s, computing=event.computing)

    def _notice(self, event: AppEvent) -> None:
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

    def talk(self) -> int:
        """Answer until stdin ends."""
        if self._options.prompt is not None:
            return self._answer(self._options.prompt)
        code = 0
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                self._say("\nCtrl+D ends the chat.")
                continue
            if line is None or line.strip() == "/quit":
                return code
            text = line.strip() or self._kept
            if self._way(text):
                continue
            if text.startswith("/"):
                code = self._obey(*text.split(maxsplit=1))
            elif not text and self._crashed():
                self._reload()
            elif text:
                if self._crashed():
                    self._reload()
                code = self._answer(text)

    def _way(self, text: str) -> bool:
        """True if the line chose a way out of a fault, or one must be chosen first."""
        if text.startswith("/") and self._ways.take(text):
            self._drop_events()
            self._await_ready()
            return True
        command = text.startswith("/") and text != "/reload"
        return not command and self._crashed() and self._ways.block()

    def _unload(self, *, keep: bool) -> None:
        """Free the engine's memory; the next question loads the model again."""
        if self._crashed():
            self._say("Nothing is loaded.")
            return
        self._drop_events()
        if keep:
            self._service.snapshots.measure()
            keep = self._agrees()
        self._service.chat.sleep(keep=keep)
        while not self._crashed() or not self._events.empty():
            self._notice(self._events.get())
        self._say("Unloaded. The next question loads it again.")

    def _agrees(self) -> bool:
        """A KV cache can be as large as a film: its size is said first. False if it cannot be saved."""
        while not isinstance(size := self._events.get(), SnapshotMeasured):
            self._notice(size)
            if isinstance(size, SnapshotChanged) and size.state is SnapshotState.FAILED:
                return False
        self._say(
            f"The KV cache takes {units.format_file_size(size.size_bytes)} for {size.tokens:,} tokens; "
            f"the disk has {units.format_file_size(size.free_bytes)}."
        )
        if not sys.stdin.isatty() or self._json:
            return True
        print("Save it? [Y/n] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("", "y", "yes")

    def _obey(self, command: str, value: str = "") -> int:
        """A line that begins with a slash."""
        match command:
            case "/new":
                self._service.chat.new_chat()
                self._kept = ""
                self._say("New chat.")
            case "/unload":
                self._unload(keep=value == "save")
            case "/reload":
                self._reload()
            case "/continue":
                return self._go_on()
            case "/enlarge":
                return self._enlarge()
            case "/overflow":
                self._context.choose(value)
            case _:
                self._say(f"There is no {command}. {HELP}")
        return 0

    def _enlarge(self) -> int:
        """Load again with the longer context that fits; a question that was kept is sent then."""
        before = self._service.context.offer
        self._drop_events()
        if self._crashed():
            self._say("No model is loaded.")
            return 0
        self._service.enlarge_context(self._kept)
        while not isinstance(event := self._events.get(), ContextOffered):
            self._notice(event)
        self._context.offered(event)
        offer = event.offer
        if not offer.larger:
            return 0
        if offer.kv_type is not None and offer != before:
            self._say("/enlarge once more does that.")
            return 0
        self._await_ready()
        return self._print_answer() if self._kept else 0

    def _read(self) -> str | None:
        if sys.stdin.isatty() and not self._json:
            print("\n> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        return line or None

    def _crashed(self) -> bool:
        return self._service.engine.state in (EngineState.CRASHED, EngineState.STOPPED)

    def _reload(self) -> None:
        self._say("Loading the model again.")
        self._drop_events()
        self._service.engine.load()
        self._await_ready()

    def _drop_events(self) -> None:
        """What was told before the question; alarms are heard all the same."""
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, AlarmRaised | WaysOutFound):
                self._notice(event)
            elif isinstance(event, ContextOffered):
                self._context.offered(event)

    def _answer(self, text: str) -> int:
        self._drop_events()
        self._service.chat.send(text, max_tokens=self._options.max_tokens)
        return self._print_answer()

    def _go_on(self) -> int:
        """With the answer that was cut off; a model that was unloaded is loaded first."""
        if self._crashed():
            self._reload()
        self._drop_events()
        before = self._service.chat.turn
        self._service.chat.resume(max_tokens=self._options.max_tokens)
        if self._service.chat.turn == before:
            self._say("There is no answer to continue.")
            return 0
        return self._print_answer()

    def _print_answer(self) -> int:
        self._answering = True
        try:
            return self._print_until_end()
        finally:
            self._answering = False

    def _print_until_end(self) -> int:
        """Where the context is enlarged by itself, the answer goes on after that."""
        enlarges = self._service.settings.overflow is Overflow.ENLARGE
        code, waits = 0, False
        while True:
            event = self._events.get()
            match event:
                case PromptRead():
                    self._context.read_prompt(event)
                case TurnsSummarised():
                    self._context.summarised(event)
                case AnswerExtended():
                    self._words.extend(event)
                case TurnFinished(answer=answer):
                    code = self._finished(event)
                    waits = enlarges and answer.outcome is Outcome.FULL
                case QuestionReturned(text=text):
                    self._kept = text
                    code, waits = self._context.returned(event), enlarges
                case ContextOffered(offer=offer):
                    self._context.offered(event)
                    waits = waits and bool(offer.larger) and offer.kv_type is None
                case EngineStateChanged(error=AppError() as error) if waits:
                    raise error
                case _:
                    self._notice(event)
                    continue
            ended = isinstance(event, TurnFinished | QuestionReturned | ContextOffered)
            if ended and not waits and not self._service.chat.running:
                return code

    def _finished(self, event: TurnFinished) -> int:
        self._kept = ""
        self._words.finished(event)
        if event.answer.stats:
            self._context.warn(event.answer.stats)
        if event.error is not None:
            if not self._followed(event.error):
                again = "" if event.context_full else " Press Enter to load it again."
                self._say(f"{event.error}{again}")
            return event.error.exit_code
        return 0
