"""What the settings mean for a load."""

from __future__ import annotations

import dataclasses

import pytest

from app.engine.protocol import ChatMessage, Sampling
from app.gguf import bundled
from app.hardware.model import BackendSupport
from app.plan.model import PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan
from app.settings.model import LoadMode, Overflow, Settings
from app.settings.requests import generate_command, load_command
from app.units import GIB
from tests.helpers import described


@pytest.mark.parametrize(
    ("cards", "mode", "expected"),
    [
        (8, LoadMode.AUTOMATIC, "read"),
        (4, LoadMode.AUTOMATIC, "mapped"),
        (0, LoadMode.AUTOMATIC, "mapped"),
        (8, LoadMode.MAPPED, "mapped"),
        (4, LoadMode.READ, "read"),
    ],
)
def test_what_goes_wholly_to_devices_is_read(cards: int, mode: LoadMode, expected: str) -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    devices = tuple(
        PlanDevice(
            id=f"gpu-{index}", label=f"GPU {index}", name="", engine_name=f"CUDA{index}",
            backend="cuda", total_bytes=24 * GIB, free_bytes=24 * GIB,
        )
        for index in range(cards)
    )  # fmt: skip
    host = PlanHost(total_bytes=256 * GIB, available_bytes=256 * GIB)
    plan = make_plan(layout, PlanRequest(context=8192), devices, host)
    command = load_command(plan, layout, Settings(load_mode=mode), None)
    assert command.load_mode == expected


def test_an_answer_is_asked_for_as_set_or_else_as_advised() -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    question = (ChatMessage(role="user", content="q"),)
    thinking = Settings(system_prompt="detailed thinking on", overflow=Overflow.DROP_OLDEST)
    asked = generate_command(thinking, layout, 3, question, 64)
    assert (asked.turn, asked.messages, asked.max_tokens) == (3, question, 64)
    assert (asked.overflow, asked.reserve) == ("drop_oldest", 1024)
    assert (asked.sampling.temperature, asked.sampling.top_p) == (0.6, 0.95)
    assert generate_command(Settings(), layout, 1, question).sampling.temperature == 0
    assert generate_command(Settings(), None, 1, question).sampling == Sampling()
    own = Settings(sampling={"temperature": 1.2}, system_prompt="detailed thinking on")
    asked = generate_command(own, layout, 1, question)
    assert (asked.sampling.temperature, asked.sampling.top_p) == (1.2, 0.95)
    assert asked.sampling.top_k == 0, "what was not set is as advised"


@pytest.mark.parametrize(("used", "asked"), [((0,), 1), ((1, 0), 2), ((2,), 3), ((), 0)])
def test_only_servers_that_a_load_needs_are_asked(used: tuple[int, ...], asked: int) -> None:
    """Those before are needed, too: llama.cpp numbers the devices of all."""
    endpoints = [f"192.0.2.{index}:50052" for index in range(3)]
    cards = described.report("3x RTX 3090", ram_gib=64)
    rpc = [BackendSupport(backend="rpc", engine_name=f"RPC{index}") for index in range(3)]
    listed = tuple(
        dataclasses.replace(card, endpoint=endpoint, support=support)
        for card, endpoint, support in zip(cards.devices, endpoints, rpc, strict=True)
    )
    layout = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    devices = tuple(
        PlanDevice(
            id=f"rpc:{endpoints[index]}/0", label=f"RPC {index}", name="", engine_name=f"RPC{index}",
            backend="rpc", total_bytes=400 * GIB, free_bytes=400 * GIB,
        )
        for index in used
    )  # fmt: skip
    request = PlanRequest(context=8192, layer_counts=(80, 83) if len(used) == 2 else None)
    host = PlanHost(total_bytes=256 * GIB, available_bytes=256 * GIB)
    plan = make_plan(layout, request, devices, host)
    settings = Settings(rpc_servers=("192.0.2.9:1", *endpoints))
    command = load_command(plan, layout, settings, dataclasses.replace(cards, devices=listed))
    assert command.rpc_servers == tuple(endpoints[:asked])
