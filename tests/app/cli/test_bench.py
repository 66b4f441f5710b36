"""The command that measures, with the real engine."""

from __future__ import annotations

import json

import pytest

from app.cli import main


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
    slowest = max(run["time_to_first_token_s"] for run in found["runs"])
    assert slowest * 1.01 > 96 / max(run["prompt_tokens_per_s"] for run in found["runs"])


def test_a_prompt_shorter_than_the_template_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--threads", "1", "--prompt-tokens", "1", "--tokens", "2"]) == 2
    assert "--prompt-tokens" in capsys.readouterr().err
