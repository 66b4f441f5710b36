"""The command that finds the fastest plan, with the real engine on RPC devices."""

from __future__ import annotations

import json

import pytest

from app.cli import main
from tests.helpers.rpc import rpc_servers


def test_tune_measures_remembers_and_the_next_plan_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with rpc_servers(2) as endpoints:
        rpc = [part for endpoint in endpoints for part in ("--rpc", endpoint)]
        machine = ["--context", "256", *rpc]
        assert main(["tune", *machine, "--dry-run"]) == 0
        assert "4 loads" in capsys.readouterr().err
        assert main(["plan", "starter", *machine, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["measured"] == ""

        assert main(["tune", *machine, "--plans", "2", "--runs", "1", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["type"] for line in lines[:3]] == ["proposed", "measured", "measured"]
        assert lines[0]["loads"] == 2
        ended = lines[-1]
        assert ended["type"] == "ended"
        best = ended["results"][ended["kept"]]
        assert best["generation_tokens_per_s"] > 0
        assert best["prompt_tokens_per_s"] > 0
        assert sum(best["layers"]) == 31

        assert main(["plan", "starter", *machine, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert f"{best['generation_tokens_per_s']:,.1f} tokens/s" in plan["measured"]
        layers = [d["layers"] for d in plan["devices"] if d["layers"]]
        assert layers == best["layers"]


def test_tensors_are_split_where_asked_for_and_possible(
    capsys: pytest.CaptureFixture[str],
) -> None:
    three = ["--gpus", "3x RTX 3090", "--split-mode", "tensor"]
    assert main(["plan", "starter", *three, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["split_mode"] == "tensor"
    assert plan["tensor_split"] == [1, 1, 1]
    for arguments, word in (
        (["plan", "nemotron-ultra-253b:Q4_K_M", *three], "no attention"),
        (["plan", "starter", *three, "--confirm"], "dry run"),
        (["plan", "starter", *three, "--layers", "10,10,11"], "contradict"),
        (["chat", "--split-mode", "tensor", "--prompt", "Hello"], "two devices"),
        (["bench", "--split-mode", "tensor"], "two devices"),
    ):
        assert main(arguments) == 2, arguments
        assert word in capsys.readouterr().err
