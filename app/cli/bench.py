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
from app.cli import load_options
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
WORD = "the"
"""A question of one token."""
_ENDING = ("grammar", "json_schema")
"""Options of sampling that end an answer themselves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement of both; all times are taken where the events arrive.

    Attributes:
        prompt_tokens: Tokens that were processed, not those from the KV cache.
        prompt_tokens_per_s: Rate of prompt processing.
        generation_tokens_per_s: Rate of token generation, the first token excluded, after the
            shortest of prompts: tokens/s fall with what the context holds.
        generation_from_tokens: What it held then.
        time_to_first_token_s: From sending the long prompt on.
    """

    prompt_tokens: int
    tokens: int
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    generation_from_tokens: int
    time_to_first_token_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """When it came, in seconds from sending on, and of how many tokens it and its prompt were.

    `began` and `read` are the first and the last event of prompt processing.
    """

    began: float
    read: float
    first: float
    last: float
    prompt: int
    evaluated: int
    tokens: int


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "--model",
        default="starter",
        help="a GGUF file, `starter`, or one that was pulled, by its name",
    )
    command.add_argument(
        "--threads", type=load_options.count, help="threads; automatic if left out"
    )
    command.add_argument(
        "--prompt-tokens", type=load_options.count, default=512, help="tokens to process"
    )
    command.add_argument("--tokens", type=_two_or_more, default=128, help="tokens to generate")
    command.add_argument(
        "--runs", type=load_options.count, default=3, help="the result is their median"
    )


def _two_or_more(text: str) -> int:
    return load_options.count(text, 2)


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
        "sampling": _sampling(options, settings),
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


def _sampling(options: argparse.Namespace, settings: Settings) -> dict[str, object]:
    """Only what the command line itself asks for: else the likeliest token, as costs nothing."""
    told = {k for k in settings.sampling if getattr(options, f"sampling_{k}", None) is not None}
    return {
        "temperature": 0,
        **{k: v for k, v in settings.sampling.items() if k in told and k not in _ENDING},
        "ignore_end": True,
    }


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
    count = f"{runs[0].tokens} tokens after {runs[0].generation_from_tokens}"
    print(f"  generation     {medians[rate]:9.1f} tok/s {within[rate]}, {count}")
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
        """Some measurements, after two answers that warm up and count the template's own tokens.

        The second is as long as what is measured: memory that is touched for the first time is slow.
        Reading and writing are measured apart, as llama-bench does.
        """
        self.line.say("Warming up")
        short = self._ask(WORD, 2).prompt
        overhead = self._ask(filler(1, prompt_tokens), 2).evaluated - prompt_tokens
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
            read = self._ask(filler(number + 1, words), 1)
            written = self._ask(WORD, tokens)
            found.append(
                Run(
                    prompt_tokens=read.evaluated,
                    tokens=written.tokens,
                    prompt_tokens_per_s=read.evaluated / (read.read - read.began),
                    generation_tokens_per_s=(written.tokens - 1) / (written.last - written.first),
                    generation_from_tokens=short,
                    time_to_first_token_s=read.first,
                )
            )
        return found

    def _ask(self, text: str, tokens: int) -> _Answer:
        self._service.chat.new_chat()
        sent = time.perf_counter()
        self._service.chat.send(text, max_tokens=tokens)
        began = read = first = last = sent
        prompt = evaluated = generated = 0
        while True:
            when, event = self._next()
            match event:
                case PromptRead(done=done, total=total, reused=reused):
                    began = when if done == reused else began
                    read, prompt, evaluated = when, total, total - reused
                case AnswerExtended(tokens=arrived):
                    first = first if first > sent else when
                    last, generated = when, arrived
                case TurnFinished():
                    break
                case _:
                    pass
        return _Answer(
            began=began - sent,
            read=read - sent,
            first=first - sent,
            last=last - sent,
            prompt=prompt,
            evaluated=evaluated,
            tokens=generated,
        )
