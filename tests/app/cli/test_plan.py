from __future__ import annotations

import itertools
import json
import shlex

import pytest

from app.cli.main import main

ULTRA = "nemotron-ultra-253b:Q4_K_M"
EIGHT = [
    "--gpus",
    "8x RTX 3090",
    "--context",
    "32768",
    "--kv-type-k",
    "q8_0",
    "--kv-type-v",
    "q8_0",
]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    code = main(["plan", *arguments, "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out) | {"code": code}
    return found


def test_the_json_says_all_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, ULTRA, *EIGHT)
    devices = found["devices"]
    assert isinstance(devices, list)
    for number, device in enumerate(devices):
        parts = [device[key] for key in ("weights", "kv_cache", "compute")]
        assert device["total"] == sum(parts)
        assert device["total"] + device["reserve"] <= device["budget"]
        assert device["name"] == f"CUDA{number}"
    assert [d["first_layer"] for d in devices[1:]] == [d["last_layer"] + 1 for d in devices[:-1]]
    assert (devices[0]["first_layer"], devices[-1]["last_layer"]) == (0, 162)
    assert found["tensor_split"] == [d["layers"] for d in devices]
    assert found["gpu_layers"] == 163
    assert found["fits"] is True
    assert found["shortfall"] == 0
    assert found["basis"] == "computed"
    assert found["code"] == 0
    host = found["host"]
    assert isinstance(host, dict)
    assert {"name", "budget", "weights", "kv_cache", "compute", "reserve", "total"} <= set(host)
    speed = found["speed"]
    assert isinstance(speed, dict)
    assert speed["generation"]["likely_low"] < speed["generation"]["bound"]
    assert speed["sources"]


def test_what_needs_main_memory_does_not_fit_but_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, ULTRA, "--gpus", "4x RTX 3090", "--ram", "256", "--context", "4096")
    assert (found["fits"], found["runs"], found["verdict"]) == (False, True, "partly")
    shortfall = found["shortfall"]
    assert isinstance(shortfall, int)
    assert shortfall > 2**30
    assert found["missing_on"]
    assert found["remedies"]
    found = plan(capsys, ULTRA, "--gpus", "4x RTX 3090", "--ram", "8", "--context", "4096")
    assert (found["fits"], found["runs"], found["code"]) == (False, False, 4)


def test_devices_are_taken_by_name_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    names = "CUDA7,CUDA6,CUDA5,CUDA4,CUDA3,CUDA2,CUDA1,CUDA0"
    found = plan(capsys, ULTRA, *EIGHT, "--devices", names, "--reserve", "1,1,1,2,1,1,1,1")
    assert found["device_order"] == names.split(",")
    devices = found["devices"]
    assert isinstance(devices, list)
    assert [d["reserve"] for d in devices] == [2**30 * n for n in (1, 1, 1, 2, 1, 1, 1, 1)]
    found = plan(capsys, ULTRA, *EIGHT, "--devices", "CUDA0,CUDA1")
    assert found["device_order"] == ["CUDA0", "CUDA1"]


def test_this_machine_can_be_one_of_those_thought_of(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "starter", "--gpus", "this, 8")
    devices = found["devices"]
    assert isinstance(devices, list)
    assert devices[-1]["budget"] == 8 * 2**30
    host = found["host"]
    assert isinstance(host, dict)
    assert host["budget"] != 64 * 2**30


def test_the_command_line_is_llama_cpps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", ULTRA, *EIGHT]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line)
    assert words[0] == "llama-server"
    options = dict(itertools.pairwise(words))
    assert options["-ngl"] == "163"
    assert options["-ts"] == "32,27,21,27,27,9,9,11"
    assert options["-c"] == "32768"
    assert (options["-ctk"], options["--fit"]) == ("q8_0", "off")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*EIGHT, "--devices", "CUDA9"], "CUDA0"),
        ([*EIGHT, "--devices", "CUDA0,CUDA0"], "each once"),
        ([*EIGHT, "--reserve", "1,2"], "8 devices"),
        ([*EIGHT, "--reserve", "much"], "--reserve 1"),
        ([*EIGHT, "--tensor-split", "1,2"], "8 devices"),
        (["--ram", "64"], "--gpus this"),
        (["--gpus", "RTX 3099"], "RTX 3090"),
        (["--gpus", "1000x 24"], "between 1 and 64"),
        (["--gpus", "RTX 3090 x100"], "between 1 and 64"),
        (["--backend", "metal"], "--gpus"),
    ],
)
def test_wrong_options_say_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["plan", ULTRA, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_what_was_assumed_and_what_stays_idle_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", ULTRA, "--gpus", "14x H100 SXM"]) == 0
    told = capsys.readouterr().out
    assert "Main memory is taken to be 64 GiB; --ram names another size." in told
    assert "GPU 12 and GPU 13 hold nothing" in told
    assert main(["plan", ULTRA, "--gpus", "8x H100 SXM", "--ram", "64"]) == 0
    told = capsys.readouterr().out
    assert "taken to be" not in told
    assert "nothing" not in told
    main(["recommend", "starter", "--gpus", "none"])
    assert "taken to be 64 GiB" in capsys.readouterr().out
