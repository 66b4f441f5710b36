"""Out of memory on machines that are described: what is missing, whose it is, what helps."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import paths
from app.engine import diagnose
from app.engine.model import EngineState, EngineStateChanged
from app.events import AppEvent, OperationFailed, WaysOutFound
from app.gguf import bundled
from app.hardware.model import HardwareReport, Program
from app.plan.model import FlashAttention, KvCacheType, LoadPlan
from app.plan.tuned import TunedStore
from app.service.hardware import HardwareService
from app.service.jobs import Worker
from app.service.planning import Planning
from app.service.ways_out import WaysOutService
from app.settings.model import Settings, SplitMode
from app.units import GIB, MIB
from tests.helpers import described

CUDA = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {mib:.2f} MiB on device {index}: "
    "cudaMalloc failed: out of memory\n"
    "alloc_tensor_range: failed to allocate CUDA{index} buffer of size {size}\n"
)
FREE = "CUDA{index} is planned as CUDA{index}, {free} bytes free\n"
KV = "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache\n"
COMPUTE = (
    "ggml_gallocr_reserve_n_impl: failed to allocate CUDA{index} buffer of size {size}\n"
    "graph_reserve: failed to allocate compute buffers\n"
)


class Described:
    """The parts of the service around a machine that is described; `after` is what is found later."""

    def __init__(self, gpus: str, kind: str, settings: Settings, here: Path | None = None) -> None:
        self.settings = settings
        self.events: queue.Queue[AppEvent] = queue.Queue()
        self.jobs = Worker("service", self.events.put)
        self.before = self.after = described.report(gpus, ram_gib=128)
        folders = paths.folders()
        self.hardware = HardwareService(folders, self.events.put, self._settings, lambda: None)
        self.hardware.report = self.before
        self.planning = Planning(
            folders.models,
            self.hardware,
            self.jobs,
            self.events.put,
            self._settings,
            TunedStore(folders.data / "tuned.json", ""),
        )
        self.planning.layout = bundled.layout(f"nemotron-ultra-253b:{kind}")
        self.planning.replan()
        self.ways = WaysOutService(
            self.hardware,
            self.planning,
            self.jobs,
            self.events.put,
            self._settings,
            self._detect,
            lambda _kind: here,
        )

    def _settings(self) -> Settings:
        return self.settings

    def _detect(self) -> None:
        self.hardware.report = self.after

    @property
    def plan(self) -> LoadPlan:
        assert self.planning.plan is not None
        return self.planning.plan

    def fail(self, text: str) -> WaysOutFound:
        """llama.cpp ended a load with `text`; returns what is told."""
        error = diagnose.short_of_memory(text)
        self.ways.heard(EngineStateChanged(state=EngineState.STOPPED, error=error), self.plan)
        while not isinstance(event := self.events.get(timeout=60), WaysOutFound):
            pass
        return event

    def close(self) -> None:
        self.ways.close()
        self.jobs.close()


@pytest.fixture
def machines() -> Iterator[list[Described]]:
    made: list[Described] = []
    yield made
    for each in made:
        each.close()


def full() -> Settings:
    """Eight RTX 3090 hold Q4_K_M so with little to spare."""
    q8 = KvCacheType.Q8_0
    return Settings(context=32_768, kv_type_k=q8, kv_type_v=q8)


def with_program(report: HardwareReport, index: int, size: int) -> HardwareReport:
    devices = list(report.devices)
    card = devices[index]
    assert card.memory_free_bytes is not None
    devices[index] = dataclasses.replace(
        card,
        memory_free_bytes=card.memory_free_bytes - size,
        used_by_others_bytes=(card.used_by_others_bytes or 0) + size,
        programs=(Program(pid=77, name="blender", used_bytes=size),),
    )
    return dataclasses.replace(report, devices=tuple(devices))


def refused_cache(plan: LoadPlan, number: int) -> str:
    share = plan.devices[number]
    index, size = share.device.engine_name[4:], share.kv_cache_bytes
    words = CUDA.format(mib=size / MIB, index=index, size=size)
    return words + FREE.format(index=index, free=100 * MIB) + KV


def test_what_the_driver_takes_is_missing_to_the_byte(machines: list[Described]) -> None:
    machine = Described("8x RTX 3090", "Q4_K_M", full())
    machines.append(machine)
    share = machine.plan.devices[2]
    size, free = share.compute_bytes, share.compute_bytes - 300 * MIB
    words = COMPUTE.format(index=2, size=size) + FREE.format(index=2, free=free)
    found = machine.fail(words)
    assert found.sentence == "GPU 2 is 0.3 GiB short."
    assert "for the compute buffer could not be allocated there" in found.detail
    assert "other programs" not in found.detail
    # Now the planner knows: what the model can have there is what it could.
    here = machine.hardware.machine(machine.settings)
    assert here is not None
    device = next(d for d in here.devices if d.id == share.device.id)
    assert device.free_bytes - share.reserve_bytes == share.model_bytes - 300 * MIB
    for way in found.ways:
        assert way.settings is not None
        plan = machine.planning.preview(way.settings)
        assert plan is not None
        assert plan.runs
    rates = [way.effect for way in found.ways]
    assert all("tokens/s" in words for words in rates)


def test_each_way_is_worked_out_for_the_machine_as_it_is(machines: list[Described]) -> None:
    machine = Described("7x RTX 3090", "Q3_K_L", Settings(context=98_304))
    machines.append(machine)
    plan = machine.plan
    assert plan.fits, plan.sentence
    found = machine.fail(refused_cache(plan, 2))
    assert found.sentence == f"{plan.devices[2].device.label} is 4.5 GiB short."
    kv, context, host, smaller = found.ways
    assert kv.title == "Use a KV cache of q8_0"
    assert context.title.startswith("Use a context of ")
    assert host.title == "Leave 3 layers in main memory"
    assert "160 of 163 layers on 7 devices" in host.effect
    assert smaller.title == "Download IQ3_M"
    assert smaller.settings is None
    for way, fits in ((kv, True), (context, True), (host, False)):
        assert way.settings is not None
        tried = machine.planning.preview(way.settings)
        assert tried is not None
        assert (tried.runs, tried.fits) == (True, fits)
        assert "tokens/s" in way.effect
        assert tried.tensor_split != plan.tensor_split


def test_a_smaller_quantization_that_is_here_is_loaded(machines: list[Described]) -> None:
    here = Path("/models/small.gguf")
    machine = Described("7x RTX 3090", "Q3_K_L", Settings(context=98_304), here)
    machines.append(machine)
    smaller = machine.fail(refused_cache(machine.plan, 2)).ways[-1]
    assert smaller.title == "Load IQ3_M"
    assert smaller.settings is not None
    assert smaller.settings.model_path == str(here)


def test_what_other_programs_took_is_told_with_their_names(machines: list[Described]) -> None:
    machine = Described("8x RTX 3090", "Q4_K_M", full())
    machines.append(machine)
    share = machine.plan.devices[3]
    machine.after = with_program(machine.before, 3, 5 * GIB)
    size = share.weights_bytes
    text = CUDA.format(mib=size / MIB, index=3, size=size)
    text += "llama_model_load: error loading model: unable to allocate CUDA3 buffer\n"
    found = machine.fail(text)
    lacking = 5 * GIB - share.left_bytes
    assert found.sentence == f"GPU 3 is {lacking / GIB:.1f} GiB short."
    assert "Since it was planned, other programs (blender) took 5.0 GiB of it." in found.detail
    last = found.ways[-1]
    assert last.looks_again
    assert last.settings == machine.settings
    assert "blender (5.0 GiB)" in last.effect
    # It is ended: the same plan fits again.
    machine.after = machine.before
    machine.hardware.report = machine.before
    machine.planning.replan()
    assert machine.plan.fits


def test_a_split_by_hand_loses_as_few_layers_on_the_card_as_are_enough(
    machines: list[Described],
) -> None:
    automatic = Described("8x RTX 3090", "Q3_K_M", full())
    machines.append(automatic)
    by_hand = {share.device.id: share.layer_count for share in automatic.plan.devices}
    settings = full().model_copy(update={"split_mode": SplitMode.MANUAL, "layers": by_hand})
    machine = Described("8x RTX 3090", "Q3_K_M", settings)
    machines.append(machine)
    machine.after = with_program(machine.before, 1, 6 * GIB)
    share = next(s for s in machine.plan.devices if s.device.id == "GPU-1")
    size = share.weights_bytes
    text = CUDA.format(mib=size / MIB, index=1, size=size)
    text += "llama_model_load: error loading model: unable to allocate CUDA1 buffer\n"
    found = machine.fail(text)
    way = next(way for way in found.ways if "layers off GPU 1" in way.title)
    assert way.settings is not None
    assert way.settings.split_mode is SplitMode.MANUAL
    moved = {id: way.settings.layers[id] - count for id, count in by_hand.items()}
    assert sum(moved.values()) == 0
    assert [id for id, count in moved.items() if count < 0] == ["GPU-1"]
    assert way.title == f"Move {-moved['GPU-1']} layers off GPU 1"
    assert -moved["GPU-1"] < by_hand["GPU-1"]
    plan = machine.planning.preview(way.settings)
    assert plan is not None
    assert plan.fits


def test_memory_that_runs_out_in_mid_answer_leaves_more_room_the_next_time(
    machines: list[Described],
) -> None:
    machine = Described("8x RTX 3090", "Q4_K_M", full())
    machines.append(machine)
    plan = machine.plan
    text = (
        "CUDA error: out of memory\n  current device: 5, in function alloc at ggml-cuda.cu:506\n"
        "ggml-cuda.cu:103: CUDA error\n"
    )
    found = machine.fail(text)
    assert found.sentence == "GPU 5 is about 0.2 GiB short."
    assert "scratch memory" in found.detail
    lost = machine.hardware.lost
    assert lost["GPU-5"] == plan.devices[5].left_bytes + 256 * MIB
    again = machine.fail(text)
    assert machine.hardware.lost["GPU-5"] > lost["GPU-5"], "it is learned anew each time"
    assert again.sentence


def test_where_nothing_else_helps_the_memory_can_be_freed(
    machines: list[Described], starter_model: Path
) -> None:
    machine = Described("1x RTX 3090", "Q4_K_M", Settings(context=256))
    machines.append(machine)
    machine.hardware.report = machine.after = dataclasses.replace(machine.before, devices=())
    machine.planning.choose(starter_model)
    found = machine.fail("std::bad_alloc\n")
    assert [way.title for way in found.ways] == ["Look again and load"]
    assert found.ways[0].looks_again
    missing = found.sentence.removeprefix("Main memory is about ").removesuffix(" short.")
    assert found.ways[0].effect == f"once {missing} more are free there: then it fits as planned"


def test_settings_that_became_impossible_leave_nobody_waiting(machines: list[Described]) -> None:
    machine = Described("8x RTX 3090", "Q4_K_M", full())
    machines.append(machine)
    words = refused_cache(machine.plan, 2)
    plan = machine.plan
    machine.settings = full().model_copy(update={"flash_attention": FlashAttention.OFF})
    error = diagnose.short_of_memory(words)
    machine.ways.heard(EngineStateChanged(state=EngineState.STOPPED, error=error), plan)
    told = [machine.events.get(timeout=60)]
    while not isinstance(told[-1], OperationFailed):
        told.append(machine.events.get(timeout=60))
    assert WaysOutFound() in told
