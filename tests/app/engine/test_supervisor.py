from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from app.engine import protocol, safety
from app.engine.load_times import LoadTimes
from app.engine.model import (
    EngineEvent,
    EngineState,
    EngineStateChanged,
    ModelLoaded,
    SafetyApplied,
    TurnEnded,
)
from app.engine.safety import SafetyStore
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, ErrorKind
from app.gguf.reader import read_layout
from app.plan.model import PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.units import GIB
from tests.helpers import headers
from tests.helpers.engines import (
    TIMEOUT_S,
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
from tests.helpers.rpc import rpc_servers


def error_after(supervisor: EngineSupervisor, events: Events, command: protocol.Load) -> AppError:
    supervisor.load(command)
    last = events.until(is_error)[-1]
    assert isinstance(last, EngineStateChanged)
    assert last.error is not None
    return last.error


def test_load_answer_stop_and_answer_again(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        seen = events.until(is_loaded)
        fractions = [e.fraction for e in seen if isinstance(e, EngineStateChanged) and e.fraction]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
        supervisor.generate(generate(1))
        seen = events.until(is_end)
        end = seen[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert (end.finished.generated_tokens, end.finished.reason) == (16, "length")
        assert 0 < (end.finished.first_token_s or 0) < TIMEOUT_S
        first = text_of(seen)
        supervisor.generate(generate(2, None))
        events.until(has_text)
        supervisor.cancel()
        end = events.until(is_end)[-1]
        assert isinstance(end, TurnEnded)
        assert end.finished is not None
        assert end.finished.reason == "cancelled"
        supervisor.generate(generate(3))
        seen = events.until(is_end)
        assert text_of(seen) == first, "greedy answers are equal, so a stop leaves no trace"
        assert isinstance(seen[-1], TurnEnded)
        assert seen[-1].finished is not None
        assert seen[-1].finished.reused_tokens > 0


def test_kill_9_in_mid_answer_keeps_the_partial_text_and_reloads(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, None))
        partial = text_of(events.until(has_text))
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        seen = events.until(is_error)
        assert supervisor.state is EngineState.CRASHED
        ended = [e for e in seen if isinstance(e, TurnEnded)]
        assert ended[0].error is not None
        assert "SIGKILL" in ended[0].error.detail
        assert partial
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(2))
        assert text_of(events.until(is_end))


def test_two_rpc_servers_hold_what_the_plan_says(starter_model: Path) -> None:
    layout = read_layout(starter_model)
    with rpc_servers(2) as endpoints, engine() as (supervisor, events):
        devices = tuple(
            PlanDevice(
                id=f"rpc{i}",
                label=f"RPC {i}",
                name="",
                engine_name=f"RPC{i}",
                backend="rpc",
                total_bytes=8 * GIB,
                free_bytes=8 * GIB,
            )
            for i in range(2)
        )
        host = PlanHost(total_bytes=8 * GIB, available_bytes=8 * GIB)
        for counts in ((20, 11), (3, 28), (10, 9)):
            plan = make_plan(layout, PlanRequest(context=1024, layer_counts=counts), devices, host)
            command = load(
                starter_model,
                devices=("RPC0", "RPC1"),
                rpc_servers=endpoints,
                gpu_layers=plan.gpu_layers,
                tensor_split=plan.tensor_split,
                use_extra_buffers=False,
            )
            supervisor.load(command)
            loaded = events.until(is_loaded)[-1]
            assert isinstance(loaded, ModelLoaded)
            memory = {m.device: m for m in loaded.loaded.memory}
            for share in plan.devices:
                found = memory[share.device.engine_name]
                assert found.layer_count == share.layer_count
                assert (found.first_layer, found.last_layer) == (
                    share.first_layer,
                    share.last_layer,
                )
                assert found.weights_bytes == share.weights_bytes
                assert found.kv_cache_bytes == share.kv_cache_bytes
                assert found.compute_bytes <= share.compute_bytes + 16 * 2**20
            supervisor.generate(generate(1, 4))
            assert text_of(events.until(is_end))


def test_an_rpc_server_that_dies_in_mid_answer_is_named(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        with rpc_servers(1) as endpoints:
            supervisor.load(
                load(
                    starter_model,
                    devices=("RPC0",),
                    rpc_servers=endpoints,
                    gpu_layers=31,
                    tensor_split=(31,),
                )
            )
            events.until(is_loaded)
            supervisor.generate(generate(1, None))
            events.until(has_text)
        last = events.until(is_error)[-1]
        assert isinstance(last, EngineStateChanged)
        assert last.error is not None
        assert "RPC server" in last.error.title
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(2, 4))
        assert text_of(events.until(is_end)), "the app itself lives on"


def test_bad_files_and_devices_are_named(tmp_path: Path, starter_model: Path) -> None:
    unknown = headers.write(
        tmp_path / "odd.gguf",
        headers.tiny_keys("zebra"),
        [headers.tensor("token_embd.weight", [32, 8])],
    )
    with engine() as (supervisor, events):
        error = error_after(supervisor, events, load(unknown))
        assert "odd.gguf" in error.title
        assert "zebra" in error.title
        error = error_after(supervisor, events, load(tmp_path / "gone.gguf"))
        assert "gone.gguf" in error.title
        assert error.kind is ErrorKind.MODEL_FILE
        error = error_after(
            supervisor, events, load(starter_model, devices=("CUDA7",), gpu_layers=1)
        )
        assert "CUDA7" in error.title
        error = error_after(supervisor, events, load(starter_model, rpc_servers=("127.0.0.1:1",)))
        assert "127.0.0.1:1" in error.title


CRASH_WITH_EXTRA_BUFFERS = """
import os, signal, sys
if "app.engine.worker" in " ".join(sys.orig_argv):
    import threading, builtins
    real = builtins.__import__
    def patched(name, *args, **kwargs):
        module = real(name, *args, **kwargs)
        lib = sys.modules.get("llama_cpp.llama_cpp")
        if lib is not None and hasattr(lib, "llama_decode") and not hasattr(lib, "_armed"):
            lib._armed = True
            load = lib.llama_model_load_from_file
            decode = lib.llama_decode
            state = {}
            def load_model(path, params):
                state["extra"] = params.use_extra_bufts
                return load(path, params)
            def crash(context, batch):
                if state.get("extra"):
                    os.kill(os.getpid(), signal.SIGSEGV)
                return decode(context, batch)
            lib.llama_model_load_from_file, lib.llama_decode = load_model, crash
        return module
    builtins.__import__ = patched
"""


def test_a_crash_in_the_self_test_leads_to_a_safer_setting_that_is_remembered(
    tmp_path: Path, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH_WITH_EXTRA_BUFFERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    store = SafetyStore(tmp_path / "data" / "safety.json", "0.3.36")
    with engine(store=store) as (supervisor, events):
        supervisor.load(load(starter_model))
        told = [e for e in events.until(is_loaded) if isinstance(e, SafetyApplied)]
        assert [e.sentence for e in told] == [safety.STEPS["no_extra_buffers"]]
        supervisor.generate(generate(1, 4))
        assert text_of(events.until(is_end))
    again = SafetyStore(tmp_path / "data" / "safety.json", "0.3.36")
    assert again.get() == "no_extra_buffers"
    with engine(store=again) as (supervisor, events):
        supervisor.load(load(starter_model))
        seen = events.until(is_loaded)
        starts = [
            e for e in seen if isinstance(e, EngineStateChanged) and e.state is EngineState.STARTING
        ]
        assert len(starts) == 1, "the remembered setting is used at once"


def test_a_model_that_nobody_uses_is_unloaded(starter_model: Path) -> None:
    def is_stopped(event: EngineEvent) -> bool:
        return isinstance(event, EngineStateChanged) and event.state is EngineState.STOPPED

    with engine(idle_s=1.0) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1))
        events.until(is_end)
        ended = time.monotonic()
        stopped = events.until(is_stopped)[-1]
        assert time.monotonic() - ended >= 0.9
        assert isinstance(stopped, EngineStateChanged)
        assert stopped.error is None
        assert supervisor.pid is None
        supervisor.unload_when_idle(None)
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(2))
        assert text_of(events.until(is_end))


def test_names_and_words_that_are_no_unicode_are_taken(
    tmp_path: Path, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    folder = tmp_path / os.fsdecode(b"mod\xe8le")
    folder.mkdir()
    model = folder / starter_model.name
    model.symlink_to(starter_model)
    with engine() as (supervisor, events):
        too_long = error_after(supervisor, events, load(tmp_path / ("x" * 300)))
        assert too_long.kind is ErrorKind.MODEL_FILE
        supervisor.load(load(model))
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Où est la mer ?"), limit=4).text
        assert answer(supervisor, events, talk("Say \ud800 hello"), limit=4).text


def test_more_threads_than_llama_cpp_takes(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model, threads=1000, self_test=False))
        loaded = events.until(is_loaded)[-1]
        assert isinstance(loaded, ModelLoaded)
        assert loaded.loaded.threads == 512


def test_a_listener_that_fails_does_not_end_the_engine(starter_model: Path) -> None:
    events = Events()

    def listen(event: EngineEvent) -> None:
        events.queue.put(event)
        if isinstance(event, ModelLoaded):
            raise RuntimeError("a bug of the listener")  # noqa: TRY004

    supervisor = EngineSupervisor(listen)
    try:
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Hello"), limit=2).text
    finally:
        supervisor.close()


@pytest.mark.parametrize("value", ["1e999", "NaN", "-5", "0", "1" + "0" * 400, '"5"', "[1]"])
def test_a_load_time_that_cannot_be_is_none(value: str, tmp_path: Path) -> None:
    path, command = tmp_path / "times.json", load(tmp_path / "model.gguf")
    LoadTimes(path).put(command, 5)
    path.write_text(path.read_text().replace("5", value))
    assert LoadTimes(path).expected_s(command) is None


@pytest.mark.parametrize("again", [False, True])
def test_an_answer_that_a_person_ends_with_its_engine_is_no_crash(
    again: bool, starter_model: Path
) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(generate(1, None))
        events.until(has_text)
        if again:
            supervisor.load(load(starter_model.with_name("missing.gguf")))
        else:
            supervisor.unload()
        ended = events.until(is_end)[-1]
        assert isinstance(ended, TurnEnded)
        assert ended.error is not None
        assert "cut off" in ended.error.title
        assert "unexpectedly" not in str(ended.error)
