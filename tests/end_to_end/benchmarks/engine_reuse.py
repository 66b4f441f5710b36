"""Time to first token of a follow-up after a long history, against llama-server with its prompt cache.

Run: `python -m tests.end_to_end.benchmarks.engine_reuse [--history 4000] [--threads N] [--pairs 9]`

Both hold the same history in their KV caches, and get the same new message in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator

from app.catalog import starter
from app.engine import protocol
from app.engine.model import TurnProgressed
from tests.end_to_end.benchmarks import engine_programs
from tests.helpers.engines import Events, engine, is_end, is_loaded, load

STORY = "The keeper of the lighthouse wrote down the weather of every day in a large book. "
QUESTIONS = tuple(
    f"What did the keeper write on day {day}, and what did the sea look like then?"
    for day in range(10, 40)
)


@contextlib.contextmanager
def server(options: argparse.Namespace, context: int) -> Iterator[int]:
    """llama-server with the model; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        str(engine_programs.program("llama-server")), "-m", options.model, "-c", str(context),
        "-t", str(options.threads), "-np", "1", "-ngl", "0", "--host", "127.0.0.1",
        "--port", str(port),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=engine_programs.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request("GET", "/health")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def theirs(port: int, messages: tuple[protocol.ChatMessage, ...]) -> tuple[float, int]:
    """Seconds until the first piece of text, and the number of reused tokens."""
    body = {
        "messages": [message.model_dump(exclude_none=True) for message in messages],
        "max_tokens": 2, "temperature": 0, "stream": True, "cache_prompt": True,
        "timings_per_token": True,
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port)
    started = time.perf_counter()
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    first, reused = 0.0, 0
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        choices = chunk["choices"]
        if not first and choices and choices[0]["delta"].get("content"):
            first = time.perf_counter() - started
        reused = chunk.get("timings", {}).get("cache_n", reused)
    return first, reused


def main() -> None:
    """Print the pairs and the median of their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(starter.bundled_model()))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--history", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    turns = options.history // 200
    history = [
        protocol.ChatMessage(role=role, content=f"{turn}. {STORY * 5}")
        for turn in range(turns)
        for role in ("user", "assistant")
    ]
    context = options.history + 1024

    with server(options, context) as port, engine() as (supervisor, events):
        supervisor.load(load(options.model, context=context, threads=options.threads))
        events.until(is_loaded)

        def ours(messages: tuple[protocol.ChatMessage, ...]) -> tuple[float, int, int]:
            return ask(supervisor, events, messages)

        ratios = []
        for index, question in enumerate(QUESTIONS[: options.pairs + 1]):
            messages = (*history, protocol.ChatMessage(role="user", content=question))
            mine, prompt, reused = ours(messages)
            their, their_reused = theirs(port, messages)
            print(
                f"  {1000 * mine:7.0f} ms, {reused} of {prompt} reused / {1000 * their:7.0f} ms,"
                f" {their_reused} reused = {mine / their:.3f}",
                flush=True,
            )
            if index:  # the first reads the history
                ratios.append(mine / their)
    print(
        f"first token: {statistics.median(ratios):.3f} of llama-server's (median of {len(ratios)})"
    )


def ask(
    supervisor: object, events: Events, messages: tuple[protocol.ChatMessage, ...]
) -> tuple[float, int, int]:
    """Seconds until the first text, prompt tokens and reused tokens."""
    from app.engine.supervisor import EngineSupervisor

    assert isinstance(supervisor, EngineSupervisor)
    sampling = protocol.Sampling(temperature=0)
    started = time.perf_counter()
    supervisor.generate(
        protocol.Generate(turn=1, messages=messages, sampling=sampling, max_tokens=2)
    )
    first, prompt, reused = 0.0, 0, 0
    while True:
        event = events.queue.get()
        if isinstance(event, TurnProgressed):
            if isinstance(event.message, protocol.TokensGenerated):
                first = first or time.perf_counter() - started
            elif isinstance(event.message, protocol.PrefillProgressed):
                prompt, reused = event.message.total, event.message.reused
        elif is_end(event):
            return first, prompt, reused


if __name__ == "__main__":
    main()
