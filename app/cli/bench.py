"""`ultra-launcher bench`: how fast a model answers, measured where the answer arrives."""

from __future__ import annotations

import argparse
import dataclasses
import json
import queue
import statistics
import time
from pathlib import Path

from app import units
from app.chat.events import AnswerExtended, PromptRead, QuestionReturned, TurnFinished
from app.cli.load_line import LoadLine
from app.cli.split import take_split
from app.engine.filler import filler
from app.engine.model import EngineStateChanged, ModelLoaded
from app.errors import AppError, ErrorKind
from app.events import AppEvent, OperationFailed, PlanChanged
from app.plan import text as plan_text
from app.plan.model import LoadPlan
from app.service import AppService
from app.settings.model import Overflow, Settings

CALIBRATION = 64
_ENDING = ("grammar", "json_schema")
"""Options of sampling that end an answer themselves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured answer; all times are taken where the events arrive.

    Attributes:
        prompt_tokens: Tokens that were processed, not those from the KV cache.
        prompt_tokens_per_s: Rate of prompt processing.
        generation_tokens_per_s: Rate of token generation, the first token excluded.
        time_to_first_token_s: From sending on.
    """

    prompt_tokens: int
    tokens: int
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    time_to_first_token_s: float


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "--model",
        default="starter",
        help="a GGUF file, `starter`, or one that was pulled, by its name",
    )
    command.add_argument("--threads", type=_count, help="threads; automatic if left out")
    command.add_argument("--prompt-tokens", type=_count, default=512, help="tokens to process")
    command.add_argument("--tokens", type=_two_or_more, default=128, help="tokens to generate")
    command.add_argument("--runs", type=_count, default=3, help="the result is their median")


def _count(text: str, least: int = 1) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least {least}")
    return value


def _two_or_more(text: str) -> int:
    return _count(text, 2)


def bench(options: argparse.Namespace, settings: Settings, model: Path) -> int:
    """Load the model, measure some answers and print the medians; returns the exit code."""
    _check_free(options)
    room = options.prompt_tokens + options.tokens + 4 * CALIBRATION
    context = -(-room // 256) * 256
    if options.context is not None:
        _check_room(options)
        context = options.context
    changes = {
        "context": max(settings.context or 0, context),
        "sampling": {k: v for k, v in settings.sampling.items() if k not in _ENDING}
        | {"ignore_end": True},
        "system_prompt": "",
        "overflow": Overflow.STOP,
        "reply_reserve": 0,
    }
    if options.threads:
        changes["threads"] = options.threads
    service = AppService()
    service.settings = settings.model_copy(update=changes)
    measurement = _Measurement(service)
    try:
        loaded = measurement.load(model, options)
        plan = service.engine.loaded_plan
        runs = measurement.runs(options.prompt_tokens, options.tokens, options.runs)
    finally:
        measurement.line.clear()
        service.close()
    assert plan is not None  # noqa: S101 - it is loaded
    _print(options, model, loaded, plan, runs)
    return 0


def _check_free(options: argparse.Namespace) -> None:
    for name in _ENDING:
        if getattr(options, f"sampling_{name}") is not None:
            raise AppError(
                f"With --{name.replace('_', '-')}-file an answer ends where that allows no more, so "
                "its length cannot be chosen.",
                hint="Leave it out.",
                kind=ErrorKind.USAGE,
            )


def _check_room(options: argparse.Namespace) -> None:
    needed = options.prompt_tokens + options.tokens
    if needed > options.context:
        raise AppError(
            f"{options.prompt_tokens:,} tokens to read and {options.tokens:,} to write do not fit into "
            f"a context of {options.context:,}.",
            hint=f"Measure with --context {-(-needed // 256) * 256} or fewer tokens.",
            kind=ErrorKind.USAGE,
        )


def _print(
    options: argparse.Namespace, model: Path, loaded: ModelLoaded, plan: LoadPlan, runs: list[Run]
) -> None:
    fields = ("generation_tokens_per_s", "prompt_tokens_per_s", "time_to_first_token_s")
    values = {name: [getattr(run, name) for run in runs] for name in fields}
    medians = {name: statistics.median(found) for name, found in values.items()}
    # Half of what the runs differ by, as a share of the median.
    spread = {n: (max(v) - min(v)) / 2 / medians[n] for n, v in values.items()}
    if options.json:
        used = [share for share in plan.devices if share.used]
        facts = {
            "model": str(model),
            "threads": loaded.loaded.threads,
            "load_s": loaded.loaded.duration_s,
            "context": loaded.loaded.context,
            "devices": [share.device.engine_name for share in used],
            "split_mode": "tensor" if plan.request.tensor_parallel else "layer",
            "tensor_split": list(plan_text.split_of(plan)),
            "host_layers": plan.host.layer_count,
        }
        each = [dataclasses.asdict(run) for run in runs]
        print(json.dumps(facts | medians | {"spread": spread, "runs": each}))
        return
    print(f"{model.name}, {loaded.loaded.threads} threads, medians of {len(runs)} runs")
    print(f"  {plan_text.split_words(plan) or 'all on the CPU'}; {loaded.loaded.context:,} tokens")
    within = {name: f"±{100 * share:.1f} %" for name, share in spread.items()}
    rate, prompt, first = fields
    print(f"  generation     {medians[rate]:9.1f} tok/s {within[rate]}, {runs[0].tokens} tokens")
    count = f"{runs[0].prompt_tokens} tokens"
    print(f"  prompt         {medians[prompt]:9.1f} tok/s {within[prompt]}, {count}")
    print(f"  first token    {units.format_duration(medians[first]):>9} {within[first]}")


class _Measurement:
    """Hears the service's events, each with the time of its arrival.

    Attributes:
        line: How far it is, on a terminal: a large model loads for minutes.
    """

    def __init__(self, service: AppService) -> None:
        self._service = service
        self.line = LoadLine()
        self._events: queue.SimpleQueue[tuple[float, AppEvent]] = queue.SimpleQueue()
        service.subscribe(lambda event: self._events.put((time.perf_counter(), event)))

    def load(self, model: Path, options: argparse.Namespace) -> ModelLoaded:
        """Returns once the model is ready, split as the options say."""
        self._service.start(model)
        while True:
            event = self._next()[1]
            if isinstance(event, PlanChanged):
                take_split(options, self._service, event.plan)
                self._service.engine.load()
            elif isinstance(event, EngineStateChanged) and self.line.terminal:
                self.line.show(event)
            elif isinstance(event, ModelLoaded):
                return event

    def _next(self) -> tuple[float, AppEvent]:
        when, event = self._events.get()
        match event:
            case OperationFailed(error=error) | EngineStateChanged(error=AppError() as error):
                raise error
            case TurnFinished(error=AppError() as error) | QuestionReturned(error=error):
                raise error
            case _:
                return when, event

    def runs(self, prompt_tokens: int, tokens: int, count: int) -> list[Run]:
        """Some measured answers, after two that warm up and count the template's own tokens.

        The second is as long as what is measured: memory that is touched for the first time is slow.
        """
        self.line.say("Warming up")
        self._ask(filler(0, CALIBRATION), 2)
        overhead = self._ask(filler(1, prompt_tokens), 2).prompt_tokens - prompt_tokens
        words = prompt_tokens - overhead
        if words < 1:
            raise AppError(
                f"A prompt of this model has at least {overhead + 1} tokens.",
                hint="Measure with more --prompt-tokens.",
                kind=ErrorKind.USAGE,
            )
        found = []
        for number in range(1, count + 1):
            self.line.say(f"Measuring: run {number} of {count}")
            found.append(self._ask(filler(number + 1, words), tokens))
        return found

    def _ask(self, text: str, tokens: int) -> Run:
        self._service.chat.new_chat()
        sent = time.perf_counter()
        self._service.chat.send(text, max_tokens=tokens)
        began = read = first = last = sent
        evaluated = generated = 0
        while True:
            when, event = self._next()
            match event:
                case PromptRead(done=done, total=total, reused=reused):
                    began = when if done == reused else began
                    read, evaluated = when, total - reused
                case AnswerExtended(tokens=arrived):
                    first = first if first > sent else when
                    last, generated = when, arrived
                case TurnFinished():
                    break
                case _:
                    pass
        return Run(
            prompt_tokens=evaluated,
            tokens=generated,
            prompt_tokens_per_s=evaluated / (read - began),
            generation_tokens_per_s=(generated - 1) / (last - first),
            time_to_first_token_s=first - sent,
        )
