"""How fast Stop acts, how many events the service sustains, and what the worker adds in memory.

Run: `python -m tests.end_to_end.benchmarks.engine_latency [--threads 1] [--runs 9]`
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import psutil

from app import processes
from app.catalog import starter
from app.chat.events import AnswerExtended, TurnFinished
from app.engine import protocol
from app.engine.model import EngineState, EngineStateChanged, ModelLoaded, TurnEnded, TurnProgressed
from app.engine.supervisor import EngineSupervisor
from app.events import AppEvent
from app.service import AppService
from tests.helpers.engines import Events, engine, is_end, is_loaded, load

COUNT = 100_000
FAKE = f"""
import sys
print('{{"type":"hello","pid":1,"engine_version":"0","backends":[]}}', flush=True)
sys.stdin.readline()
print('{{"type":"loaded","context":4096,"train_context":1,"memory":[],"duration_s":0,'
      '"has_chat_template":true,"threads":1}}', flush=True)
sys.stdin.readline()
line = ('{{"type":"tokens_generated","turn":1,"text":" word","tokens":1,"context_used":9,'
        '"elapsed_s":1.0,"part":"text","call":null}}' + chr(10)) * 100
for _ in range({COUNT} // 100):
    sys.stdout.write(line)
print('{{"type":"turn_finished","turn":1,"reason":"stop","prompt_tokens":1,"reused_tokens":0,'
      '"generated_tokens":{COUNT},"prefill_s":1,"first_token_s":1,"generate_s":1,'
      '"context_used":9,"context":4096}}', flush=True)
sys.stdin.readline()
"""


def stop(threads: int, runs: int, *, generating: bool) -> list[float]:
    """Seconds from Stop until the turn has ended."""
    with engine() as (supervisor, events):
        supervisor.load(load(starter.bundled_model(), context=8192, threads=threads))  # type: ignore[arg-type]
        events.until(is_loaded)
        pid = supervisor.pid
        result = [_stop_once(supervisor, events, run, generating=generating) for run in range(runs)]
        assert supervisor.pid == pid, "the model stays loaded"
    return result


def _stop_once(
    supervisor: EngineSupervisor, events: Events, run: int, *, generating: bool
) -> float:
    text = f"{run} Tell a long story." if generating else f"{run} Tell a long story. " * 600
    question = protocol.ChatMessage(role="user", content=text)
    supervisor.generate(protocol.Generate(turn=run, messages=(question,)))
    wanted = protocol.TokensGenerated if generating else protocol.PrefillProgressed
    events.until(lambda e: isinstance(e, TurnProgressed) and isinstance(e.message, wanted))
    time.sleep(0.05 + 0.03 * run)  # somewhere within the computation
    started = time.perf_counter()
    supervisor.cancel()
    end = events.until(is_end)[-1]
    assert isinstance(end, TurnEnded)
    assert end.finished is not None
    assert end.finished.reason == "cancelled"
    return time.perf_counter() - started


def events_per_s() -> float:
    """A worker that only talks, through pipe, supervisor and service to a listener."""
    with tempfile.TemporaryDirectory() as folder:
        fake = Path(folder, "fake.py")
        fake.write_text(FAKE)
        command = [sys.executable, str(fake)]
        ended, heard = threading.Event(), [0.0, 0.0, 0.0]

        def listen(event: AppEvent) -> None:
            if isinstance(event, AnswerExtended):
                heard[0] += 1
                heard[1] = heard[1] or time.perf_counter()
            elif isinstance(event, TurnFinished):
                heard[2] = time.perf_counter()
                ended.set()
            elif isinstance(event, EngineStateChanged) and event.state is EngineState.READY:
                ready.set()

        ready = threading.Event()
        with mock.patch.object(processes, "child_command", return_value=command):
            service = AppService()
            service.subscribe(listen)
            service.engine._supervisor.load(protocol.Load(model_path="fake.gguf", context=4096))
            ready.wait()
            service.chat.send("go")
            ended.wait()
            service.close()
    return (heard[0] - 1) / (heard[2] - heard[1])


def memory() -> tuple[int, int]:
    """Bytes of the worker beyond what llama.cpp says that it holds, and of a bare interpreter."""
    with engine() as (supervisor, events):
        supervisor.load(load(starter.bundled_model(), use_extra_buffers=False))  # type: ignore[arg-type]
        loaded = events.until(is_loaded)[-1]
        assert isinstance(loaded, ModelLoaded)
        # Weights are mapped, and do not count as the process's own.
        private = sum(m.kv_cache_bytes + m.compute_bytes for m in loaded.loaded.memory)
        ours: int = psutil.Process(supervisor.pid).memory_full_info().uss
    bare = subprocess.run(
        [sys.executable, "-c", "import psutil; print(psutil.Process().memory_full_info().uss)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ours - private, int(bare.stdout)


def main() -> None:
    """Print all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    for name, generating in (("prefill", False), ("generation", True)):
        times = sorted(1000 * t for t in stop(options.threads, options.runs, generating=generating))
        print(
            f"stop in {name}: {statistics.median(times):.1f} ms (median), {times[-1]:.1f} ms (most)"
        )
    rates = [events_per_s() for _ in range(5)]
    print(f"events: {statistics.median(rates):,.0f} a second (median of 5)")
    over, bare = memory()
    print(
        f"worker memory above llama.cpp's own: {over / 2**20:.0f} MiB (bare Python {bare / 2**20:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
