"""Our placement against llama.cpp's own `--fit`, on the same machines, none of which is here.

Run: `python -m tests.end_to_end.benchmarks.against_fit [--fit-params PROGRAM]`

Without a program, `llama-fit-params` is built from the source inside llama-cpp-python's sdist, into
the folder where the engine is cached. Its devices are those of a real RPC server, of whose memory a
proxy says what the machine would have; model files have their true headers and no weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app import units
from app.engine.imagined import rpc_devices
from app.gguf import bundled
from app.gguf.writer import write_sparse
from app.plan.model import KvCacheType, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from tests.end_to_end.benchmarks import engine_programs
from tests.helpers import machines
from tests.helpers.rpc_memory import with_memory

MARGIN_MIB = 1024
HOST = PlanHost(total_bytes=256 * units.GIB, available_bytes=256 * units.GIB)
ULTRA, SUPER = "nemotron-ultra-253b", "nemotron-super-49b"
Q8 = KvCacheType.Q8_0


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A model on a machine."""

    model: str
    cards: tuple[float, ...]
    context: int
    micro_batch: int = 512


CASES = (
    Case(f"{ULTRA}:Q4_K_M", (24,) * 8, 32_768),
    Case(f"{ULTRA}:Q4_K_M", (24,) * 8, 65_536),
    Case(f"{ULTRA}:Q4_K_M", (23.5,) * 8, 16_384),
    Case(f"{ULTRA}:Q4_K_M", (24,) * 8, 32_768, 1024),
    Case(f"{ULTRA}:Q4_K_M", (48,) * 4, 32_768),
    Case(f"{ULTRA}:Q4_K_M", (40,) * 4, 16_384),
    Case(f"{ULTRA}:Q4_K_M", (24, 24, 32, 80), 16_384),
    Case(f"{ULTRA}:Q4_K_M", (80, 32, 24, 24), 16_384),
    Case(f"{ULTRA}:Q4_K_M", (32, 80, 24, 24), 16_384),
    Case(f"{ULTRA}:Q4_K_M", (20, 22, 24, 24, 24, 24, 28, 32), 16_384),
    Case(f"{ULTRA}:Q4_K_M", (32, 28, 24, 24, 24, 24, 22, 20), 16_384),
    Case(f"{ULTRA}:Q3_K_M", (24, 24, 32, 48), 16_384),
    Case(f"{ULTRA}:Q3_K_M", (48, 32, 24, 24), 16_384),
    Case(f"{ULTRA}:IQ3_XXS", (24,) * 5, 16_384),
    Case(f"{ULTRA}:IQ3_XXS", (24, 24, 24, 32), 16_384),
    Case(f"{ULTRA}:IQ3_XXS", (26, 26, 26, 32), 16_384),
    Case(f"{ULTRA}:IQ2_M", (24,) * 4, 16_384),
    Case(f"{ULTRA}:Q8_0", (40,) * 8, 32_768),
    Case(f"{ULTRA}:Q8_0", (80,) * 4, 65_536),
    Case(f"{ULTRA}:Q5_K_M", (96, 96), 32_768),
    Case(f"{SUPER}:Q4_K_M", (24, 24), 32_768),
    Case(f"{SUPER}:Q4_K_M", (16, 24), 16_384),
    Case(f"{SUPER}:Q4_K_M", (24, 16), 16_384),
    Case(f"{SUPER}:Q6_K", (24, 24), 16_384),
    Case(f"{SUPER}:Q8_0", (24, 24, 24), 32_768),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """What `--fit` answers: layers on devices, split, whether it succeeded, and its time."""

    gpu_layers: int
    split: tuple[int, ...]
    seconds: float


def ask_fit(program: Path, path: Path, endpoint: str, case: Case) -> Fit:
    """Let `llama-fit-params` place the model."""
    names = ",".join(f"RPC{index}" for index in range(len(case.cards)))
    command = [
        str(program), "-m", str(path), "--rpc", endpoint, "-dev", names, "-c", str(case.context),
        "-ub", str(case.micro_batch), "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on",
        "-fitt", str(MARGIN_MIB),
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    layers = re.search(r"-ngl (-?\d+)", done.stdout)
    split = re.search(r"-ts ([\d,]+)", done.stdout)
    if done.returncode or layers is None:
        return Fit(0, (), seconds)
    counts = tuple(int(part) for part in split[1].split(",")) if split else ()
    return Fit(int(layers[1]), counts, seconds)


def ours(case: Case, *, any_order: bool) -> tuple[str, float, bool]:
    """Our answer: in words, its time, and whether all is on devices as whole layers."""
    layout = bundled.layout(case.model)
    cards = machines.cards(case.cards, backend="rpc")
    request = PlanRequest(
        context=case.context,
        kv_type_k=Q8,
        kv_type_v=Q8,
        micro_batch=case.micro_batch,
        reserves={card.id: MARGIN_MIB * units.MIB for card in cards},
        any_order=any_order,
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        plan = make_plan(layout, request, cards, HOST, limits=False)
        times.append(time.perf_counter() - started)
    plan = make_plan(layout, request, cards, HOST)
    words = ",".join(str(count) for count in plan.tensor_split)
    if tuple(share.device.id for share in plan.devices) != tuple(card.id for card in cards):
        words += " on " + ",".join(f"{s.device.total_bytes / units.GIB:g}" for s in plan.devices)
    if plan.tensor_overrides:
        words += f", {len(plan.tensor_overrides)} tensors apart"
    return words, statistics.median(times), plan.verdict is Verdict.FITS


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit-params", type=Path, help="a built llama-fit-params")
    program = parser.parse_args(arguments).fit_params or engine_programs.program("llama-fit-params")
    worse, only_ours, ratios = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            layout = bundled.layout(case.model)
            path = Path(folder, layout.files[0].name)
            if not path.exists():
                write_sparse(layout, path)
            free = [round(size * units.GIB) for size in case.cards]
            with rpc_devices(len(free)) as server, with_memory(server, free) as endpoint:
                fit = ask_fit(program, path, endpoint, case)
            whole = fit.gpu_layers < 0 or fit.gpu_layers > layout.block_count
            given = ours(case, any_order=False)
            any_order = ours(case, any_order=True)
            ratios.append(fit.seconds / any_order[1])
            cards = ",".join(f"{card:g}" for card in case.cards)
            name = f"{case.model} on {cards}, {case.context}, ub {case.micro_batch}"
            if whole and not given[2]:
                worse.append(name)
            if any_order[2] and not whole:
                only_ours.append(name)
            split = ",".join(str(count) for count in fit.split)
            print(
                f"{name}\n  --fit  {'all' if whole else fit.gpu_layers} {split} in {1000 * fit.seconds:.0f} ms"
            )
            print(
                f"  ours   {'all' if given[2] else 'partly'} {given[0]} in {1000 * given[1]:.1f} ms"
            )
            print(
                f"  order  {'all' if any_order[2] else 'partly'} {any_order[0]} in {1000 * any_order[1]:.1f} ms"
            )
    print(f"\nplaced wholly by --fit and not by us: {len(worse)} {worse}")
    print(f"placed wholly only by us: {len(only_ours)}")
    for name in only_ours:
        print(f"  {name}")
    print(f"--fit takes {statistics.median(ratios):.0f} times as long (median)")


if __name__ == "__main__":
    main()
