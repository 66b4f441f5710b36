"""Tensors split over two RPC devices, for real; what llama.cpp refuses, and where it crashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.check import deviations
from app.engine.model import EngineStateChanged, ModelLoaded
from app.engine.once import load_once
from app.engine.safety import SafetyStore
from app.errors import Action, AppError
from app.gguf.reader import read_layout
from app.plan.model import PlanRequest
from app.plan.planner import make_plan
from app.units import MIB
from tests.app.engine.test_snapshots import take
from tests.helpers.engines import answer, engine, is_error, is_loaded, load, talk
from tests.helpers.machines import HOST, cards
from tests.helpers.rpc import rpc_servers
from tests.helpers.small_models import recurrent, sliding_window

QUESTION = talk("Name the capital of France, and of Spain.")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, object]]:
    with rpc_servers(2) as endpoints:
        yield {"devices": ("RPC0", "RPC1"), "rpc_servers": endpoints, "gpu_layers": 31}


def test_answers_are_the_same_as_with_split_layers(
    starter_model: Path, servers: dict[str, object], tmp_path: Path
) -> None:
    layout = read_layout(starter_model)
    plan = make_plan(
        layout,
        PlanRequest(context=1024, tensor_parallel=True),
        cards([2, 2], backend="rpc"),
        HOST,
        limits=False,
    )
    answers = []
    for options in (
        {"split_mode": "layer", "tensor_split": (16, 15)},
        {"split_mode": "tensor", "tensor_split": (1, 1), "flash_attention": "on"},
    ):
        with engine() as (supervisor, events):
            supervisor.load(load(starter_model, **servers, **options))
            loaded = events.until(is_loaded)[-1]
            assert isinstance(loaded, ModelLoaded)
            first = answer(supervisor, events, QUESTION, limit=8)
            again = answer(supervisor, events, talk(*(m.content for m in QUESTION), first.text, "Why?"),
                           limit=2)  # fmt: skip
            assert again.finished.reused_tokens > first.finished.prompt_tokens - 2
            answers.append(first.text)
            if options["split_mode"] == "tensor":
                memory = {m.device: m for m in loaded.loaded.memory}
                share = plan.devices[0]
                for device in ("RPC0", "RPC1"):
                    real = memory[device]
                    assert real.weights_bytes == share.weights_bytes
                    assert real.kv_cache_bytes == share.kv_cache_bytes
                    assert 0 <= share.compute_bytes - real.compute_bytes < 8 * MIB
                assert deviations(plan, loaded.loaded) == ()
                take(supervisor, "save", tmp_path / "kv")
                restored = take(supervisor, "restore", tmp_path / "kv")
                assert restored.tokens == again.finished.context_used
    assert answers[0] == answers[1] != ""


def test_uneven_parts_are_cut_as_planned(
    starter_model: Path, servers: dict[str, object], tmp_path: Path
) -> None:
    request = PlanRequest(context=1024, tensor_parallel=True)
    for model, sizes in ((starter_model, (4, 0.22)), (sliding_window(tmp_path / "g.gguf"), (4, 4))):
        layout = read_layout(model)
        plan = make_plan(layout, request, cards(sizes, backend="rpc"), HOST, limits=False)
        assert plan.runs
        assert (len(set(plan.tensor_split)) > 1) == (len(set(sizes)) > 1)
        options = servers | {"gpu_layers": layout.block_count + 1}
        command = load(
            model, **options, split_mode="tensor", tensor_split=plan.tensor_split,
            flash_attention="on", self_test=False,
        )  # fmt: skip
        real = load_once(command, tmp_path).memory[1]
        planned = max(share.weights_bytes for share in plan.devices)
        assert abs(real.weights_bytes - planned) < 1024, "parts are padded"
        assert real.kv_cache_bytes == max(share.kv_cache_bytes for share in plan.devices)


def test_a_model_that_llama_cpp_refuses_leads_back_to_layers(
    servers: dict[str, object], tmp_path: Path
) -> None:
    model = recurrent(tmp_path / "mamba.gguf")
    options = servers | {"split_mode": "tensor", "tensor_split": (1, 1), "flash_attention": "on"}
    with engine() as (supervisor, events):
        supervisor.load(load(model, **options))
        event = events.until(is_error)[-1]
    assert isinstance(event, EngineStateChanged)
    error = event.error
    assert isinstance(error, AppError)
    assert "cannot split the tensors of mamba.gguf" in error.title
    assert "layers" in error.hint
    assert error.action is Action.OPEN_SPLIT


def test_where_it_crashes_the_mode_is_blamed_and_no_kernel(
    servers: dict[str, object], tmp_path: Path
) -> None:
    model = sliding_window(tmp_path / "one.gguf", kv_heads=1)
    store = SafetyStore(tmp_path / "safety.json", "1")
    options = servers | {"split_mode": "tensor", "tensor_split": (1, 1), "flash_attention": "on"}
    with engine(store=store) as (supervisor, events):
        supervisor.load(load(model, **options))
        seen = events.until(is_error)
        event = seen[-1]
        assert isinstance(event, EngineStateChanged)
        error = event.error
        assert isinstance(error, AppError)
        assert "experimental" in error.title
        assert "layers" in error.hint
        assert store.get() is None
        assert sum(getattr(e, "state", "") == "starting" for e in seen) == 1
        layers = options | {"split_mode": "layer", "tensor_split": (4, 3), "gpu_layers": 7}
        supervisor.load(load(model, **layers))
        events.until(is_loaded)
