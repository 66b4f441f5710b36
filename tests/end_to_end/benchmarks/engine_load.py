"""Loading through worker, protocol and supervisor against the same two calls of llama.cpp, in turns.

Run: `python -m tests.end_to_end.benchmarks.engine_load [MODEL ...] [--pairs 5]`

Theirs is a child that imports the bindings, loads and makes the context, and does nothing else: no
progress, no log, no device list. Compared are the load itself, and the whole from the start of the
process to the model's being ready (without the self-test, which llama.cpp has not).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from app import processes
from app.catalog import starter
from app.engine.model import ModelLoaded
from tests.helpers.engines import engine, is_loaded, load

PLAIN = """
import ctypes, json, sys, time
import llama_cpp.llama_cpp as lib
quiet = lib.llama_log_callback(lambda *_: None)
lib.llama_log_set(quiet, ctypes.c_void_p(0))
lib.llama_backend_init()
began = time.perf_counter()
params = lib.llama_model_default_params()
params.n_gpu_layers = 0
params.use_extra_bufts = False
if sys.argv[2] == "read":
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
model = lib.llama_model_load_from_file(sys.argv[1].encode(), params)
context = lib.llama_context_default_params()
context.n_ctx = 1024
context.n_threads = context.n_threads_batch = 1
assert lib.llama_init_from_model(model, context)
print(json.dumps(time.perf_counter() - began), flush=True)
"""


def theirs(model: Path, mode: str) -> tuple[float, float]:
    """Seconds of load and context, and of the whole."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", PLAIN, str(model), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=processes.child_environment(),
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        return json.loads(line), time.perf_counter() - began


def ours(model: Path, mode: str) -> tuple[float, float]:
    """The same of the engine."""
    with engine() as (supervisor, events):
        began = time.perf_counter()
        supervisor.load(load(model, load_mode=mode, self_test=False, use_extra_buffers=False))
        loaded = events.until(is_loaded)[-1]
        whole = time.perf_counter() - began
    assert isinstance(loaded, ModelLoaded)
    return loaded.loaded.duration_s, whole


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=Path, default=[starter.bundled_model()])
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    for model in options.models:
        for mode in ("mapped", "read"):
            theirs(model, mode)  # the file is in the cache for both
            pairs = [(ours(model, mode), theirs(model, mode)) for _ in range(options.pairs)]
            print(f"{model.name}, {mode}, {options.pairs} pairs:")
            for index, what in enumerate(("load and context", "from the process's start")):
                mine, plain = (
                    statistics.median(pair[side][index] for pair in pairs) for side in (0, 1)
                )
                ratio = statistics.median(pair[0][index] / pair[1][index] for pair in pairs)
                print(f"  {what:24} {mine:6.3f} s, llama.cpp {plain:6.3f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
