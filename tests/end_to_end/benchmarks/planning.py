"""Time per plan of Nemotron Ultra, and of the whole recommendation matrix.

Run: `python -m tests.end_to_end.benchmarks.planning [--runs 7]`
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

from app.gguf import bundled
from app.plan import placement
from app.plan.model import KvCacheType, PlanRequest
from app.plan.planner import make_plan
from app.plan.recommend import matrix
from app.units import GIB
from tests.helpers.machines import HOST, ULTRA, cards


def median_s(action: Callable[[], object], runs: int) -> float:
    """Median time of `action`."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    q8 = KvCacheType.Q8_0
    request = PlanRequest(context=32_768, kv_type_k=q8, kv_type_v=q8, any_order=True)
    for words, sizes in (
        ("8 equal cards", [24] * 8),
        ("8 different cards", [22, 23, 24, 25, 26, 27, 28, 32]),
        ("24+24+32+80 GiB", [24, 24, 32, 80]),
    ):
        devices = cards(sizes)
        plan = make_plan(layout, request, devices, HOST, limits=False)
        placing = median_s(
            functools.partial(make_plan, layout, request, devices, HOST, limits=False), runs
        )
        whole = median_s(functools.partial(make_plan, layout, request, devices, HOST), runs)
        fullest = max(share.model_bytes for share in plan.devices) / GIB
        print(
            f"{words}: {1000 * placing:.1f} ms, the whole plan to the byte {1000 * whole:.0f} ms; "
            f"{plan.verdict}, fullest {fullest:.2f} GiB, layers {plan.tensor_split}"
        )
    by_hand = PlanRequest(
        context=32_768, kv_type_k=q8, kv_type_v=q8, layer_counts=placement.even(163, 8)
    )
    even = make_plan(layout, by_hand, cards([24] * 8), HOST, limits=False)
    print(f"even split: fullest {max(s.model_bytes for s in even.devices) / GIB:.2f} GiB")
    layouts = [bundled.layout(f"{ULTRA}:{kind}") for kind in bundled.quantizations(ULTRA)]
    seconds = median_s(lambda: matrix(layouts, request, cards([24] * 8), HOST), min(3, runs))
    print(f"matrix of {len(layouts)} quantizations, 6 contexts, 3 KV types: {seconds:.2f} s")


if __name__ == "__main__":
    main()
