"""The command that measures, with the real engine."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import main
from app.gguf import bundled
from app.gguf.writer import write_sparse
from tests.helpers.rpc import rpc_servers


def test_bench_measures_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "bench",
        "--threads",
        "1",
        "--prompt-tokens",
        "96",
        "--tokens",
        "12",
        "--runs",
        "2",
        "--json",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == 1
    assert [(run["prompt_tokens"], run["tokens"]) for run in found["runs"]] == [(96, 12)] * 2
    for name in ("generation_tokens_per_s", "prompt_tokens_per_s", "time_to_first_token_s"):
        assert found[name] > 0
    starts = {run["generation_from_tokens"] for run in found["runs"]}
    assert len(starts) == 1
    assert 0 < starts.pop() < 48, "generation is measured with hardly anything in the context"
    slowest = max(run["time_to_first_token_s"] for run in found["runs"])
    assert slowest * 1.01 > 96 / max(run["prompt_tokens_per_s"] for run in found["runs"])


def test_a_stored_grammar_does_not_end_what_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["settings", "sampling.grammar", 'root ::= "yes"']) == 0
    sizes = ["--threads", "1", "--prompt-tokens", "40", "--tokens", "8", "--runs", "1"]
    capsys.readouterr()
    assert main(["bench", *sizes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["tokens"] == 8
    grammar = tmp_path / "yes.gbnf"
    grammar.write_text('root ::= "yes"')
    assert main(["bench", *sizes, "--grammar-file", str(grammar)]) == 2
    assert "--grammar-file" in capsys.readouterr().err


def test_a_prompt_shorter_than_the_template_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--threads", "1", "--prompt-tokens", "1", "--tokens", "2"]) == 2
    assert "--prompt-tokens" in capsys.readouterr().err


def test_a_split_is_measured_and_what_it_was_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with rpc_servers(2) as endpoints:
        rpc = [part for endpoint in endpoints for part in ("--rpc", endpoint)]
        sizes = ["--prompt-tokens", "64", "--tokens", "4", "--runs", "3", "--context", "1024"]
        assert main(["bench", "--layers", "20,11", *sizes, *rpc, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tensor_split"], found["split_mode"]) == ([20, 11], "layer")
    assert found["devices"] == ["RPC0", "RPC1"]
    assert found["context"] == 1024
    rates = [run["prompt_tokens_per_s"] for run in found["runs"]]
    assert found["prompt_tokens_per_s"] == sorted(rates)[1]
    half = (max(rates) - min(rates)) / 2
    assert found["spread"]["prompt_tokens_per_s"] == pytest.approx(half / sorted(rates)[1])


def test_what_cannot_be_measured_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    huge = tmp_path / "huge.gguf"
    write_sparse(bundled.layout("nemotron-ultra-253b:Q4_K_M"), huge)
    for arguments, code, word in (
        (["--model", str(tmp_path / "absent.gguf")], 3, "absent.gguf"),
        (["--model", str(huge)], 4, "does not fit"),
        (["--tokens", "0"], 2, "--tokens"),
        (["--prompt-tokens", "2000", "--context", "1024"], 2, "--context 2304"),
        (["--layers", "1,2,3"], 2, "no devices"),
        (["--layers", "x"], 2, "no devices"),
    ):
        assert main(["bench", *arguments]) == code, arguments
        assert word in capsys.readouterr().err


def test_on_a_terminal_it_says_how_far_it_is() -> None:
    terminal, end = pty.openpty()
    sizes = ["--threads", "1", "--prompt-tokens", "40", "--tokens", "4", "--runs", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "ui", "bench", *sizes],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
    ) as measured:
        os.close(end)
        out, _ = measured.communicate(timeout=120)
    told = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert measured.returncode == 0
    assert "generation" in out
    for words in ("Reading the model", "Warming up", "Measuring: run 1 of 2", "run 2 of 2"):
        assert words in told
    assert told.endswith("\r")  # the line is free again


def test_an_empty_grammar_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grammar = tmp_path / "empty.gbnf"
    grammar.write_text("\n")
    assert main(["chat", "--prompt", "Hello", "--grammar-file", str(grammar)]) == 2
    assert f"{grammar} is empty." in capsys.readouterr().err
