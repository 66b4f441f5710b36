"""Plans are loaded and measured for real, on two RPC devices; what they say is told as it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.engine import protocol
from app.engine.load_times import LoadTimes
from app.engine.tuner import (
    CandidateMeasured,
    Effort,
    Result,
    Trial,
    Tuner,
    TuningEnded,
    TuningEvent,
    TuningProgressed,
    TuningProposed,
    TuningStarted,
    about,
    kept,
    prompt_length,
    trials,
    turn_s,
)
from app.gguf import bundled
from app.gguf.reader import read_layout
from app.plan.candidates import Candidate
from app.plan.model import PlanRequest
from app.plan.planner import make_plan
from tests.helpers import engines
from tests.helpers.machines import HOST, cards
from tests.helpers.rpc import rpc_servers

SUPER = bundled.layout("nemotron-super-49b:Q4_K_M")
QUICK = Effort(repeats=2, prompt_tokens=24, tokens=4)


@pytest.fixture(scope="module")
def endpoints() -> Iterator[tuple[str, ...]]:
    with rpc_servers(2) as servers:
        yield servers


def candidate(model: Path, counts: tuple[int, int], words: str) -> Candidate:
    request = PlanRequest(context=512, layer_counts=counts)
    plan = make_plan(read_layout(model), request, cards([2, 2], backend="rpc"), HOST, limits=False)
    return Candidate(plan=plan, words=words)


def command(
    model: Path, endpoints: tuple[str, ...], counts: tuple[int, int], device: str = "RPC1"
) -> protocol.Load:
    return protocol.Load(
        model_path=str(model),
        devices=("RPC0", device),
        rpc_servers=endpoints,
        gpu_layers=31,
        tensor_split=counts,
        context=512,
        threads=1,
    )


def trial(model: Path, load: protocol.Load, words: str) -> Trial:
    counts = load.tensor_split[0], load.tensor_split[1]
    return Trial(candidate=candidate(model, counts, words), command=load, load_s=1.0, measure_s=1.0)


def result(turn: float | None, *, spread: float = 0.0) -> Result:
    plan = make_plan(SUPER, PlanRequest(context=512), cards([48]), HOST, limits=False)
    return Result(candidate=Candidate(plan=plan, words=""), turn_s=turn, spread=spread)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result(10.0), result(9.8)], 0),
        ([result(10.0), result(9.6), result(9.0)], 2),
        ([result(10.0, spread=0.08), result(9.0, spread=0.03)], 0),
        ([result(10.0, spread=0.05), result(9.0, spread=0.03)], 1),
        ([result(None), result(9.0), result(8.0)], 2),
        ([result(None), result(None)], None),
        ([result(5.0), result(9.0)], 0),
        ([], None),
    ],
)
def test_the_plan_in_force_is_kept_unless_another_is_faster_beyond_the_noise(
    results: list[Result], expected: int | None
) -> None:
    assert kept(results) == expected


def test_each_plan_is_measured_and_one_that_fails_is_told(
    starter_model: Path, tmp_path: Path, endpoints: tuple[str, ...]
) -> None:
    events: list[TuningEvent] = []
    tuner = Tuner(events.append, data=tmp_path, effort=QUICK)
    broken = command(starter_model, endpoints, (16, 15), device="RPC9")
    ended = tuner.run(
        [
            trial(starter_model, command(starter_model, endpoints, (16, 15)), "even"),
            trial(starter_model, broken, "broken"),
            trial(starter_model, command(starter_model, endpoints, (30, 1)), "uneven"),
        ]
    )
    assert isinstance(events[0], TuningStarted)
    assert events[-1] == ended
    first, second, third = ended.results
    assert second.error is not None
    assert "RPC9" in str(second.error)
    for found in (first, third):
        assert found.error is None
        assert found.turn_s is not None
        assert found.repeats in (1, 2)
        assert found.tokens_per_s > 1
        assert found.prompt_tokens_per_s > 1
        assert found.load_s > 0
        slack = found.spread * found.turn_s
        assert (
            abs(turn_s(found.prompt_tokens_per_s, found.tokens_per_s) - found.turn_s)
            <= slack + 1e-6
        )
    assert ended.kept in (0, 2)
    assert not ended.cancelled
    assert [e.index for e in events if isinstance(e, CandidateMeasured)][:3] == [0, 1, 2]
    progress = [e for e in events if isinstance(e, TuningProgressed)]
    assert {(e.index, e.stage) for e in progress} >= {
        (0, "loading"),
        (0, "measuring"),
        (2, "measuring"),
    }
    times = LoadTimes(tmp_path / "load_times.json")
    load = command(starter_model, endpoints, (16, 15))
    known = times.expected_s(load)
    assert known, "the next estimate knows how long a load takes"
    (prepared,) = trials([(first.candidate, load, 50.0)], times, 10**8, QUICK)
    assert known < prepared.load_s < known + 5


def test_a_cancel_keeps_what_was_measured_and_leaves_no_process(
    starter_model: Path, tmp_path: Path, endpoints: tuple[str, ...]
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    measured = threading.Event()

    def listen(event: TuningEvent) -> None:
        if isinstance(event, CandidateMeasured):
            measured.set()

    tuner = Tuner(listen, data=tmp_path, effort=Effort(repeats=1, prompt_tokens=16, tokens=3))
    endless = Effort(repeats=10**6, prompt_tokens=16, tokens=3)
    outcome: list[TuningEnded] = []
    plans = [trial(starter_model, command(starter_model, endpoints, (16, 15)), "even")] * 50
    thread = threading.Thread(target=lambda: outcome.append(tuner.run(plans)))
    thread.start()
    assert measured.wait(60)
    tuner.cancel()
    thread.join(20)
    (ended,) = outcome
    assert ended.cancelled
    assert ended.kept == 0
    assert 1 <= len(ended.results) < 50
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    first = Tuner(lambda event: first.cancel(), data=tmp_path, effort=endless)
    nothing = first.run(plans)
    assert (nothing.kept, nothing.results, nothing.cancelled) == (None, (), True)


def test_how_long_it_takes_is_said_in_words(starter_model: Path) -> None:
    plan = candidate(starter_model, (16, 15), "even")
    assert (
        TuningProposed(candidates=(plan,) * 3, estimate_s=350).sentence
        == "About 6 minutes, 3 loads."
    )
    assert about(3) == "About 5 seconds"
    assert about(61) == "About 1 minute"


def test_prompts_are_long_enough_to_tell_micro_batches_apart() -> None:
    def loads(*sizes: int, context: int = 8192) -> list[protocol.Load]:
        return [protocol.Load(model_path="m", context=context, micro_batch=n) for n in sizes]

    assert prompt_length(Effort(), loads(512, 512)) == 256
    assert prompt_length(Effort(), loads(512, 1024)) == 1024
    assert prompt_length(Effort(), loads(512, 512, context=300)) == 150


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-1", "1" + "0" * 400])
def test_a_duration_that_no_load_takes_is_not_expected(
    tmp_path: Path, starter_model: Path, written: str
) -> None:
    path, command = tmp_path / "load_times.json", engines.load(starter_model)
    times = LoadTimes(path)
    times.put(command, 1.5)
    assert times.expected_s(command) == 1.5
    path.write_text(path.read_text().replace("1.5", written))
    assert times.expected_s(command) is None
