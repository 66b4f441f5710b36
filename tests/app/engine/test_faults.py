"""What must not take the app down, or lose a word that was shown. Faults are real, in a real worker."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app import processes
from app.engine import protocol
from app.engine.load_times import LoadTimes
from app.engine.model import (
    EngineEvent,
    EngineState,
    EngineStateChanged,
    ModelLoaded,
    TurnEnded,
    TurnProgressed,
)
from app.engine.supervisor import EngineSupervisor
from app.errors import ErrorKind
from tests.helpers.engines import (
    Events,
    answer,
    engine,
    generate,
    has_text,
    is_end,
    is_error,
    is_loaded,
    load,
    talk,
    text_of,
)
from tests.helpers.faults import Faults


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults(tmp_path)
    monkeypatch.setenv("PYTHONPATH", found.python_path)
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    return found


def answers_again(supervisor: EngineSupervisor, events: Events, model: Path) -> None:
    supervisor.load(load(model))
    events.until(is_loaded)
    assert answer(supervisor, events, talk("Hello"), limit=4).text


def error_of(event: EngineEvent) -> str:
    assert isinstance(event, EngineStateChanged)
    assert event.error is not None
    return f"{event.error.title} {event.error.detail}"


@pytest.mark.parametrize(
    ("fault", "words"), [("abort", "GGML_ASSERT(a fault of the test)"), ("segfault", "SIGSEGV")]
)
def test_a_crash_in_mid_answer_keeps_what_was_shown(
    fault: str, words: str, faults: Faults, starter_model: Path
) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, None))
        shown = text_of(events.until(has_text))
        faults.cause(fault)
        seen = events.until(is_error)
        assert words in error_of(seen[-1])
        assert shown + text_of(seen)
        ended = [e for e in seen if isinstance(e, TurnEnded)]
        assert len(ended) == 1
        assert ended[0].error is not None
        assert supervisor.state is EngineState.CRASHED
        answers_again(supervisor, events, starter_model)


def test_a_hang_is_told_and_ended_only_when_asked(faults: Faults, starter_model: Path) -> None:
    with engine(stall_s=0.4) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, None))
        events.until(has_text)
        pid = supervisor.pid
        faults.cause("hang")
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.silent_s is not None)
        told = events.until(lambda e: isinstance(e, EngineStateChanged) and e.silent_s is not None)
        last = told[-1]
        assert isinstance(last, EngineStateChanged)
        assert last.silent_s is not None
        assert last.silent_s >= 0.4
        assert not last.computing
        assert supervisor.pid == pid, "nobody killed it"
        assert supervisor.state is EngineState.GENERATING
        supervisor.unload()
        ended = events.until(is_end)[-1]
        assert isinstance(ended, TurnEnded)
        assert ended.error is not None
        answers_again(supervisor, events, starter_model)


def test_silence_that_ends_is_told_too(faults: Faults, starter_model: Path) -> None:
    with engine(stall_s=0.4) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, 40))
        events.until(has_text)
        faults.cause("sleep")
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.silent_s is not None)
        events.until(
            lambda e: (
                isinstance(e, EngineStateChanged)
                and e.state is EngineState.GENERATING
                and e.silent_s is None
            )
        )
        end = events.until(is_end)[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert end.finished.generated_tokens == 40


@pytest.mark.parametrize("fault", ["garbage", "half"])
def test_garbage_on_the_pipe_is_no_message(fault: str, faults: Faults, starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        plain = answer(supervisor, events, talk("Count."), limit=30)
        supervisor.generate(generate(1, 30))
        events.until(has_text)
        faults.cause(fault)
        end = events.until(is_end)[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert answer(supervisor, events, talk("Count."), limit=30).text == plain.text


def test_a_turn_whose_end_is_lost_ends_all_the_same(faults: Faults, starter_model: Path) -> None:
    with engine(stall_s=0.4) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        faults.cause("no_end")
        supervisor.generate(generate(1, 2))
        seen = events.until(is_end)
        assert text_of(seen)
        assert isinstance(seen[-1], TurnEnded)
        assert seen[-1].error is not None
        assert "was lost" in seen[-1].error.detail
        assert supervisor.state is EngineState.READY
        assert answer(supervisor, events, talk("Hello"), limit=4).text


PARENT = """
import sys, threading
from app.engine import protocol
from app.engine.supervisor import EngineSupervisor
from app.engine.model import EngineStateChanged, ModelLoaded, TurnEnded, TurnProgressed
when = sys.argv[2]
ended = threading.Event()
def say(event):
    if when == "load" and isinstance(event, EngineStateChanged) and event.stage == "reading":
        print(supervisor.pid, flush=True)
    if isinstance(event, ModelLoaded):
        if when == "generate":
            message = protocol.ChatMessage(role="user", content="Tell a long story. " * 400)
            supervisor.generate(protocol.Generate(turn=1, messages=(message,)))
        elif when == "idle":
            print(supervisor.pid, flush=True)
        elif when == "answer":
            message = protocol.ChatMessage(role="user", content="Tell a long story.")
            sampling = protocol.Sampling(ignore_end=True)
            supervisor.generate(
                protocol.Generate(turn=1, messages=(message,), sampling=sampling, max_tokens=40)
            )
    if isinstance(event, TurnProgressed):
        print(supervisor.pid, flush=True)
    if isinstance(event, TurnEnded):
        print("ended", event.finished and event.finished.generated_tokens, flush=True)
        ended.set()
supervisor = EngineSupervisor(say, stall_s=0.4)
supervisor.load(protocol.Load(model_path=sys.argv[1], context=4096, threads=1))
ended.wait(600)
supervisor.close()
"""


def gone(process: psutil.Process) -> bool:
    """True if it holds nothing any more; its entry may wait for the system's first process."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("when", ["load", "generate", "idle", "stopped"])
def test_the_worker_is_gone_two_seconds_after_its_parent_was_killed(
    when: str, starter_model: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(starter_model), "idle" if when == "stopped" else when],
        stdout=subprocess.PIPE,
        env=processes.child_environment(),
        text=True,
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    if when == "stopped":
        worker.suspend()
    parent.kill()
    killed = time.monotonic()
    parent.wait()
    parent.stdout.close()
    while not gone(worker) and time.monotonic() - killed < 20:
        time.sleep(0.01)
    assert gone(worker)
    assert time.monotonic() - killed < 2


def test_app_and_worker_outlive_a_suspended_machine(starter_model: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(starter_model), "answer"],
        stdout=subprocess.PIPE,
        env=processes.child_environment(),
        text=True,
    )
    assert parent.stdout is not None
    try:
        both = psutil.Process(parent.pid), psutil.Process(int(parent.stdout.readline()))
        for process in both:
            process.suspend()
        for process in both:
            while process.status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
        time.sleep(1)  # longer than the silence that is worth a question
        for process in both:
            process.resume()
        lines = list(parent.stdout)
        assert lines[-1].strip() == "ended 40", lines[-3:]
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def write_zeros(model: Path) -> None:
    with model.open("r+b") as file:
        file.seek(50_000_000)
        file.write(bytes(4096))


def lengthen(model: Path) -> None:
    with model.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    "spoil", [lambda model: os.truncate(model, 1_000_000), write_zeros, lengthen]
)
def test_a_model_file_that_is_written_to_while_loaded(
    tmp_path: Path, starter_model: Path, spoil: Callable[[Path], None]
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(starter_model, model)
    with engine() as (supervisor, events):
        supervisor.load(load(model, use_extra_buffers=False))
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Hello"), limit=4).text
        spoil(model)
        supervisor.generate(generate(1))
        end = events.until(is_end)[-1]
        assert isinstance(end, TurnEnded)
        assert end.error is not None
        assert end.error.kind is ErrorKind.MODEL_FILE
        assert "model.gguf" in end.error.title
        assert supervisor.state is EngineState.READY, "the worker did not touch what is missing"
        shutil.copyfile(starter_model, model)
        answers_again(supervisor, events, model)


def test_a_model_file_that_is_cut_off_in_mid_answer(tmp_path: Path, starter_model: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(starter_model, model)
    with engine() as (supervisor, events):
        supervisor.load(load(model, use_extra_buffers=False))
        events.until(is_loaded)
        supervisor.generate(generate(1, None))
        events.until(has_text)
        os.truncate(model, 1_000_000)
        seen = events.until(is_error)
        assert "model.gguf was changed or cut off" in error_of(seen[-1])
        assert "SIGBUS" in error_of(seen[-1])
        shutil.copyfile(starter_model, model)
        answers_again(supervisor, events, model)


def test_a_model_file_that_is_replaced_while_loaded(tmp_path: Path, starter_model: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    shutil.copyfile(starter_model, model)
    with engine() as (supervisor, events):
        supervisor.load(load(model))
        events.until(is_loaded)
        before = answer(supervisor, events, talk("Hello"), limit=8)
        other.write_bytes(b"no model at all")
        other.replace(model)
        assert answer(supervisor, events, talk("Hello"), limit=8).text[:4] == before.text[:4]


def test_kill_9_at_random_moments(starter_model: Path) -> None:
    moments = random.Random(5)
    with engine() as (supervisor, events):
        for _ in range(6):
            kill_somewhere(supervisor, events, starter_model, moments)
        answers_again(supervisor, events, starter_model)


def kill_somewhere(
    supervisor: EngineSupervisor, events: Events, model: Path, moments: random.Random
) -> str:
    """Load, ask, and kill the worker at some event on the way; returns which."""
    kinds = ("load", "prefill", "generation", "idle")
    kind = moments.choice(kinds)
    supervisor.load(load(model, context=2048, micro_batch=64))
    if kind == "load":
        stage = moments.choice(("", "reading", "allocating", "warming_up"))
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.stage == stage)
    else:
        events.until(is_loaded)
    if kind in ("prefill", "generation"):
        question = protocol.ChatMessage(role="user", content="Tell a long story. " * 60)
        supervisor.generate(protocol.Generate(turn=1, messages=(question,)))
        skip = moments.randrange(1, 5)
        wanted = protocol.PrefillProgressed if kind == "prefill" else protocol.TokensGenerated
        for _ in range(skip):
            seen = events.until(
                lambda e: (
                    is_end(e) or (isinstance(e, TurnProgressed) and isinstance(e.message, wanted))
                )
            )
            if is_end(seen[-1]):  # a short answer: killed after it
                break
    pid = supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    events.until(is_error)
    assert supervisor.state is EngineState.CRASHED
    return kind


@pytest.mark.parametrize("stage", ["", "reading", "allocating", "warming_up"])
def test_a_load_can_be_cancelled_at_every_stage(stage: str, starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.stage == stage)
        supervisor.cancel()
        seen = events.until(
            lambda e: (
                isinstance(e, ModelLoaded)
                or (isinstance(e, EngineStateChanged) and e.state is EngineState.STOPPED)
            )
        )
        if isinstance(seen[-1], EngineStateChanged):
            assert seen[-1].error is None
            assert supervisor.pid is None
        else:  # it was loaded before the cancel was read
            assert stage == "warming_up"
        answers_again(supervisor, events, starter_model)


def test_a_stop_in_prefill_ends_it_and_the_model_stays(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, context=8192))
        events.until(is_loaded)
        pid = supervisor.pid
        question = protocol.ChatMessage(role="user", content="Tell a long story. " * 1200)
        supervisor.generate(protocol.Generate(turn=1, messages=(question,)))
        events.until(lambda e: isinstance(e, TurnProgressed))
        supervisor.cancel()
        seen = events.until(is_end)
        end = seen[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert end.finished.reason == "cancelled"
        assert end.finished.prompt_tokens == end.finished.context_used, "no more was read"
        # Reading all of it would give ten such events.
        assert sum(isinstance(e, TurnProgressed) for e in seen) <= 2
        assert answer(supervisor, events, talk("Hello"), limit=4).text
        assert supervisor.pid == pid


def test_the_second_load_says_what_to_expect(tmp_path: Path, starter_model: Path) -> None:
    times = LoadTimes(tmp_path / "times.json")
    with engine(times=times) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.load(load(starter_model))
        seen = [e for e in events.until(is_loaded) if isinstance(e, EngineStateChanged)]
        reading = [e.progress for e in seen if e.progress is not None and e.stage == "reading"]
        assert reading[-1].done_bytes == reading[-1].total_bytes == starter_model.stat().st_size
        loading = [e for e in seen if e.state is EngineState.LOADING]
        assert all((e.expected_s or 0) > 0 for e in loading)
        assert [e.elapsed_s for e in loading] == sorted(e.elapsed_s for e in loading)
    with engine(times=times) as (supervisor, events):
        supervisor.load(load(starter_model, load_mode="read"))
        seen = [e for e in events.until(is_loaded) if isinstance(e, EngineStateChanged)]
        assert all(e.expected_s is None for e in seen), "another way to load, not measured yet"
        assert answer(supervisor, events, talk("Hello"), limit=4).text


def test_two_apps_use_one_model_at_once(starter_model: Path) -> None:
    with engine() as (first, first_events), engine() as (second, second_events):
        for supervisor, events in ((first, first_events), (second, second_events)):
            supervisor.load(load(starter_model))
            events.until(is_loaded)
        first.generate(generate(1, 24))
        second.generate(generate(1, 24))
        assert text_of(first_events.until(is_end)) == text_of(second_events.until(is_end))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first_events.until(is_error)
        assert answer(second, second_events, talk("Hello"), limit=4).text


def test_an_answer_outlives_being_suspended(starter_model: Path) -> None:
    with engine(stall_s=0.4) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, 40))
        events.until(has_text)
        worker = psutil.Process(supervisor.pid)
        worker.suspend()
        told = events.until(lambda e: isinstance(e, EngineStateChanged) and e.silent_s is not None)
        assert isinstance(told[-1], EngineStateChanged)
        worker.resume()
        end = events.until(is_end)[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert end.finished.generated_tokens == 40
