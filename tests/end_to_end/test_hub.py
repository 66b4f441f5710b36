"""`plan` and `recommend` of a model on the Hub, in child processes, with the Hub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app import processes, units
from tests.helpers.hub import hub

MODEL = "hf:org/repo/starter.gguf"


def run(endpoint: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_TOKEN": ""}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=processes.child_environment() | environment,
        check=False,
    )


def test_a_model_is_planned_before_it_is_downloaded(home: Path, starter_model: Path) -> None:
    with hub() as server:
        server.files["org/repo/starter.gguf"] = starter_model
        options = ("--gpus", "1,1", "--json")
        there = run(server.endpoint, home, "plan", MODEL, *options)
        here = run(server.endpoint, home, "plan", str(starter_model), *options)
        assert there.returncode == 0, there.stderr
        assert json.loads(there.stdout) == json.loads(here.stdout)
        assert server.sent_bytes <= 5 * units.MIB
        best = run(server.endpoint, home, "recommend", MODEL, "--gpus", "24")
        assert best.returncode == 0, best.stderr
        absent = run(server.endpoint, home, "plan", "hf:org/repo/none.gguf", "--json")
        assert absent.returncode == 3
        assert "org/repo/none.gguf is not on the Hub" in json.loads(absent.stdout)["title"]
    gone = run(server.endpoint, home, "plan", MODEL)
    assert gone.returncode == 9
    assert "cannot be reached" in gone.stderr


@pytest.mark.engine
def test_a_dry_run_confirms_it_from_the_header_alone(home: Path, starter_model: Path) -> None:
    with hub() as server:
        server.files["org/repo/starter.gguf"] = starter_model
        there = run(server.endpoint, home, "plan", MODEL, "--confirm", "--json")
        assert there.returncode == 0, there.stderr + there.stdout
        assert server.sent_bytes < 6 * units.MIB
    here = run("", home, "plan", str(starter_model), "--confirm", "--json")
    plans = [json.loads(done.stdout) for done in (there, here)]
    assert plans[0]["basis"] == plans[1]["basis"]
    assert [p["host"]["weights"] for p in plans] == [plans[0]["host"]["weights"]] * 2
    assert list((home / "cache").glob("stand-in-*")) == []
