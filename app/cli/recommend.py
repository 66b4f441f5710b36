"""`recommend` and `hardware`: what of a model to take for a machine, and what machine for a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence

from app import units
from app.cli import machine
from app.plan import least, speed
from app.plan import recommend as recommendation
from app.plan import text as plan_text
from app.plan.model import KvCacheType, PlanDevice, PlanHost, PlanRequest, Verdict
from app.settings.model import Settings

KV_TYPES = (KvCacheType.F16, KvCacheType.Q8_0, KvCacheType.Q4_0)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `recommend`."""
    command.add_argument(
        "model", help="a known model without quantization, a GGUF file, or hf:owner/repo/file.gguf"
    )
    machine.add_machine(command)


def recommend(options: argparse.Namespace, settings: Settings) -> int:
    """Print the best choice and the matrix behind it; the exit code says whether anything fits."""
    layouts = machine.layouts(options.model)
    devices, host = machine.machine(options, settings)
    request = PlanRequest(
        any_order=options.devices is None
        and (options.gpus is not None or not settings.device_order)
    )
    choices = recommendation.matrix(layouts, request, devices, host)
    best = recommendation.exactly(choices[0], devices, host)
    fits = best.plan.verdict is not Verdict.TOO_LARGE
    relatives = []
    if best.plan.verdict in (Verdict.TOO_LARGE, Verdict.PARTLY):
        others = machine.relatives(best.layout)
        relatives = recommendation.relatives(others, request, devices, host)
    rate = speed.estimate(best.plan, best.layout)
    if options.json:
        print(json.dumps({
            "reason": recommendation.reason(best),
            "best": plan_text.to_json(best.plan, rate) if fits else None,
            "matrix": [_choice_json(choice) for choice in choices],
            "relatives": [recommendation.reason(choice) for choice in relatives],
        }, indent=1))  # fmt: skip
    else:
        print(f"{best.layout.name}\n{recommendation.reason(best)}")
        for line in plan_text.speed_lines(rate) if fits else ():
            print(line)
        for number, choice in enumerate(relatives):
            words = " fits too" if number else ", the nearest relative that fits"
            print(f"{choice.layout.name}{words}: {recommendation.reason(choice)}")
        lacking = _lacking(choices, devices, host)
        print(f"\n{_table(choices, lacking)}")
        if assumed := machine.assumed_memory(options):
            print(f"\n{assumed}")
    return 0 if fits else 4


def hardware(options: argparse.Namespace, settings: Settings) -> int:
    """Print the least of each GPU that runs a model, as a table of machines."""
    layout = machine.layout(options.model)
    request = PlanRequest(
        context=settings.context or min(32_768, layout.context_length),
        kv_type_k=settings.kv_type_k,
        kv_type_v=settings.kv_type_v,
    )
    rows = least.machines(layout, request)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return 0 if rows else 4
    print(
        f"{layout.name}, {layout.quantization or 'this file'}, {request.context:,} tokens, "
        f"KV cache {request.kv_type_k}/{request.kv_type_v}: the least of each GPU that holds all of it"
    )
    if not rows:
        print(f"No machine of up to {least.MOST_CARDS} equal GPUs holds it.")
        return 4
    table = [("", "Memory", "Left on the fullest", "Tokens/s, likely")]
    for row in rows:
        likely = "" if row.likely_low is None else f"{row.likely_low:.1f} to {row.likely_high:.1f}"
        table.append((
            f"{row.count}x {row.gpu}", units.format_memory(row.memory_bytes),
            units.format_memory(row.left_bytes), likely,
        ))  # fmt: skip
    print("\n".join(["", *plan_text.columns(table), "", least.NOTE]))
    return 0


def _choice_json(choice: recommendation.Choice) -> dict[str, object]:
    plan = choice.plan
    return {
        "quantization": choice.layout.quantization,
        "context": plan.context,
        "kv_type": choice.kv_type,
        "verdict": plan.verdict,
        "gpu_layers": plan.gpu_layers,
        "shortfall": plan.shortfall_bytes,
    }


def _lacking(
    choices: Sequence[recommendation.Choice], devices: Sequence[PlanDevice], host: PlanHost
) -> dict[tuple[str, int], int]:
    """Bytes that the fullest device lacks, by quantization and context, with the smallest KV cache."""
    return {
        (choice.layout.quantization, choice.plan.context): recommendation.missing_bytes(
            choice, devices, host
        )
        for choice in sorted(choices, key=lambda c: KV_TYPES.index(c.kv_type))
    }


def _table(choices: Sequence[recommendation.Choice], lacking: Mapping[tuple[str, int], int]) -> str:
    """Quantizations by contexts: the most precise KV cache that fits, or how many layers do."""
    layouts = {choice.layout.quantization: choice.layout for choice in choices}
    contexts = sorted({choice.plan.context for choice in choices})
    rows = [("", "GB", *(f"{context // 1024}K" for context in contexts))]
    for kind, layout in sorted(layouts.items(), key=lambda item: -item[1].size_bytes):
        cells = []
        for context in contexts:
            here = [
                c for c in choices
                if c.layout.quantization == kind and c.plan.context == context
            ]  # fmt: skip
            best = max(here, key=lambda c: c.rank) if here else None
            cells.append("" if best is None else _cell(best, lacking[kind, context]))
        rows.append((kind, f"{layout.size_bytes / 1e9:.1f}", *cells))
    lines = plan_text.columns(rows)
    note = (
        "f16, q8_0, q4_0: it fits with this KV cache. +n: GiB that the fullest device lacks at q4_0; "
        "it runs with a part in main memory. –: too large for that, too."
    )
    if any(cell.startswith("CPU") for row in rows for cell in row):
        note += " CPU: in main memory alone."
    return "\n".join([*lines, "", note])


def _cell(choice: recommendation.Choice, lacking: int) -> str:
    plan = choice.plan
    if plan.verdict is Verdict.TOO_LARGE:
        return "–"
    if plan.verdict is Verdict.PARTLY:
        return f"+{lacking / units.GIB:.1f}"
    return str(choice.kv_type) if plan.verdict is Verdict.FITS else f"CPU {choice.kv_type}"
