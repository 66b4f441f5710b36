"""The split tuner: loads some plans one after the other, measures each, and says which is the fastest."""

from __future__ import annotations

import dataclasses
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.engine import protocol
from app.engine.filler import filler
from app.engine.load_times import LoadTimes
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, ModelLoaded, TurnEnded
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, Cancelled, ErrorKind
from app.plan.candidates import MOST, Candidate

WARM_TOKENS = 32
TURN_PROMPT, TURN_TOKENS = 1000, 300
"""Tokens of the turn that plans are compared by: read, and written."""
NOISE = 0.03
"""Two measurements of the same plan differ by as much on a quiet machine."""
HOPELESS = 1.5
"""A first measurement that takes so many times the best one's time is not repeated."""
CONFIRM_S = 60.0
"""Where another plan seems to be faster the first one is measured again, if loading takes no longer."""
READ_BYTES_PER_S = 1e9
MEASURED_BYTES_PER_S = 50e9
START_S, LEAST_S = 2.0, 4.0
"""What is expected of a disk, of memory, of a process, and of a measurement, where nothing is known."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How thoroughly to measure: plans, and of each so many answers of so many tokens."""

    plans: int = MOST
    repeats: int = 3
    prompt_tokens: int = 256
    tokens: int = 24


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate, the command that loads it, and what is expected of it, in seconds."""

    candidate: Candidate
    command: protocol.Load
    load_s: float
    measure_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one candidate.

    Attributes:
        turn_s: A turn of `TURN_PROMPT` and `TURN_TOKENS` tokens; None if it could not be measured.
        spread: Half of what the repeats differ by, as a share of the median.
        repeats: Number of measurements; fewer than asked for where it is clearly slower.
        error: Why there is no measurement.
    """

    candidate: Candidate
    load_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    tokens_per_s: float = 0.0
    turn_s: float | None = None
    spread: float = 0.0
    repeats: int = 0
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningProposed:
    """Event: these candidates would be measured, which takes about `estimate_s` seconds."""

    candidates: tuple[Candidate, ...]
    estimate_s: float

    @property
    def sentence(self) -> str:
        """In words: `About 6 minutes, 3 loads.`."""
        count = len(self.candidates)
        return f"{about(self.estimate_s)}, {count} load{'s' if count > 1 else ''}."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningStarted(TuningProposed):
    """Event: and now they are."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningProgressed:
    """Event: what runs now, of candidate `index`.

    Attributes:
        stage: `loading` or `measuring`.
        fraction: Of the stage, 0 to 1; None if unknown.
        left_s: What all that follows is expected to take, in seconds.
    """

    index: int
    stage: str
    fraction: float | None
    left_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateMeasured:
    """Event: candidate `index` is done."""

    index: int
    result: Result


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TuningEnded:
    """Event: all is measured, or a person had enough.

    Attributes:
        results: Of all candidates that were measured, in their order.
        kept: Index of the one to keep: the first, unless another is faster by more than the noise;
            None if none could be measured.
        cancelled: Candidates may be missing.
        error: Why nothing was measured.
    """

    results: tuple[Result, ...] = ()
    kept: int | None = None
    cancelled: bool = False
    error: AppError | None = None


TuningEvent = TuningProposed | TuningStarted | TuningProgressed | CandidateMeasured | TuningEnded


def about(seconds: float) -> str:
    """A duration that is a guess: `About 6 minutes`."""
    if seconds < 50:
        return f"About {max(5, 5 * round(seconds / 5))} seconds"
    minutes = max(1, round(seconds / 60))
    return f"About {minutes} minute{'s' if minutes > 1 else ''}"


def trials(
    candidates: Sequence[tuple[Candidate, protocol.Load, float | None]],
    times: LoadTimes,
    size_bytes: int,
    effort: Effort,
) -> tuple[Trial, ...]:
    """Candidates with what they are expected to take.

    Args:
        candidates: Each with its command and the likely rate of generation in tokens/s, if known.
        times: What earlier loads took.
        size_bytes: The model's.
        effort: How much is measured.
    """
    known = [times.expected_s(command) for _, command, _ in candidates]
    typical = max((seconds for seconds in known if seconds), default=size_bytes / READ_BYTES_PER_S)
    prompt = prompt_length(effort, [command for _, command, _ in candidates])
    made = []
    for (candidate, command, rate), load_s in zip(candidates, known, strict=True):
        token_s = 1 / rate if rate else size_bytes / MEASURED_BYTES_PER_S
        one = token_s * (effort.tokens + prompt / 10)
        seconds = load_s or typical
        made.append(
            Trial(
                candidate=candidate,
                command=command,
                load_s=seconds + START_S,
                measure_s=max(LEAST_S, one * (effort.repeats + 1)),
            )
        )
    return tuple(made)


def proposal(trials: Sequence[Trial]) -> TuningProposed:
    """What measuring all of them means."""
    return TuningProposed(
        candidates=tuple(trial.candidate for trial in trials),
        estimate_s=sum(trial.load_s + trial.measure_s for trial in trials),
    )


def prompt_length(effort: Effort, commands: Sequence[protocol.Load]) -> int:
    """Tokens to read in one measurement: more where micro-batches differ, which shorter ones would not show."""
    sizes = {command.micro_batch for command in commands}
    wanted = max(sizes) if len(sizes) > 1 else effort.prompt_tokens
    room = min((command.context for command in commands), default=1) // 2
    return max(1, min(max(wanted, effort.prompt_tokens), room))


def kept(results: Sequence[Result]) -> int | None:
    """Index of the plan to keep: the first, unless another one is faster by more than the noise."""
    measured = [(r.turn_s, i) for i, r in enumerate(results) if r.turn_s is not None]
    if not measured:
        return None
    best_s, best = min(measured)
    first = results[0]
    if first.turn_s is None:
        return best
    margin = max(NOISE, first.spread + results[best].spread)
    return best if best_s < first.turn_s * (1 - margin) else 0


class Tuner:
    """Measures with workers of its own; the memory that a loaded model holds must be free."""

    def __init__(
        self,
        listener: Callable[[TuningEvent], None],
        *,
        data: Path,
        effort: Effort,
    ) -> None:
        """`data` is the folder in which load times and safer settings are remembered."""
        self._listener = listener
        self._data, self._effort = data, effort
        self._inbox: queue.Queue[EngineEvent | None] = queue.Queue()
        self._cancelled = threading.Event()
        self._turns = self._prompt = 0
        self._left_s: list[float] = []

    def cancel(self) -> None:
        """Stop soon; what was measured counts. From any thread."""
        self._cancelled.set()
        self._inbox.put(None)

    def run(self, trials: Sequence[Trial]) -> TuningEnded:
        """Measure all, the one in force first; returns when all processes have ended."""
        self._left_s = [trial.load_s + trial.measure_s for trial in trials]
        self._prompt = prompt_length(self._effort, [trial.command for trial in trials])
        plan = proposal(trials)
        self._listener(TuningStarted(candidates=plan.candidates, estimate_s=plan.estimate_s))
        results: list[Result] = []
        supervisor = EngineSupervisor(
            self._inbox.put,
            store=SafetyStore(self._data / "safety.json", engine_version()),
            times=LoadTimes(self._data / "load_times.json"),
        )
        try:
            for index, trial in enumerate(trials):
                best = min((r.turn_s for r in results if r.turn_s is not None), default=None)
                result = self._measured(supervisor, index, trial, best)
                results.append(result)
                self._listener(CandidateMeasured(index=index, result=result))
            if kept(results):
                self._confirm(supervisor, trials[0], results)
        except Cancelled:
            pass
        finally:
            supervisor.close()
        chosen = kept(results)
        error = None
        if chosen is None and not self._cancelled.is_set():
            error = next((r.error for r in results if r.error is not None), None)
        ended = TuningEnded(
            results=tuple(results), kept=chosen, cancelled=self._cancelled.is_set(), error=error
        )
        self._listener(ended)
        return ended

    def _confirm(self, supervisor: EngineSupervisor, trial: Trial, results: list[Result]) -> None:
        """Measure the first once more: a machine that was busy only then must not cost it its place."""
        before = results[0]
        if before.turn_s is None or before.load_s > CONFIRM_S:
            return
        self._left_s[0] = trial.load_s + trial.measure_s
        again = self._measured(supervisor, 0, trial, None)
        if again.turn_s is not None:
            better = min((before, again), key=lambda result: result.turn_s or 0.0)
            faster, slower = sorted((before.turn_s, again.turn_s))
            drift = (slower - faster) / 2 / slower
            results[0] = dataclasses.replace(better, spread=max(better.spread, drift))
            self._listener(CandidateMeasured(index=0, result=results[0]))

    # --- one candidate ------------------------------------------------------

    def _measured(
        self, supervisor: EngineSupervisor, index: int, trial: Trial, best: float | None
    ) -> Result:
        effort, started = self._effort, time.monotonic()
        loaded_at = started
        rates: list[tuple[float, float]] = []
        try:
            self._load(supervisor, index, trial)
            loaded_at = time.monotonic()
            self._ask(supervisor, WARM_TOKENS, 2)
            for repeat in range(effort.repeats):
                self._tell(index, "measuring", repeat / effort.repeats)
                rates.append(self._ask(supervisor, self._prompt, effort.tokens))
                if best is not None and turn_s(*rates[0]) > HOPELESS * best:
                    break
        except AppError as error:
            if not rates:
                self._done(index, started)
                return Result(candidate=trial.candidate, error=error)
        self._done(index, started)
        seconds = [turn_s(*pair) for pair in rates]
        median = statistics.median(seconds)
        return Result(
            candidate=trial.candidate,
            load_s=loaded_at - started,
            prompt_tokens_per_s=statistics.median(pair[0] for pair in rates),
            tokens_per_s=statistics.median(pair[1] for pair in rates),
            turn_s=median,
            spread=(max(seconds) - min(seconds)) / 2 / median,
            repeats=len(rates),
        )

    def _done(self, index: int, started: float) -> None:
        """What follows takes about as long as this did."""
        took = time.monotonic() - started
        rest = self._left_s[index + 1 :]
        self._left_s[index:] = [0.0, *(max(took, 0.5 * s) if s else 0.0 for s in rest)]

    def _tell(self, index: int, stage: str, fraction: float | None) -> None:
        left = sum(self._left_s[index:])
        self._listener(TuningProgressed(index=index, stage=stage, fraction=fraction, left_s=left))

    def _load(self, supervisor: EngineSupervisor, index: int, trial: Trial) -> None:
        """Returns once it is loaded.

        Raises:
            AppError: It cannot be.
            Cancelled: A person had enough.
        """
        self._tell(index, "loading", None)
        supervisor.load(trial.command)
        begun = False  # until then the end of the process before is told
        while True:
            event = self._next()
            if isinstance(event, ModelLoaded):
                return
            if isinstance(event, EngineStateChanged):
                begun = begun or event.state is EngineState.STARTING
                if begun and event.error is not None:
                    raise event.error
                if event.state is EngineState.LOADING and event.fraction is not None:
                    self._tell(index, "loading", event.fraction)

    def _ask(self, supervisor: EngineSupervisor, prompt: int, tokens: int) -> tuple[float, float]:
        """Prompt tokens/s and generated tokens/s of one answer.

        Raises:
            AppError: It failed.
            Cancelled: A person had enough.
        """
        self._turns += 1
        message = protocol.ChatMessage(role="user", content=filler(self._turns, prompt))
        supervisor.generate(
            protocol.Generate(
                turn=self._turns,
                messages=(message,),
                sampling=protocol.Sampling(temperature=0, ignore_end=True),
                max_tokens=tokens,
            )
        )
        while True:
            event = self._next()
            if isinstance(event, TurnEnded) and event.turn == self._turns:
                break
        if event.error is not None:
            raise event.error
        finished = event.finished
        if finished is None or not finished.tokens_per_second or finished.prefill_s <= 0:
            raise AppError("The answer was too short to measure.", kind=ErrorKind.ENGINE)
        computed = finished.prompt_tokens - finished.reused_tokens
        return computed / finished.prefill_s, finished.tokens_per_second

    def _next(self) -> EngineEvent:
        event = self._inbox.get()
        if event is None or self._cancelled.is_set():
            raise Cancelled
        return event


def turn_words() -> str:
    """What plans are compared by, a sentence."""
    return (
        f"Turn: reading {TURN_PROMPT:,} tokens and writing {TURN_TOKENS}, from medians; another plan is "
        "kept only where it is faster by more than the measurements differ."
    )


def turn_s(prompt_tokens_per_s: float, tokens_per_s: float) -> float:
    """What a usual turn takes with these rates."""
    return TURN_PROMPT / prompt_tokens_per_s + TURN_TOKENS / tokens_per_s
