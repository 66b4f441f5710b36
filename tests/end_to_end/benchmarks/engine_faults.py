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
from app.chat.message import Outcome
from app.chat.session import ChatSession, TurnFinished
from app.engine import protocol
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, TurnEnded, TurnProgressed
from tests.helpers.engines import engine, is_loaded, load

KINDS = ("load", "prefill", "generation", "idle")
QUESTION = "Tell a long story about a lighthouse. " * 40


def main() -> None:
    """Print the recoveries by the moment of the kill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    model = starter.bundled_model()
    recovered: collections.Counter[str] = collections.Counter()
    killed: collections.Counter[str] = collections.Counter()
    times = []
    command = load(model, context=2048, micro_batch=64)  # type: ignore[arg-type]
    with engine() as (supervisor, events):
        for _ in range(options.times):
            kind = moments.choice(KINDS)
            killed[kind] += 1
            session = ChatSession()
            shown: list[str] = []

            def hear(event: EngineEvent) -> TurnFinished | None:
                if not isinstance(event, TurnProgressed | TurnEnded):
                    return None
                said = session.receive(event, now_s=0)  # noqa: B023 - used up within the round
                if isinstance(event, TurnProgressed) and isinstance(
                    event.message, protocol.TokensGenerated
                ):
                    shown.append(event.message.text)  # noqa: B023
                return said if isinstance(said, TurnFinished) else None

            def crashed(event: EngineEvent) -> bool:
                return isinstance(event, EngineStateChanged) and event.state is EngineState.CRASHED

            def strike(delay_s: float) -> None:
                time.sleep(delay_s)  # the moment is random; nothing is waited for
                assert supervisor.pid is not None
                os.kill(supervisor.pid, signal.SIGKILL)

            supervisor.load(command)
            if kind == "load":
                events.until(lambda e: isinstance(e, EngineStateChanged))
                strike(moments.uniform(0, 0.7))
                seen = events.until(crashed)
            else:
                events.until(is_loaded)
                if kind != "idle":
                    begun = session.begin(QUESTION, now_s=0)
                    supervisor.generate(
                        protocol.Generate(turn=begun.turn, messages=session.prompt())
                    )
                if kind == "generation":
                    for event in events.until(
                        lambda e: (
                            isinstance(e, TurnProgressed)
                            and isinstance(e.message, protocol.TokensGenerated)
                        )
                    ):
                        hear(event)
                strike(moments.uniform(0, 1))
                seen = events.until(crashed)
            ends = [end for event in seen if (end := hear(event)) is not None]
            started = time.perf_counter()
            kept = kind in ("load", "idle") or (
                len(ends) == 1
                and ends[0].answer.outcome is Outcome.INTERRUPTED
                and ends[0].answer.text == "".join(shown)
            )
            supervisor.load(command)
            events.until(is_loaded)
            session.begin("Are you there?", now_s=0)
            supervisor.generate(
                protocol.Generate(turn=session.turn, messages=session.prompt(), max_tokens=2)
            )
            end = events.until(lambda e: isinstance(e, TurnEnded))[-1]
            times.append(time.perf_counter() - started)
            assert isinstance(end, TurnEnded)
            recovered[kind] += kept and end.finished is not None
    for kind in KINDS:
        print(f"  {kind:10} {recovered[kind]} of {killed[kind]} recovered")
    print(
        f"{recovered.total()} of {killed.total()} recovered with nothing lost, "
        f"answering again after {statistics.median(times):.1f} s (median)"
    )


if __name__ == "__main__":
    main()
