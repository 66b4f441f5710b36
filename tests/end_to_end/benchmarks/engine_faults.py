"""kill -9 at random moments: how often the engine comes back and answers, with nothing shown lost.

Run: `python -m tests.end_to_end.benchmarks.engine_faults [--times 100] [--seed 1]`
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import statistics
import time

from app.catalog import starter
from app.chat.events import TurnFinished
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, TurnEnded, TurnProgressed
from app.engine.supervisor import EngineSupervisor
from tests.helpers.engines import Events, answer, engine, is_loaded, load, talk, text_of

KINDS = ("load", "prefill", "generation", "idle")
QUESTION = "Tell a long story about a lighthouse. " * 40


def is_crash(event: EngineEvent) -> bool:
    """The worker is gone."""
    return isinstance(event, EngineStateChanged) and event.state is EngineState.CRASHED


def is_text(event: EngineEvent) -> bool:
    """Something of the answer."""
    return isinstance(event, TurnProgressed) and isinstance(event.message, protocol.TokensGenerated)


def strike(supervisor: EngineSupervisor, delay_s: float) -> None:
    """Kill the worker at a moment that is random: nothing is waited for."""
    time.sleep(delay_s)
    while (pid := supervisor.pid) is None:
        time.sleep(0.001)  # it is being started
    os.kill(pid, signal.SIGKILL)


def loses_nothing(
    kind: str,
    supervisor: EngineSupervisor,
    events: Events,
    command: protocol.Load,
    moments: random.Random,
) -> bool:
    """Load, ask, kill; True if all that had arrived is kept."""
    session = ChatSession()
    supervisor.load(command)
    if kind == "load":
        events.until(lambda e: isinstance(e, EngineStateChanged))
        strike(supervisor, moments.uniform(0, 0.7))
        events.until(is_crash)
        return True
    events.until(is_loaded)
    seen: list[EngineEvent] = []
    if kind != "idle":
        begun = session.begin(QUESTION, now_s=0)
        supervisor.generate(protocol.Generate(turn=begun.turn, messages=session.prompt()))
    if kind == "generation":
        seen += events.until(is_text)
    strike(supervisor, moments.uniform(0, 1))
    seen += events.until(is_crash)
    if kind == "idle":
        return True
    turn = [event for event in seen if isinstance(event, TurnProgressed | TurnEnded)]
    shown = text_of(seen)
    ends = [s for e in turn if isinstance(s := session.receive(e, now_s=0), TurnFinished)]
    return [end.answer.text for end in ends] == [shown]


def answers(supervisor: EngineSupervisor, events: Events, command: protocol.Load) -> bool:
    """Load again and ask."""
    supervisor.load(command)
    events.until(is_loaded)
    return bool(answer(supervisor, events, talk("Are you there?"), limit=2).finished)


def main() -> None:
    """Print the recoveries by the moment of the kill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    model = starter.bundled_model()
    assert model is not None
    command = load(model, context=2048, micro_batch=64)
    recovered: collections.Counter[str] = collections.Counter()
    killed: collections.Counter[str] = collections.Counter()
    times = []
    with engine() as (supervisor, events):
        for _ in range(options.times):
            kind = moments.choice(KINDS)
            killed[kind] += 1
            kept = loses_nothing(kind, supervisor, events, command, moments)
            started = time.perf_counter()
            recovered[kind] += answers(supervisor, events, command) and kept
            times.append(time.perf_counter() - started)
    for kind in KINDS:
        print(f"  {kind:10} {recovered[kind]} of {killed[kind]} recovered")
    print(
        f"{recovered.total()} of {killed.total()} recovered with nothing lost, "
        f"answering again after {statistics.median(times):.1f} s (median)"
    )


if __name__ == "__main__":
    main()
