"""Loading through worker, protocol and supervisor against the same two calls of llama.cpp, in turns.

Run: `python -m tests.end_to_end.benchmarks.engine_load [MODEL ... | --large] [--pairs 5]`

`--large` loads a made-up model of 4.1 GB, whose weights are all zero and take no disk.

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
import tempfile
import time
from pathlib import Path

from app import processes
from app.catalog import starter
from app.engine.model import ModelLoaded
from tests.helpers.engines import engine, is_loaded, load
from tests.helpers.models import Header

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


def large(path: Path) -> Path:
    """A model with the shape of Llama 3.1 8B at Q4_0."""
    hidden, width, kv, layers = 4096, 14_336, 1024, 32
    header = Header("llama", 32_000)
    header.numbers = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": hidden,
        "feed_forward_length": width,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "rope.freq_base": 10_000.0,
        "rope.dimension_count": 128,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    header.add("token_embd.weight", hidden, header.vocabulary, kind="Q4_0")
    header.add("output_norm.weight", hidden)
    header.add("output.weight", hidden, header.vocabulary, kind="Q6_K")
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, kv),
        "attn_v": (hidden, kv),
        "attn_output": (hidden, hidden),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            header.add(f"blk.{layer}.{name}.weight", hidden)
        for name, shape in shapes.items():
            header.add(f"blk.{layer}.{name}.weight", *shape, kind="Q4_0")
    return header.write(path)


def compare(model: Path, mode: str, count: int) -> None:
    """Measure in turns, and print the medians.

    Who comes first changes from pair to pair: memory that was just given back is there sooner.
    """
    theirs(model, mode)  # the file is in the cache for both
    pairs = []
    for number in range(count):
        if number % 2:
            plain_s = theirs(model, mode)
            pairs.append((ours(model, mode), plain_s))
        else:
            engine_s = ours(model, mode)
            pairs.append((engine_s, theirs(model, mode)))
    print(f"{model.name}, {mode}, {count} pairs:")
    for index, what in enumerate(("load and context", "from the process's start")):
        mine, plain = (statistics.median(pair[side][index] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][index] / pair[1][index] for pair in pairs)
        print(f"  {what:24} {mine:6.3f} s, llama.cpp {plain:6.3f} s, ratio {ratio:.2f}")


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = [large(Path(folder, "large.gguf"))] if options.large else []
        for model in options.models or made or [starter.bundled_model()]:
            for mode in ("mapped", "read"):
                compare(model, mode, options.pairs)


if __name__ == "__main__":
    main()
