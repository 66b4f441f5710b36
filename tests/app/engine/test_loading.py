"""What a load tells while it happens, and how it is ended at any moment of it."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import psutil
import pytest

from app.engine import protocol, words
from app.engine.load_watch import Files
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, ModelLoaded
from tests.helpers.engines import answer, engine, is_loaded, load, talk
from tests.helpers.rpc import rpc_servers
from tests.helpers.split import split

SHARD = 30_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can be seen")


@pytest.fixture(scope="module")
def sharded(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split(starter_model, tmp_path_factory.mktemp("shards"), "starter", SHARD)[0]


def progress_of(events: list[EngineEvent]) -> list[protocol.LoadProgressed]:
    return [e.progress for e in events if isinstance(e, EngineStateChanged) and e.progress]


def test_the_device_that_is_filled_is_the_one_that_is_told(sharded: Path) -> None:
    with rpc_servers(2) as endpoints, engine() as (supervisor, events):
        supervisor.load(
            load(
                sharded, devices=("RPC1", "RPC0"), rpc_servers=endpoints, gpu_layers=24,
                tensor_split=(6, 18), load_mode="read", use_extra_buffers=False,
            )
        )  # fmt: skip
        seen = events.until(is_loaded)
    assert isinstance(seen[-1], ModelLoaded)
    memory = {m.device: m for m in seen[-1].loaded.memory}
    told = progress_of(seen)
    reading = [p for p in told if p.stage == "reading"]
    assert all((p.shards, p.devices) == (4, 2) for p in told)
    order = list(dict.fromkeys(p.device for p in reading if p.device is not None))
    by_name = sorted((2, 1), key=lambda number: endpoints[2 - number])
    assert order == [*by_name, 0], "buffers in the order of their names, main memory last"
    names = ("CPU", "RPC1", "RPC0")
    # The output layer is loaded twice: of all the weights, not of the files.
    total = sum(m.weights_bytes for m in memory.values())
    begins = [min(p.fraction or 0 for p in reading if p.device == number) for number in order]
    for number, begin, end in zip(order, begins, begins[1:], strict=False):
        share = memory[names[number]].weights_bytes / total
        assert end - begin == pytest.approx(share, abs=0.02), "true to a tensor"
    caches = [p.device for p in told if p.part == "kv_cache"]
    holding = [d for d, name in enumerate(names) if memory[name].kv_cache_bytes]
    assert sorted(d for d in caches if d is not None) == holding == [0, 1, 2]
    assert [p.stage for p in told][-1] == "warming_up"


def test_a_mapped_model_is_copied_to_its_devices(sharded: Path) -> None:
    with rpc_servers(1) as endpoints, engine() as (supervisor, events):
        supervisor.load(
            load(
                sharded, devices=("RPC0",), rpc_servers=endpoints, gpu_layers=20, tensor_split=(20,)
            )
        )
        told = progress_of(events.until(is_loaded))
    stages = list(dict.fromkeys(p.stage for p in told))
    assert stages[-3:] == ["copying", "allocating", "warming_up"]
    fractions = [p.fraction for p in told if p.stage == "copying"]
    assert fractions == sorted(fractions, key=lambda f: f or 0)
    assert all(p.device is None for p in told if p.stage == "copying"), "nothing tells which"


@linux
def test_the_shard_is_the_file_that_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for path in paths:
        path.write_bytes(bytes(2**20))
    files = Files(paths, mapped=False)
    with paths[0].open("rb", 0) as first, paths[1].open("rb", 0) as second:
        first.read(10)
        assert files.current() is None, "the first look knows no movement"
        second.read(1000)
        assert files.current() == 2
        first.read(1000)
        assert files.current() == 1
        first.read(1000)
        second.read(1000)
        assert files.current() is None, "both: it is not one"
        files.begin()
        second.read(500_000)
        assert files.moved_bytes() == pytest.approx(500_000, abs=20_000)


@linux
@pytest.mark.parametrize("folder", [b"models", b"mod\xe8les", "my \u2028 models".encode()])
def test_mapped_shards_are_seen_as_they_come_into_memory(folder: bytes, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(folder)
    place.mkdir()
    paths = [place / f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    for path in paths:
        path.write_bytes(bytes(8 * 2**20))
    files = Files(paths, mapped=True)
    assert files.current() is None
    assert files.moved_bytes() is None, "nothing of them is there yet"
    with paths[0].open("rb") as first, paths[1].open("rb") as second:
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        with mmap.mmap(first.fileno(), 0, flags=flags, prot=mmap.PROT_READ):
            assert files.current() == 1
            assert files.moved_bytes() == pytest.approx(8 * 2**20, abs=2**20)
            with mmap.mmap(second.fileno(), 0, flags=flags, prot=mmap.PROT_READ):
                assert files.current() == 2
                assert files.moved_bytes() == pytest.approx(16 * 2**20, abs=2**20)


def changed(**values: object) -> EngineStateChanged:
    return EngineStateChanged(**({"state": EngineState.LOADING} | values))  # type: ignore[arg-type]


def progressed(**values: object) -> protocol.LoadProgressed:
    return protocol.LoadProgressed.model_validate({"stage": "reading"} | values)


def test_words_say_stage_amount_and_time() -> None:
    reading = progressed(
        shard=2, shards=4, device=1, devices=8, bytes_per_s=3.1e9, done_bytes=60_000_000_000,
        total_bytes=150_900_000_000,
    )  # fmt: skip
    event = changed(progress=reading, elapsed_s=12.0, expected_s=52.0)
    assert words.load(event) == (
        "Reading shard 2 of 4, 3.1 GB/s · device 1 of 8 · 60.0 GB of 150.9 GB · "
        "about 40 s left, last time 52 s"
    )
    assert words.time(event, since_s=50) == "62 s so far, last time 52 s"
    assert words.time(changed(progress=reading)) == "about 29 s of reading left"
    assert words.load(changed(state=EngineState.STARTING)) == "Starting the engine"
    cases: dict[str, dict[str, object]] = {
        "Reading 4 shards · main memory": {"shards": 4, "device": 0, "devices": 2},
        "Reading": {},
        "Copying to the devices": {"stage": "copying", "devices": 2},
        "KV cache · device 1 of 8": {
            "stage": "allocating", "part": "kv_cache", "device": 1, "devices": 8,
        },
        "Warm-up": {"stage": "warming_up"},
    }  # fmt: skip
    for expected, values in cases.items():
        assert words.load(changed(progress=progressed(**values))) == expected
    silent = changed(state=EngineState.GENERATING, silent_s=125.0, computing=True)
    assert words.silence(silent) == (
        "Nothing heard for 2 min; the process computes. Wait, or stop it?"
    )
    assert words.silence(changed()) == ""


@pytest.mark.parametrize("stage", ["", "reading"])
def test_a_load_that_hangs_can_be_cancelled(stage: str, starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.stage == stage)
        while supervisor.pid is None:  # it is being started
            pass
        worker = psutil.Process(supervisor.pid)
        worker.suspend()
        supervisor.cancel()
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.state is EngineState.STOPPED)
        assert not worker.is_running(), "its memory is free again"
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Hello"), limit=4).text


def test_a_worker_that_does_not_read_holds_up_nobody(starter_model: Path) -> None:
    """A prompt that is larger than a pipe goes to a worker that is stopped."""
    with engine(stall_s=0.4) as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        psutil.Process(supervisor.pid).suspend()
        message = protocol.ChatMessage(role="user", content="word " * 200_000)
        supervisor.generate(protocol.Generate(turn=1, messages=(message,)))
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.silent_s is not None)
        supervisor.unload()
        events.until(lambda e: isinstance(e, EngineStateChanged) and e.state is EngineState.STOPPED)
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        assert answer(supervisor, events, talk("Hello"), limit=4).text
