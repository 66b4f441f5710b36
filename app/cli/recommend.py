"""`recommend` and `hardware`: what of a model to take for a machine, and what machine for a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from app import units
from app.cli import machine
from app.plan import least, speed
from app.plan import recommend as recommendation
from app.plan import text as plan_text
from app.plan.model import PlanRequest, Verdict
from app.settings.model import Settings


def recommend(options: argparse.Namespace, settings: Settings) -> int:
    """Print the best choice and the matrix behind it; the exit code says whether anything fits."""
    layouts = machine.layouts(options.model)
    devices, host = machine.machine(options, settings)
    request = PlanRequest(any_order=not settings.device_order)
    choices = recommendation.matrix(layouts, request, devices, host)
    best = choices[0]
    fits = best.plan.verdict is not Verdict.TOO_LARGE
    relatives = []
    if best.plan.verdict in (Verdict.TOO_LARGE, Verdict.PARTLY):
        others = [a for a in machine.alternatives(options.model) if a.name != best.layout.name]
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
        for choice in relatives:
            print(f"{choice.layout.name}, the nearest relative: {recommendation.reason(choice)}")
        print(f"\n{_table(choices)}")
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


def _table(choices: Sequence[recommendation.Choice]) -> str:
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
            cells.append("" if best is None else _cell(best))
        rows.append((kind, f"{layout.size_bytes / 1e9:.1f}", *cells))
    lines = plan_text.columns(rows)
    note = (
        "f16, q8_0, q4_0: it fits with this KV cache. n/m: layers on devices, the rest on the CPU."
    )
    return "\n".join([*lines, "", f"{note} –: too large."])


def _cell(choice: recommendation.Choice) -> str:
    plan = choice.plan
    if plan.verdict is Verdict.TOO_LARGE:
        return "–"
    if plan.verdict is Verdict.PARTLY:
        return f"{plan.gpu_layers}/{plan.block_count + 1}"
    return str(choice.kv_type) if plan.verdict is Verdict.FITS else f"CPU {choice.kv_type}"
