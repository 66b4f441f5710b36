"""Our streaming against `llama-bench`, from the same libraries, in turns.

Run: `python -m tests.end_to_end.benchmarks.engine_speed [--model M] [--threads N] [--pairs 7]`

Ours is `ultra-launcher bench`: worker, protocol, supervisor, service, and a client that hears the
events. llama-bench generates at the depth at which ours does, after the shortest of prompts. Each
pair runs one after the other, so what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.catalog import starter
from tests.end_to_end.benchmarks import engine_programs


def theirs(options: argparse.Namespace, prompt: int, tokens: int, depth: int) -> float:
    """llama-bench's tokens/s for one test."""
    command = [
        str(engine_programs.program("llama-bench")), "-m", options.model, "-t", str(options.threads),
        "-p", str(prompt), "-n", str(tokens), "-d", str(depth), "-r", "1", "-ngl", "0", "-o", "json",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=engine_programs.environment(), capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)[0]["avg_ts"])


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """`ultra-launcher bench`'s figures for one run."""
    command = [
        sys.executable, "-m", "app", "bench", "--model", options.model, "--json", "--runs", "1",
        "--threads", str(options.threads), "--tokens", str(options.tokens),
        "--prompt-tokens", str(options.prompt_tokens),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"ULTRA_LAUNCHER_HOME": home}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print the medians of the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(starter.bundled_model()))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    print(f"{Path(options.model).name}, {options.threads} threads")
    generation, prompt = [], []
    for _ in range(options.pairs):
        mine = ours(options)
        rate = theirs(options, 0, options.tokens, mine["runs"][0]["generation_from_tokens"])
        generation.append(mine["generation_tokens_per_s"] / rate)
        prompt_rate = theirs(options, options.prompt_tokens, 0, 0)
        prompt.append(mine["prompt_tokens_per_s"] / prompt_rate)
        print(
            f"  generation {mine['generation_tokens_per_s']:7.1f} / {rate:7.1f} = {generation[-1]:.3f}"
            f"   prompt {mine['prompt_tokens_per_s']:7.1f} / {prompt_rate:7.1f} = {prompt[-1]:.3f}"
            f"   first token {mine['time_to_first_token_s']:.2f} s",
            flush=True,
        )
    print(f"generation {statistics.median(generation):.3f}, prompt {statistics.median(prompt):.3f}"
          f" of llama-bench (medians of {options.pairs} pairs)")  # fmt: skip


if __name__ == "__main__":
    main()
