"""`chat`: the chat window's twin in a terminal. Ctrl+C stops the answer, not the program."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from app import units
from app.chat.events import (
    AnswerExtended,
    PromptRead,
    QuestionReturned,
    TurnFinished,
    TurnsSummarised,
)
from app.chat.message import Outcome
from app.cli import load_options, where
from app.cli.answer import AnswerWords
from app.cli.context import ContextWords
from app.cli.hearing import Hearing
from app.cli.split import take_split
from app.cli.unload import unload
from app.cli.ways import Ways
from app.engine.model import EngineState, EngineStateChanged
from app.errors import AppError
from app.events import (
    AppEvent,
    ContextOffered,
    ModelChosen,
    OperationFailed,
    PlanChanged,
)
from app.plan.model import LoadPlan
from app.plan.text import VERDICT_WORDS
from app.service import AppService
from app.settings.model import Overflow, Settings

HELP = (
    "Ctrl+C stops an answer, /continue goes on with it, /new begins a new chat, /reload loads the model "
    "again, /unload frees its memory until the next question (/unload save keeps the KV cache on disk), "
    "/overflow says what happens when the context is full, /enlarge loads with a longer one, /help says all "
    "this again, Ctrl+D ends."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "--model", default="starter", help=f"{where.MODEL}, a GGUF file, or `starter` (the default)"
    )
    command.add_argument("--prompt", type=load_options.question, help="ask this, answer and end")
    command.add_argument("--system", help="system prompt")
    command.add_argument(
        "--overflow",
        type=lambda text: {"drop": str(Overflow.DROP_OLDEST)}.get(text, text),
        choices=[str(overflow) for overflow in Overflow],
        help="what to do when the context is full",
    )
    command.add_argument("--max-tokens", type=load_options.count, help="longest answer in tokens")


def chat(options: argparse.Namespace, settings: Settings, model: Path) -> int:
    """Load the model, then answer each line of stdin; returns the exit code."""
    service = AppService()
    service.settings = settings
    try:
        terminal = _Terminal(service, options)
        with terminal.hearing.open():
            terminal.load(model)
            return terminal.talk()
    finally:
        service.close()


class _Terminal:
    """Prints events as text, or as one JSON object a line."""

    def __init__(self, service: AppService, options: argparse.Namespace) -> None:
        self._service, self._options = service, options
        self._json: bool = options.json
        self._words = AnswerWords(self._say, self._emit, as_json=self._json)
        self._context = ContextWords(service, self._say, self._emit)
        self._ways = Ways(
            service, self._say, self._emit, asks=options.prompt is None or sys.stdin.isatty()
        )
        self.hearing = Hearing(
            service, self._say, self._emit, self._ways, self._context, as_json=self._json
        )
        self._kept, self._plan, self._stops = "", "", 0
        self._help = HELP if options.prompt is None else ""

    def _say(self, text: str) -> None:
        if text and not self._json:
            print(text, file=sys.stderr, flush=True)

    def _emit(self, kind: str, **values: object) -> None:
        if self._json:
            print(json.dumps({"type": kind, **values}, default=str, ensure_ascii=False), flush=True)

    def _emit_error(self, error: AppError) -> None:
        self._emit("error", title=error.title, detail=error.detail, hint=error.hint)

    # --- the first load ---------------------------------------------------------

    def load(self, model: Path) -> None:
        """Detect, plan and load; returns once the model is ready."""
        self._service.start(model)
        while self._service.planning.plan is None or self.hearing.waits:
            event = self.hearing.next()
            if isinstance(event, PlanChanged):
                break
            if isinstance(event, ModelChosen):
                self._say(event.layout.name)
            self.hearing.tell(event)
        plan = self._service.planning.plan
        if plan is not None:
            take_split(self._options, self._service, plan)
            plan = self._service.planning.plan
        if plan is not None:
            self._tell_plan(plan)
            self._emit(
                "plan", sentence=plan.sentence, fits=plan.fits, tensor_split=plan.tensor_split
            )
        self._service.engine.load()
        while not self._is_loaded():
            pass

    def _tell_plan(self, plan: LoadPlan) -> None:
        """Once, until there is another."""
        before, self._plan = (
            self._plan,
            f"{VERDICT_WORDS[plan.verdict]} {plan.sentence} {plan.note}",
        )
        if self._plan != before:
            self._say(self._plan.rstrip())

    def _is_loaded(self) -> bool:
        """False if that failed, and a person chose a way out."""
        try:
            self._await_ready(stopped=None)
        except AppError as error:
            if not (self._has_ways(error) and self._chooses()):
                raise
            return False
        return True

    def _chooses(self) -> bool:
        """Let a person at a terminal choose a way out; False if none was."""
        if not sys.stdin.isatty():
            return False
        self._say("Type a number to do that, or only Enter to end.")
        with self.hearing.reading():
            return self._ways.take(sys.stdin.readline().strip())

    def _await_ready(self, *, stopped: bool | None = False) -> None:
        loaded = self.hearing.until_loaded(stopped=stopped).loaded
        self._say(f"Loaded in {units.format_duration(loaded.duration_s)}. {self._help}".rstrip())
        self._help = ""  # once is enough
        if (plan := self._service.engine.loaded_plan) is not None:
            self._tell_plan(plan)
        self._emit("loaded", **loaded.model_dump(exclude={"type"}))

    def _has_ways(self, error: AppError) -> bool:
        """Tell what can be done about a fault; False if nothing can by a setting."""
        try:
            return self._ways.follow(error, self.hearing.next, self.hearing.tell)
        except AppError as other:
            self._say(str(other))
        except KeyboardInterrupt:
            pass
        return False

    # --- commands ---------------------------------------------------------------

    def talk(self) -> int:
        """Answer until stdin ends. What fails or is stopped ends neither the chat nor the question."""
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
                # Who sat there has seen what went wrong.
                return 0 if sys.stdin.isatty() else code
            try:
                code = self._take(line.strip())
            except KeyboardInterrupt:
                self._say(f"\nStopped. {self._what_next()}".rstrip())
                self._emit("stopped")
            except AppError as error:
                code = self._failed(error)

    def _failed(self, error: AppError) -> int:
        self._emit_error(error)
        self.hearing.told = error
        if not self._has_ways(error):
            self._say(str(error))
        self._say(self._what_next())
        return error.exit_code

    def _what_next(self) -> str:
        if self._kept:
            return "Your question is kept: Enter sends it again."
        return "Press Enter to load the model again." if self._is_unloaded else ""

    def _take(self, line: str) -> int:
        """One line of the person's; the exit code that it would leave."""
        if line.startswith("/") and self._ways.take(line):
            self.hearing.drop()
            self._await_ready()
            return 0
        if line.startswith("/") and line != "/reload":
            return self._obey(*line.split(maxsplit=1))
        if self._is_unloaded and self._ways.block():
            self._kept = self._kept if line.startswith("/") else line or self._kept
            return 0
        if line == "/reload":
            self._reload()
            return 0
        if line and self._kept not in ("", line):
            self._say(f"This takes the place of the question that was kept: {self._kept}")
        self._kept = line or self._kept
        if self._is_unloaded:
            self._reload()
        return self._answer(self._kept) if self._kept else 0

    def _obey(self, command: str, value: str = "") -> int:
        """A line that begins with a slash."""
        match command:
            case "/new":
                self._service.chat.new_chat()
                self._kept = ""
                self._say("New chat.")
            case "/unload":
                if self._is_unloaded:
                    self._say("Nothing is loaded.")
                else:
                    unload(
                        self._service,
                        self.hearing,
                        self._say,
                        keep=value == "save",
                        asks=sys.stdin.isatty() and not self._json,
                    )
            case "/reload":
                self._reload()
            case "/continue":
                return self._go_on()
            case "/enlarge":
                return self._enlarge()
            case "/help" | "/?":
                self._say(HELP)
            case "/overflow":
                self._context.choose(value)
            case _:
                self._say(f"There is no {command}. {HELP}")
        return 0

    def _enlarge(self) -> int:
        """Load again with the longer context that fits; a question that was kept is sent then."""
        before = self._service.context.offer
        self.hearing.drop()
        if self._is_unloaded:
            self._say("No model is loaded.")
            return 0
        turn = self._service.chat.turn
        self._service.enlarge_context(self._kept)
        stopped, offered = False, None
        while offered is None:
            try:
                event = self.hearing.next()
            except KeyboardInterrupt:
                stopped = True  # what it leads to is stopped, once it has begun
                continue
            if isinstance(event, ContextOffered):
                offered = event
            else:
                self.hearing.tell(event)
        self._context.offered(offered)
        offer = offered.offer
        if not offer.larger:
            return 0
        if offer.kv_type is not None and offer != before:
            self._say("/enlarge once more does that.")
            return 0
        self._await_ready(stopped=stopped)
        return self._print_answer(turn) if self._kept else 0

    def _read(self) -> str | None:
        if sys.stdin.isatty() and not self._json:
            print("\n> ", end="", file=sys.stderr, flush=True)
        with self.hearing.reading():
            return sys.stdin.readline() or None

    @property
    def _is_unloaded(self) -> bool:
        return self._service.engine.state in (EngineState.CRASHED, EngineState.STOPPED)

    def _reload(self) -> None:
        self.hearing.drop()
        self._say("Loading the model again.")
        self._service.engine.load()
        self._await_ready()

    def _answer(self, text: str) -> int:
        self.hearing.drop()
        turn = self._service.chat.turn
        self._service.chat.send(text, max_tokens=self._options.max_tokens)
        return self._print_answer(turn)

    def _go_on(self) -> int:
        """With the answer that was cut off; a model that was unloaded is loaded first."""
        if not self._service.chat.resumable:
            self._say("There is no answer to continue.")
            return 0
        if self._is_unloaded:
            self._reload()
        self.hearing.drop()
        turn = self._service.chat.turn
        self._service.chat.resume(max_tokens=self._options.max_tokens)
        return self._print_answer(turn)

    def _print_answer(self, before: int) -> int:
        """What comes after turn `before`. Ctrl+C stops the answer, or the load that it waits for.

        Where the context is enlarged by itself, the answer goes on after that.
        """
        enlarges = self._service.settings.overflow is Overflow.ENLARGE
        code, waits, self._stops = 0, False, 0
        while True:
            try:
                event = self.hearing.next()
            except KeyboardInterrupt:
                self._stop()
                continue
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
                case _:
                    self._tell(event, loads=waits or self._service.chat.turn == before)
                    continue
            ended = isinstance(event, TurnFinished | QuestionReturned | ContextOffered)
            if ended and not waits and not self._service.chat.running:
                return code

    def _stop(self) -> None:
        """What hangs does not hear that it should stop, so there it ends the engine; else who asks three times."""
        self._stops += 1
        if self.hearing.silent or self._stops > 2:
            self._service.engine.unload()
        else:
            self._service.engine.cancel()
        if self._stops == 2:
            self._say("\nIt has not stopped yet. Ctrl+C once more ends the engine; the chat stays.")

    def _tell(self, event: AppEvent, *, loads: bool) -> None:
        """An event beside the answer; with `loads`, no answer comes if the load that it needs ends."""
        match event:
            case EngineStateChanged(error=AppError() as error) if loads:
                raise error
            case EngineStateChanged(state=EngineState.STOPPED) if loads:
                raise KeyboardInterrupt
            case OperationFailed(error=error) if not loads:
                self._emit_error(error)
                self._say(str(error))
            case _:
                self.hearing.tell(event)

    def _finished(self, event: TurnFinished) -> int:
        self._kept = ""
        self._words.finished(event)
        if event.answer.stats:
            self._context.warn(event.answer.stats)
        if event.error is not None:
            self.hearing.told = event.error
            if not self._has_ways(event.error):
                again = "" if event.context_full else " Press Enter to load it again."
                self._say(f"{event.error}{again}")
            return event.error.exit_code
        return 0
