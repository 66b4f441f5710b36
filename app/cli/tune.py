"""`tune`: measures some plans of a model on this machine's devices, and remembers the fastest."""

from __future__ import annotations

import argparse
import json
import queue
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from app import units
from app.cli.split import check_split
from app.engine.tuner import (
    CandidateMeasured,
    Effort,
    Result,
    TuningEnded,
    TuningProgressed,
    TuningProposed,
    TuningStarted,
    proposal,
    turn_words,
)
from app.events import AppEvent, OperationFailed, PlanChanged
from app.plan.candidates import MOST, Candidate
from app.plan.text import columns, fullest, split_words
from app.service import AppService
from app.settings.model import Settings

HEADS = ("  Plan", "Devices and layers", "tok/s", "Prompt tok/s", "Turn", "Load", "Fullest")


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "--model",
        default="starter",
        help="a GGUF file, `starter`, or one that was pulled, by its name",
    )
    command.add_argument(
        "--plans", type=int, choices=range(2, MOST + 1), default=MOST, help="most plans to measure"
    )
    command.add_argument(
        "--runs",
        type=int,
        choices=range(1, 21),
        default=3,
        metavar="N",
        help="measurements of each, of which the median counts",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what would be measured, and how long it takes",
    )


def tune(options: argparse.Namespace, settings: Settings, model: Path) -> int:
    """Measure, print a table, keep the fastest; returns the exit code."""
    service = AppService()
    service.settings = settings
    events: queue.Queue[AppEvent] = queue.Queue()
    service.subscribe(events.put)
    before = signal.getsignal(signal.SIGINT)
    try:
        service.tuning.effort = Effort(plans=options.plans, repeats=options.runs)
        _plan(service, events, options, model)
        trials = service.tuning.prepare(settings)
        if options.dry_run:
            _tell_start(proposal(trials), json_lines=options.json)
            return 0

        def interrupted(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, before)  # a second one ends all
            service.tuning.cancel()

        signal.signal(signal.SIGINT, interrupted)
        service.tuning.start(settings)
        ended = _follow(events, json_lines=options.json)
        if ended.kept is not None:
            service.tuning.use(ended.kept)
    finally:
        signal.signal(signal.SIGINT, before)
        service.close()
    return _print(ended, json_lines=options.json)


def _plan(
    service: AppService, events: queue.Queue[AppEvent], options: argparse.Namespace, model: Path
) -> None:
    """Returns once the model is planned."""
    service.start(model)
    while True:
        event = events.get()
        if isinstance(event, OperationFailed):
            raise event.error
        if isinstance(event, PlanChanged):
            check_split(options, event.plan)
            return


def _follow(events: queue.Queue[AppEvent], *, json_lines: bool) -> TuningEnded:
    """Tell what happens until all is measured.

    Raises:
        AppError: Nothing could be.
    """
    names: tuple[Candidate, ...] = ()
    on_terminal = sys.stderr.isatty() and not json_lines
    while True:
        event = events.get()
        match event:
            case OperationFailed(error=error):
                raise error
            case TuningStarted():
                names = event.candidates
                _tell_start(event, json_lines=json_lines)
            case TuningProgressed() if on_terminal:
                part = "" if event.fraction is None else f" {units.format_percent(event.fraction)}"
                line = f"{event.index + 1} of {len(names)}, {event.stage}{part}"
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            case CandidateMeasured(index=index, result=result):
                if on_terminal:
                    print("\r\x1b[K", end="", file=sys.stderr)
                if json_lines:
                    print(
                        json.dumps({"type": "measured", "index": index} | _json(result)), flush=True
                    )
                else:
                    words = (
                        str(result.error) if result.error else f"{result.tokens_per_s:.1f} tok/s"
                    )
                    name = result.candidate.words
                    print(f"{index + 1} of {len(names)}, {name}: {words}", file=sys.stderr)
            case TuningEnded(error=error):
                if error is not None:
                    raise error
                return event
            case _:
                pass


def _tell_start(event: TuningProposed, *, json_lines: bool) -> None:
    if json_lines:
        plans = [
            {"plan": c.words, "split": split_words(c.plan), "fullest": fullest(c.plan)}
            for c in event.candidates
        ]
        seconds = round(event.estimate_s, 1)
        line = {"type": "proposed", "estimate_s": seconds, "loads": len(plans), "candidates": plans}
        print(json.dumps(line), flush=True)
        return
    print(f"{event.sentence} Ctrl+C ends it and keeps the best so far.", file=sys.stderr)
    for candidate in event.candidates:
        print(f"  {candidate.words}: {split_words(candidate.plan)}", file=sys.stderr)


def _print(ended: TuningEnded, *, json_lines: bool) -> int:
    if json_lines:
        line = {
            "type": "ended",
            "kept": ended.kept,
            "cancelled": ended.cancelled,
            "results": [_json(result) for result in ended.results],
        }
        print(json.dumps(line))
    elif not ended.results or ended.kept is None:
        print("Nothing was measured; the plan stays as it is.", file=sys.stderr)
    else:
        print("\n".join(columns([HEADS, *_rows(ended)])))
        print(f"\n* is kept. {turn_words()}")
    return 130 if ended.cancelled and ended.kept is None else 0


def _rows(ended: TuningEnded) -> Iterator[tuple[str, ...]]:
    for index, result in enumerate(ended.results):
        mark = "*" if index == ended.kept else " "
        where = (f"{mark} {result.candidate.words}", split_words(result.candidate.plan))
        if result.turn_s is None:
            title = result.error.title if result.error else "not measured"
            yield (*where, title, "–", "–", "–", fullest(result.candidate.plan))
            continue
        spread = f" ±{100 * result.spread:.0f} %" if result.repeats > 1 else " once"
        yield (
            *where,
            f"{result.tokens_per_s:.1f}",
            f"{result.prompt_tokens_per_s:.0f}",
            units.format_duration(result.turn_s) + spread,
            units.format_duration(result.load_s),
            fullest(result.candidate.plan),
        )


def _json(result: Result) -> dict[str, object]:
    plan = result.candidate.plan
    return {
        "plan": result.candidate.words,
        "devices": [s.device.engine_name for s in plan.devices if s.used],
        "layers": [s.layer_count for s in plan.devices if s.used],
        "micro_batch": plan.request.micro_batch,
        "flash_attention": plan.request.flash_attention,
        "generation_tokens_per_s": result.tokens_per_s or None,
        "prompt_tokens_per_s": result.prompt_tokens_per_s or None,
        "turn_s": result.turn_s,
        "spread": result.spread,
        "repeats": result.repeats,
        "load_s": result.load_s,
        "fullest": fullest(plan),
        "error": str(result.error) if result.error else None,
    }
