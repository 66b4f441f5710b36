"""The real program in child processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from app import processes
from tests.helpers.rpc import rpc_servers

TIMEOUT_S = 120


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=processes.child_environment(),
        check=False,
    )


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_detect_and_doctor_speak_json() -> None:
    report = json.loads(run("detect", "--json").stdout)
    assert report["cpu"]["logical_cores"] >= 1
    assert report["engine"]["version"] == "0.3.36"
    doctor = json.loads(run("doctor", "--json").stdout)
    assert doctor["ok"] is True
    assert "ultra-launcher" not in doctor["models"] or doctor["models"]


def test_plan_over_rpc_devices() -> None:
    with rpc_servers(2) as endpoints:
        rpc = [part for endpoint in endpoints for part in ("--rpc", endpoint)]
        done = run("plan", "starter", "--json", "--context", "1024", "--layers", "20,11", *rpc)
        plan = json.loads(done.stdout)
        assert plan["tensor_split"] == [20, 11]
        assert [d["first_layer"] for d in plan["devices"]] == [0, 20]
        assert run("plan", "starter", "--layers", "20", *rpc).returncode == 2


def test_chat_answers_line_by_line() -> None:
    done = run("chat", "--json", "--max-tokens", "6", "--context", "512", stdin="Hello\nAnd you?\n")
    finished = [e for e in events(done.stdout) if e["type"] == "finished"]
    assert len(finished) == 2
    assert all(1 <= e["stats"]["tokens"] <= 6 for e in finished)
    assert finished[1]["stats"]["reused_tokens"] > 0
    assert done.returncode == 0


def test_chat_goes_on_where_it_was_after_unloading() -> None:
    lines = "Name three colours.\n/unload save\nAnd you?\n/unload\n/unload\n"
    done = run("chat", "--json", "--max-tokens", "6", "--context", "512", stdin=lines)
    told = events(done.stdout)
    first, second = (e["stats"] for e in told if e["type"] == "finished")
    saved = next(e for e in told if e["type"] == "snapshot" and e["state"] == "saved")
    assert saved["tokens"] == first["context_used"]
    assert saved["bytes"] > 0
    assert second["reused_tokens"] >= saved["tokens"] - 2
    assert sum(e["type"] == "loaded" for e in told) == 2
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan", "absent.gguf"], 3),
        (["chat", "--model", "absent.gguf"], 3),
        (["plan", "starter", "--context", "-5"], 2),
        (["detect", "--rpc", "nonsense"], 2),
        (["plan", "starter", "--context", "16000000"], 4),
    ],
)
def test_exit_codes_and_one_sentence(arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ") or "Does not fit" in done.stdout


def test_kill_9_of_the_worker_keeps_the_terminal_chat_alive() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "app", "chat", "--json", "--context", "2048"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.child_environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def until(kind: str) -> dict[str, Any]:
        for line in child.stdout or ():
            event: dict[str, Any] = json.loads(line)
            if event["type"] == kind:
                return event
        raise AssertionError(f"ended before {kind}")

    with child:
        until("loaded")
        print("Tell a very long story.", file=child.stdin, flush=True)
        until("text")
        worker = next(
            c for c in psutil.Process(child.pid).children() if "worker" in " ".join(c.cmdline())
        )
        os.kill(worker.pid, signal.SIGKILL)
        finished = until("finished")
        assert finished["outcome"] == "interrupted"
        assert finished["text"]
        print("Name a colour.", file=child.stdin, flush=True)
        until("loaded")
        until("text")
        child.send_signal(signal.SIGINT)
        assert until("finished")["outcome"] in ("stopped", "complete")
        child.stdin.close()
        assert child.wait(TIMEOUT_S) == 0


def test_who_asks_three_times_ends_an_engine_that_does_not_stop() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "app", "chat", "--context", "2048"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=processes.child_environment(),
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            for line in child.stderr or ():
                lines.put(line)

        reader = threading.Thread(target=read)
        reader.start()
        print("Tell a very long story.", file=child.stdin, flush=True)
        assert child.stdout.read(1)
        (worker,) = (
            c for c in psutil.Process(child.pid).children() if "app.engine.worker" in c.cmdline()
        )
        worker.suspend()
        said = ""
        while "cut off" not in said:
            # Signals that come too close to each other are one.
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(queue.Empty):
                while True:
                    said += lines.get(timeout=0.3)
        assert "Ctrl+C once more ends the engine" in said
        assert not worker.is_running()
        child.stdin.close()
        child.wait(TIMEOUT_S)
        reader.join()


def test_a_window_killed_with_9_leaves_no_process(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "ui"],
        env=processes.child_environment({"QT_QPA_PLATFORM": "offscreen"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process = psutil.Process(child.pid)
    workers: list[psutil.Process] = []
    for _attempt in range(TIMEOUT_S * 20):
        with contextlib.suppress(psutil.Error):  # a probe's child that is just ending
            workers = [c for c in process.children() if "app.engine.worker" in c.cmdline()]
        if workers:
            break
        psutil.wait_procs([process], timeout=0.05)
    assert workers, "the starter model is loaded by itself"
    child.kill()
    child.wait()
    _gone, alive = psutil.wait_procs(workers, timeout=TIMEOUT_S)
    assert not alive


def test_plan_of_the_flagship_on_cards_that_nobody_has_yet() -> None:
    arguments = ("plan", "nemotron-ultra-253b:Q4_K_M", "--gpus", "8x RTX 3090", "--json")
    more = ("--context", "32768", "--kv-type-k", "q8_0", "--kv-type-v", "q8_0")
    done = run(*arguments, *more)
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["fits"], plan["gpu_layers"]) == (0, True, 163)
    assert plan["tensor_split"] == [32, 27, 21, 27, 27, 9, 9, 11]
    assert plan["devices"][5]["first_layer"] == 134
    generation = plan["speed"]["generation"]
    assert 0 < generation["likely_low"] < generation["likely_high"] < generation["bound"]
    assert plan["speed"]["prompt"]["bound"] > plan["speed"]["prompt"]["likely_low"] > 0
    small = run(*arguments[:2], "--gpus", "2x 24", "--ram", "32", "--json")
    assert small.returncode == 4
    assert json.loads(small.stdout)["shortfall"] > 0
    forced = run(*arguments[:2], "--gpus", "24,24", "--tensor-split", "100,63", "--force", "--json")
    assert forced.returncode == 0
    assert json.loads(forced.stdout)["tensor_split"] == [100, 63]


def test_doctor_really_decodes() -> None:
    done = run("doctor", "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["ok"]) == (0, True)
    assert "loaded and decoded" in facts["self-test"]
    assert "rpc" in facts["backends"]


def test_a_dry_run_confirms_the_plan_of_two_devices_to_the_byte() -> None:
    with rpc_servers(2) as endpoints:
        servers = [part for endpoint in endpoints for part in ("--rpc", endpoint)]
        arguments = ("plan", "starter", "--json", "--context", "4096", *servers)
        for more in (["--layers", "14,17"], ["--layers", "3,9", "--kv-type-k", "q8_0"]):
            computed = json.loads(run(*arguments, *more).stdout)
            confirmed = json.loads(run(*arguments, *more, "--confirm").stdout)
            assert (computed["basis"], confirmed["basis"]) == ("computed", "confirmed")
            for mine, theirs in zip(computed["devices"], confirmed["devices"], strict=True):
                assert (mine["weights"], mine["kv_cache"]) == (
                    theirs["weights"],
                    theirs["kv_cache"],
                )
                assert mine["compute"] >= theirs["compute"] - 16 * 2**20
            assert computed["host"]["kv_cache"] == confirmed["host"]["kv_cache"]


def test_a_dry_run_confirms_the_flagship_on_cards_that_nobody_has_yet() -> None:
    arguments = ("plan", "nemotron-ultra-253b:Q4_K_M", "--gpus", "8x 24", "--context", "32768")
    more = ("--kv-type-k", "q8_0", "--kv-type-v", "q8_0", "--confirm")
    plan = json.loads(run(*arguments, *more, "--json").stdout)
    assert (plan["basis"], plan["fits"]) == ("confirmed", True)
    assert "RPC devices" in plan["note"]
    assert [device["name"] for device in plan["devices"]] == [f"CUDA{i}" for i in range(8)]
    # 34 bytes hold 32 elements; 64 layers keep 8 KV heads of 128 for K and for V.
    assert sum(device["kv_cache"] for device in plan["devices"]) == 32768 * 64 * 2 * 1024 * 34 // 32
    total = plan["host"]["weights"] + sum(device["weights"] for device in plan["devices"])
    assert total == pytest.approx(143_937.13 * 2**20, abs=2**20 / 100)
    words = run(*arguments, *more).stdout
    assert "Confirmed" in words
    assert "RPC devices" in words
    many = run("plan", "nemotron-super-49b", "--gpus", "17x 24", "--confirm", "--json")
    assert len(json.loads(many.stdout)["devices"]) == 15, "as many as llama.cpp takes"
