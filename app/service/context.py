"""`ContextService`: what can be done about a context that fills up, beside the engine's own means."""

from __future__ import annotations

from collections.abc import Callable

from app import units
from app.chat.events import ConversationCleared, QuestionReturned, TurnFinished
from app.chat.message import ContextLevel, ContextUse, Outcome, TurnStats
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded
from app.events import AppEvent, ContextOffered, OperationFailed
from app.plan.larger import LargerContext, larger_context
from app.service.engine import EngineService
from app.service.hardware import HardwareService
from app.service.jobs import Emit, Worker
from app.service.planning import Planning
from app.settings.model import OVERFLOW_WORDS, Overflow, Settings
from app.settings.requests import make_request

ENOUGH_TOKENS = 32
"""A rate of prompt processing from fewer tokens says little."""
STEP = 256
"""Contexts are multiples of so many tokens."""
WORTH_SAVING_S = 10.0
"""Where reading the conversation again takes as long, its KV cache is saved and restored instead."""


class ContextService:
    """Works out which longer context fits, loads it, and lets the chat go on there.

    Attributes:
        offer: What was worked out for the model as it is loaded; None before that.
    """

    def __init__(
        self,
        hardware: HardwareService,
        planning: Planning,
        engine: EngineService,
        jobs: Worker,
        emit: Emit,
        settings: Callable[[], Settings],
        *,
        change: Callable[[Settings], None],
        send: Callable[[str], None],
        resume: Callable[[], None],
        save: Callable[[Callable[[], None]], None],
    ) -> None:
        """Nothing is worked out yet.

        Args:
            hardware: What there is.
            planning: Has the model.
            engine: Has it loaded.
            jobs: Works it out, which may take seconds.
            emit: Told of everything.
            settings: Those in force.
            change: Puts others in force, stores them, and loads again.
            send: Asks a question again.
            resume: Lets the last answer go on.
            save: Keeps the chat's KV cache for the next load, then does something, come what may.
        """
        self.offer: LargerContext | None = None
        self._hardware, self._planning, self._engine = hardware, planning, engine
        self._jobs, self._emit = jobs, emit
        self._settings, self._change = settings, change
        self._send, self._resume, self._save = send, resume, save
        self._rate: float | None = None
        self._used = 0
        self._tokens = 0  # of a question that came back, with all before it
        self._afterwards: Callable[[], None] | None = None

    # --- what happens -----------------------------------------------------------

    def notice(self, event: AppEvent) -> None:
        """A context that fills up is worked on before it is full."""
        match event:
            case ModelLoaded():
                self.offer, afterwards = None, self._afterwards
                self._afterwards = None
                if afterwards is not None:
                    afterwards()
            case EngineStateChanged(state=EngineState.STOPPED | EngineState.CRASHED):
                self.offer = self._afterwards = None
            case OperationFailed():
                self._afterwards = None
            case QuestionReturned(text=text, tokens=tokens):
                self._returned(text, tokens)
            case ConversationCleared():
                self._tokens, self._afterwards = 0, None
            case TurnFinished(answer=answer) if answer.stats is not None:
                self._finished(answer.stats)
                if answer.outcome is Outcome.FULL and self._automatic:
                    self._enlarge(self._resume, automatic=True)
            case _:
                pass

    @property
    def _automatic(self) -> bool:
        return self._settings().overflow is Overflow.ENLARGE

    def _returned(self, text: str, tokens: int) -> None:
        self._tokens = tokens
        if self._automatic:
            self._enlarge(lambda: self._send(text), automatic=True)
        else:
            self.study()

    def _finished(self, stats: TurnStats) -> None:
        self._used, self._tokens = stats.context_used, 0
        if stats.evaluated_tokens >= ENOUGH_TOKENS:
            self._rate = stats.prompt_tokens_per_second
        if stats.context_level >= ContextLevel.FILLING and self.offer is None:
            self.study()

    # --- what is asked for ------------------------------------------------------

    def study(self) -> None:
        """Work out which longer context fits; it arrives as `ContextOffered`."""
        self._jobs.submit(self._work_out)

    def enlarge(self, question: str = "") -> None:
        """Load again with the longer context that fits, then send `question`; the chat stays.

        If none fits, that arrives as `ContextOffered`. What needs another type of KV cache is only
        loaded where that was offered before, so that a person has seen it.
        """
        self._enlarge((lambda: self._send(question)) if question else None, automatic=False)

    def _enlarge(self, afterwards: Callable[[], None] | None, *, automatic: bool) -> None:
        def job() -> None:
            shown, loaded = self.offer, self._engine.loaded
            offer = self._work_out()
            if offer is None or not offer.larger:
                return
            if offer.kv_type is not None and (automatic or offer != shown):
                return
            self._afterwards = afterwards

            def load() -> None:
                # Saving a KV cache takes a while, in which a person may do other things.
                if self._engine.loaded is loaded:
                    self._change(self._settings().model_copy(update=offer.changes))
                else:
                    self._afterwards = None

            if _keeps(offer, self._reading_s):
                self._save(load)
            else:
                load()

        self._jobs.submit(job)

    def _work_out(self) -> LargerContext | None:
        settings, layout, loaded = self._settings(), self._planning.layout, self._engine.loaded
        here = self._hardware.machine(settings)
        if layout is None or loaded is None or here is None:
            return None
        asked = settings.model_copy(update={"context": loaded.loaded.context})
        request = make_request(asked, layout, here.devices)
        self.offer = offer = larger_context(
            layout,
            request,
            here.devices,
            here.host,
            needed=_needed(self._tokens, settings.reply_reserve),
        )
        sentence = _sentence(offer, loaded.loaded.duration_s, self._reading_s)
        self._emit(ContextOffered(offer=offer, sentence=sentence))
        return offer

    @property
    def _reading_s(self) -> float | None:
        return self._used / self._rate if self._rate else None


def _needed(tokens: int, reserve: int) -> int:
    """The context that has room for a prompt and the reply, for which at most half of it is kept."""
    return -(-min(2 * tokens, tokens + max(1, reserve)) // STEP) * STEP


def _keeps(offer: LargerContext, reading_s: float | None) -> bool:
    """True if the KV cache should not be computed again; of another type it must be."""
    return offer.kv_type is None and reading_s is not None and reading_s >= WORTH_SAVING_S


def warning(use: ContextUse, overflow: Overflow) -> str:
    """How full the context is, and what will happen when it is."""
    share = units.format_percent(min(1.0, use.share))
    return (
        f"{share} of the room for the conversation is used."
        f" When it is full, {OVERFLOW_WORDS[overflow]}."
    )


def _sentence(offer: LargerContext, load_s: float, reading_s: float | None) -> str:
    """What a longer context would mean."""
    now, larger = f"{offer.context:,}", f"{offer.larger:,}"
    if not offer.larger:
        if offer.trained <= offer.context:
            return f"{now} tokens are all that the model was trained for."
        if offer.needed > offer.trained:
            return (
                f"It takes a context of {offer.needed:,} tokens, and the model was trained for"
                f" {offer.trained:,}."
            )
        if offer.needed > offer.context:
            return f"It takes a context of {offer.needed:,} tokens, which does not fit here."
        return f"No context much longer than {now} tokens fits, whatever the type of the KV cache."
    takes = f"loading takes {units.format_duration(load_s)}"
    if _keeps(offer, reading_s):
        takes += ", the KV cache is on disk meanwhile"
    elif reading_s is not None:
        takes += f", reading the conversation again {units.format_duration(reading_s)}"
    if offer.kv_type is None:
        return f"A context of {larger} instead of {now} fits: {takes}; the chat stays."
    return (
        f"No longer context fits with this KV cache; with {offer.kv_type} one of {larger}"
        f" instead of {now} does: {takes}; the chat stays."
    )
