"""From `hf:owner/repo:QUANT` to a plan: requests, bytes and time for a split Ultra on a Hub with latency.

Run: `python -m tests.end_to_end.benchmarks.remote_plan [--latency-ms 50] [--runs 5]`

The files are sparse, with all tensors of the model and a vocabulary as large as the real one. Each
request is answered after the latency, and each run opens its connections anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from app.catalog import hub, repository
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout_from
from app.plan.model import LoadPlan, PlanRequest
from app.plan.planner import make_plan
from tests.helpers import shards
from tests.helpers.hub import Hub
from tests.helpers.hub import hub as hub_server
from tests.helpers.machines import HOST, cards

MODEL = "nemotron-ultra-253b:Q4_K_M"
REPO = "owner/Ultra-GGUF"
SHARDS = 4


def point_at(endpoint: str) -> None:
    """Let huggingface_hub speak with `endpoint`."""
    constants.HF_HUB_DISABLE_TELEMETRY = True  # the app sets it before this module is there
    constants.ENDPOINT = endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"


def serve(server: Hub, folder: Path) -> None:
    """Put the split model into the repository."""
    files = shards.write(
        bundled.layout(MODEL),
        folder,
        "Ultra-Q4_K_M",
        SHARDS,
        vocabulary=shards.llama3_vocabulary(),
    )
    server.files = {f"{REPO}/Ultra-Q4_K_M/{file.name}": file for file in files}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One look-up, and how long it took in seconds."""

    layout: ModelLayout
    plan: LoadPlan
    total_s: float
    planning_s: float


def run(server: Hub) -> Run:
    """Look the model up and plan it, over new connections."""
    huggingface_hub.close_session()
    server.requests.clear()
    server.sent_bytes = 0
    began = time.perf_counter()
    found = repository.find(hub.parse(f"hf:{REPO}:Q4_K_M"))
    layout = read_layout_from(hub.open_files(found.address))
    read = time.perf_counter()
    plan = make_plan(layout, PlanRequest(context=32_768), cards([24] * 8), HOST)
    done = time.perf_counter()
    return Run(layout=layout, plan=plan, total_s=done - began, planning_s=done - read)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, hub_server() as server:
        serve(server, Path(folder))
        point_at(server.endpoint)
        server.latency_s = options.latency_ms / 1000
        runs = [run(server) for _ in range(options.runs)]
        times = [one.total_s for one in runs]
        print(
            f"{runs[0].layout.size_bytes / 1e9:.1f} GB in {SHARDS} shards, {options.latency_ms:g} ms: "
            f"{len(server.requests)} requests, {server.sent_bytes / 1e6:.1f} MB, "
            f"{statistics.median(times):.2f} s to the plan (worst {max(times):.2f} s, of which "
            f"planning {statistics.median(one.planning_s for one in runs):.2f} s)"
        )
        print(f"{runs[0].layout.name}: {runs[0].plan.sentence}")


if __name__ == "__main__":
    main()
