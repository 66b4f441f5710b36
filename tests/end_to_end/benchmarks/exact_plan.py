"""The plan against llama.cpp's own word: many random loads on RPC devices, nothing allocated.

Run: `python -m tests.end_to_end.benchmarks.exact_plan [--cases 1200] [--seed 1] [--gemma FILE]`

Models: Ultra 253B and Super 49B in all bundled quantizations, the starter model, Gemma 3 270M if its
file is given, and made-up headers of seventeen families. Half of the cases have a random split and
offload; in the other half the planner splits by itself for random memory, and what it says that fits
must fit.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from pathlib import Path

from app import paths, units
from app.catalog import starter
from app.engine.imagined import rpc_devices
from app.errors import AppError
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout
from app.gguf.writer import write_sparse
from app.plan import memory
from app.plan.model import (
    DevicePlan,
    FlashAttention,
    HostPlan,
    KvCacheType,
    LoadPlan,
    PlanHost,
    PlanRequest,
    Verdict,
)
from app.plan.planner import make_plan
from tests.helpers.dry_runs import DryRuns, Figures
from tests.helpers.machines import devices
from tests.helpers.models import FAMILIES, random_model

MOST_DEVICES = 8
CONTEXTS = (1, 300, 512, 2_048, 5_000, 16_384, 32_768, 65_536, 100_001, 131_072)
MICRO_BATCHES = (17, 64, 128, 256, 512, 1_024, 2_048)
TYPES = ("f16", "f16", "q8_0", "q4_0", *KvCacheType)
HOST = PlanHost(total_bytes=2**43, available_bytes=2**43)
TOLERANCE, SHARE = 16 * units.MIB, 0.02


@dataclasses.dataclass(slots=True)
class Result:
    """What the comparison found."""

    cases: int = 0
    refused: int = 0
    places: int = 0
    exact_compute: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    apart: list[float] = dataclasses.field(default_factory=list)
    false_fits: list[str] = dataclasses.field(default_factory=list)
    fitting: int = 0
    worst_over: float = 0.0
    worst_under: float = 0
    families: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Models:
    """Model files without weights, written when they are first wanted."""

    def __init__(self, folder: Path, chance: random.Random, gemma: Path | None) -> None:
        self._folder, self._chance = folder, chance
        self._real = [starter.ensure(folder / "models")]
        self._real += [gemma] if gemma else []
        self._layouts: dict[str, tuple[Path, ModelLayout]] = {}

    def draw(self) -> tuple[str, Path, ModelLayout]:
        """A family's name, the file, its layout."""
        sort = self._chance.choice(("ultra", "ultra", "super", "real", *FAMILIES))
        if sort in ("ultra", "super"):
            name = next(name for name in bundled.names() if sort in name)
            kind = self._chance.choice(bundled.quantizations(name))
            return sort, *self._bundled(f"{name}:{kind}")
        if sort == "real":
            path = self._chance.choice(self._real)
            return path.stem, path, read_layout(path)
        path = self._folder / f"{sort}-{self._chance.randrange(10**9)}.gguf"
        random_model(self._chance, sort).write(path)
        return sort, path, read_layout(path)

    def _bundled(self, name: str) -> tuple[Path, ModelLayout]:
        if name not in self._layouts:
            layout = bundled.layout(name)
            path = self._folder / layout.files[0].name
            write_sparse(layout, path)
            self._layouts[name] = path, layout
        return self._layouts[name]


def draw_request(chance: random.Random, layout: ModelLayout) -> PlanRequest:
    """Context, batches, cache types and flash attention that llama.cpp takes."""
    flash = chance.choice(tuple(FlashAttention))
    kinds = [KvCacheType(chance.choice(TYPES)) for _ in range(2)]
    for side in range(2):
        quantized_v = side == 1 and flash is FlashAttention.OFF
        if quantized_v or not memory.kv_type_suits(layout, kinds[side], keys=side == 0):
            kinds[side] = KvCacheType.F16
    return PlanRequest(
        context=chance.choice(CONTEXTS),
        kv_type_k=kinds[0],
        kv_type_v=kinds[1],
        flash_attention=flash,
        micro_batch=chance.choice(MICRO_BATCHES),
    )


def draw_plan(chance: random.Random, layout: ModelLayout) -> LoadPlan:
    """A plan by hand, or the planner's own for random memory."""
    request, total = draw_request(chance, layout), layout.block_count + 1
    count = chance.randint(1, MOST_DEVICES)
    roomy = devices([2**42] * count, backend="rpc")
    if chance.random() < 0.5:
        offloaded = chance.choice((total, total, total, chance.randint(0, total)))
        cuts = sorted(chance.randint(0, offloaded) for _ in range(count - 1))
        edges = [0, *cuts, offloaded]
        counts = tuple(b - a for a, b in itertools.pairwise(edges))
        wanted = dataclasses.replace(request, layer_counts=counts)
        return make_plan(layout, wanted, roomy, HOST)
    needed = make_plan(layout, request, roomy, HOST, limits=False)
    whole = sum(share.model_bytes for share in needed.devices) // count
    free = [round(whole * chance.uniform(0.6, 1.8)) for _ in range(count)]
    reserves = {f"d{index}": 0 for index in range(count)}
    wanted = dataclasses.replace(request, reserves=reserves)
    return make_plan(layout, wanted, devices(free, backend="rpc"), HOST)


def compare_compute(result: Result, words: str, plan: LoadPlan, more: int, compute: int) -> None:
    """Judge a compute buffer that is planned `more` bytes larger than llama.cpp's `compute`."""
    difference = f"{words} {more / units.MIB:+.1f} MiB of {compute / units.MIB:.1f}"
    if plan.tensor_overrides:
        result.apart.append(more / max(compute, TOLERANCE))
        if more < -TOLERANCE:
            result.wrong.append(f"{difference}, tensors apart")
        return
    result.exact_compute += abs(more) <= 4096
    result.worst_under = min(result.worst_under, more)
    if more > TOLERANCE:
        result.worst_over = max(result.worst_over, more / compute)
    if more < -TOLERANCE or more > max(TOLERANCE, SHARE * compute):
        result.wrong.append(difference)


def compare(result: Result, name: str, plan: LoadPlan, found: Figures) -> None:
    """Count what differs."""
    request = plan.request
    words = (
        f"{name} {plan.tensor_split} of {plan.block_count + 1}, {plan.context} tokens, ub "
        f"{request.micro_batch}, {request.kv_type_k}/{request.kv_type_v}, fa {request.flash_attention}"
    )
    used = [share for share in plan.devices if share.used]
    places: list[tuple[str, DevicePlan | HostPlan]] = [("CPU", plan.host)]
    places += [(share.device.engine_name, share) for share in used]
    for place, share in places:
        weights, cache, compute = found.get(place, (0, 0, 0))
        result.places += not plan.tensor_overrides
        if share.weights_bytes != weights:
            result.wrong.append(f"{words}: weights {share.weights_bytes - weights:+,} on {place}")
        if share.kv_cache_bytes != cache:
            result.wrong.append(f"{words}: KV cache {share.kv_cache_bytes - cache:+,} on {place}")
        more = share.compute_bytes - compute
        compare_compute(result, f"{words}: compute on {place}", plan, more, compute)
    if plan.verdict is Verdict.TOO_LARGE:
        return
    result.fitting += 1
    for share in used:
        total = sum(found.get(share.device.engine_name, (0, 0, 0)))
        if total > share.device.free_bytes:
            lacking = (total - share.device.free_bytes) / units.MIB
            result.false_fits.append(f"{words}: {share.device.engine_name} lacks {lacking:.1f} MiB")


def run(cases: int, seed: int, gemma: Path | None) -> Result:
    """Compare so many cases."""
    chance, result = random.Random(seed), Result()
    with tempfile.TemporaryDirectory() as folder, rpc_devices(MOST_DEVICES) as endpoint:
        engine, models = DryRuns(endpoint), Models(Path(folder), chance, gemma)
        while result.cases < cases:
            name, path, layout = models.draw()
            try:
                plan = draw_plan(chance, layout)
            except AppError:
                result.refused += 1
                continue
            found = engine.run(path, plan)
            if name in FAMILIES:
                path.unlink()
            if found is None:
                result.refused += 1
                if plan.verdict is not Verdict.TOO_LARGE:
                    result.false_fits.append(f"{name}: llama.cpp refuses it")
                continue
            result.cases += 1
            result.families[name] += 1
            compare(result, name, plan, found)
    return result


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gemma", type=Path, help="gemma-3-270m-q4_k_m.gguf")
    options = parser.parse_args()
    paths.folders()
    started = time.perf_counter()
    result = run(options.cases, options.seed, options.gemma)
    print(f"{result.cases} cases in {time.perf_counter() - started:.0f} s, {result.places} places")
    print(", ".join(f"{name} {count}" for name, count in sorted(result.families.items())))
    print(
        f"compute equal within 4 KiB: {result.exact_compute} of {result.places}; most under "
        f"{-result.worst_under / units.MIB:.1f} MiB, most over (beyond 16 MiB) {result.worst_over:.1%}"
    )
    if result.apart:
        print(
            f"places of plans with tensors apart: {len(result.apart)}, compute too large by "
            f"{statistics.median(result.apart):.1%} in the middle, {max(result.apart):.1%} at most"
        )
    print(f"called fitting: {result.fitting}, of those not fitting: {len(result.false_fits)}")
    print(
        f"differences: {len(result.wrong)}; refused by llama.cpp or by the planner: {result.refused}"
    )
    for line in [*result.wrong, *result.false_fits][:60]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
