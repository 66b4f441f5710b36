"""A plan as text for a terminal and as JSON for programs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from app import units
from app.plan.model import Basis, DevicePlan, HostPlan, LoadPlan, Objective, Verdict
from app.plan.speed import Speed

VERDICT_WORDS = {
    Verdict.FITS: "Runs on this machine:",
    Verdict.CPU_ONLY: "Runs on this machine:",
    Verdict.PARTLY: "Runs partly in main memory:",
    Verdict.TOO_LARGE: "Does not fit:",
}


DEFAULT_BATCH = 2048
BASES = {
    Basis.COMPUTED: "Computed by llama.cpp's own rules, layer by layer.",
    Basis.ESTIMATED: "This architecture is not known here: the numbers are estimates.",
    Basis.CONFIRMED: "Confirmed: the numbers are llama.cpp's own, from a dry run.",
}


def basis(plan: LoadPlan) -> str:
    """How far its numbers can be trusted, a sentence."""
    if plan.request.tensor_parallel:
        return "Each device's share is an estimate."
    return BASES[plan.basis]


def layer_range(plan: LoadPlan, share: DevicePlan) -> str:
    """`0–31`, `152–161 + output`, `25 % of all`, or a dash."""
    if plan.request.tensor_parallel and share.layer_count:
        part = plan.tensor_split[plan.devices.index(share)] / sum(plan.tensor_split)
        return f"{units.format_percent(part)} of all"
    if share.first_layer is None or share.last_layer is None:
        return "–"
    last = min(share.last_layer, plan.block_count - 1)
    if share.first_layer == plan.block_count:
        return "output"
    shown = f"{share.first_layer}–{last}" if last > share.first_layer else f"{last}"
    return f"{shown} + output" if share.holds_output else shown


def split_words(plan: LoadPlan) -> str:
    """Where the layers are, in one line: `GPU 0: 20, GPU 1: 11`."""
    parts = split_of(plan)
    used = [share for share in plan.devices if share.used]
    if plan.request.tensor_parallel:
        shares = [units.format_percent(part / sum(parts)) for part in parts]
        return ", ".join(f"{s.device.label}: {p}" for s, p in zip(used, shares, strict=True))
    places = [f"{share.device.label}: {share.layer_count}" for share in used]
    if plan.host.layer_count:
        places.append(f"CPU: {plan.host.layer_count}")
    return ", ".join(places)


def fullest(plan: LoadPlan) -> str:
    """What the fullest device takes, with its share: `GPU 2 20.1 GiB (84 %)`."""
    used = [share for share in plan.devices if share.used and share.device.total_bytes]
    if not used:
        return f"CPU {units.format_memory(plan.host.model_bytes)}"
    most = max(used, key=lambda share: share.model_bytes / share.device.total_bytes)
    part = units.format_percent(most.model_bytes / most.device.total_bytes)
    return f"{most.device.label} {units.format_memory(most.model_bytes)} ({part})"


def idle(plan: LoadPlan) -> str:
    """That devices hold nothing though all layers are on devices, a sentence; empty if none does."""
    spare = [share.device.label for share in plan.devices if not share.used]
    searched = plan.request.objective is Objective.BALANCED and not plan.request.by_hand
    if not spare or not searched or plan.verdict is not Verdict.FITS:
        return ""
    words = spare[0] if len(spare) == 1 else f"{', '.join(spare[:-1])} and {spare[-1]}"
    hold, them = ("holds", "it") if len(spare) == 1 else ("hold", "them")
    return (
        f"{words} {hold} nothing: with layers on {them} the fullest device would be no less full."
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def speed_lines(rate: Speed) -> list[str]:
    """What is known of the speed, a line each."""
    lines = []
    if rate.generation:
        lines.append(f"Generation: {rate.generation}, with the context full.")
    if rate.empty_context:
        lines.append(f"In an empty context: {rate.empty_context}.")
    if rate.prompt:
        lines.append(f"Prompt processing: {rate.prompt}.")
    if rate.whole:
        lines.append(f"With all layers on devices it would be {rate.whole}.")
    if rate.assumed_host:
        lines.append("Main memory counts with 51 GB/s (two channels of DDR4-3200).")
    lines += [f"{words[0].upper()}{words[1:]}." for words in rate.sources]
    return lines


def describe(
    plan: LoadPlan, model_path: str, rate: Speed | None = None, *, where: str = "this machine"
) -> str:
    """The verdict, a table per device, and the equal llama-server command line."""
    rows: list[tuple[str, ...]] = [
        ("", "Layers", "Weights", "KV cache", "Compute", "Reserve", "Total", "Left")
    ]
    memory = units.format_memory
    rows += [
        (f"{s.device.label}  {s.device.name}".rstrip(), layer_range(plan, s), *_numbers(s))
        for s in plan.devices
    ]
    host = plan.host
    layers = f"{host.layer_count} of {plan.block_count + 1}" if host.layer_count else "input"
    rows.append(("Main memory", layers, *_numbers(host)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    words = VERDICT_WORDS[plan.verdict].replace("this machine", where)
    if plan.verdict is Verdict.CPU_ONLY and plan.devices:
        words = f"Nothing of it fits on {where}, but in main memory:"
    helps = [str(r) for r in plan.remedies] or [plan.hint] * bool(plan.hint)
    lines = [
        f"{words} {plan.sentence}",
        *([plan.note] * bool(plan.note)),
        *plan.warnings,
        *(["What would help:", *(f"  {line}" for line in helps)] if helps else []),
        "",
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    if plan.verdict.on_host:
        mapped = memory(host.weights_bytes)
        lines += ["", f"{mapped} of main memory are mapped from the file, not copied."]
    most = f"Up to {plan.max_context:,} tokens fit like this."
    if not plan.max_context:
        most = "No context fits."
    lines += ["", f"{most} KV cache in all: {memory(_kv(plan))}."]
    lines += [idle(plan)] * bool(idle(plan))
    lines += [
        f"Apart from its layer: {o.tensor} ({memory(o.size_bytes)}) on {o.device}. {o.reason}".rstrip()
        for o in plan.tensor_overrides
    ]
    lines += speed_lines(rate) if rate else []
    unknown = [
        s.device.label for s in plan.devices if s.used and not s.device.bandwidth_bytes_per_s
    ]
    if rate and plan.runs and unknown:
        lines.append(
            f"No speed: the bandwidth of {unknown[0]} is not known; name the card to have one."
        )
    lines += [basis(plan), ""]
    server = "The same with llama.cpp's own server"
    server += ":" if plan.runs else ", which would run out of memory:"
    return "\n".join([*lines, server, f"  {command_line(plan, model_path)}"])


def _kv(plan: LoadPlan) -> int:
    return plan.host.kv_cache_bytes + sum(share.kv_cache_bytes for share in plan.devices)


def _numbers(share: DevicePlan | HostPlan) -> tuple[str, ...]:
    sizes = (
        share.weights_bytes,
        share.kv_cache_bytes,
        share.compute_bytes,
        share.reserve_bytes,
        share.model_bytes,
        share.left_bytes,
    )
    return tuple(units.format_memory(size) for size in sizes)


def command_line(plan: LoadPlan, model_path: str) -> str:
    """The llama-server command line that places the model equally."""
    parts = [
        "llama-server",
        "-m",
        model_path,
        "-c",
        str(plan.context),
        "-ngl",
        str(plan.gpu_layers),
    ]
    request = plan.request
    parts += ["-ctk", request.kv_type_k, "-ctv", request.kv_type_v, "-ub", str(request.micro_batch)]
    if request.batch != DEFAULT_BATCH:
        parts += ["-b", str(request.batch)]
    used = [share for share in plan.devices if share.used]
    if used:
        parts += ["-dev", ",".join(share.device.engine_name for share in used)]
        parts += ["-ts", ",".join(str(n) for n in split_of(plan))]
    if request.tensor_parallel:
        parts += ["-sm", "tensor"]
    for override in plan.tensor_overrides:
        parts += ["-ot", f"{override.pattern}={override.device}"]
    if plan.host.layer_count or plan.tensor_overrides:
        parts.append("--no-op-offload")
    # One conversation at a time, as here; more would share the context.
    flash_attention = "on" if request.tensor_parallel else request.flash_attention
    parts += ["-np", "1", "-fa", flash_attention, "--fit", "off"]
    return shlex.join(parts)


def split_of(plan: LoadPlan) -> tuple[int, ...]:
    """llama.cpp's `--tensor-split` for the devices that are used."""
    pairs = zip(plan.devices, plan.tensor_split, strict=True)
    if plan.request.tensor_parallel:
        return tuple(part for share, part in pairs if share.used)
    return tuple(share.layer_count for share, _ in pairs if share.used)


def to_json(plan: LoadPlan, rate: Speed | None = None) -> dict[str, object]:
    """The plan in bytes, the speed in tokens/s; devices in device order."""
    return {
        "verdict": plan.verdict,
        "sentence": plan.sentence,
        "hint": plan.hint,
        "fits": plan.fits,
        "runs": plan.runs,
        "context": plan.context,
        "max_context": plan.max_context,
        "gpu_layers": plan.gpu_layers,
        "split_mode": "tensor" if plan.request.tensor_parallel else "layer",
        "tensor_split": list(plan.tensor_split),
        "tensor_overrides": [
            {"tensor": o.tensor, "device": o.device, "bytes": o.size_bytes, "reason": o.reason}
            for o in plan.tensor_overrides
        ],
        "remedies": [str(remedy) for remedy in plan.remedies],
        "device_order": [share.device.engine_name for share in plan.devices],
        "bottleneck": plan.bottleneck,
        "shortfall": plan.shortfall_bytes or plan.missing_bytes,
        "missing_on": plan.missing_on,
        "missing_devices": plan.missing_devices,
        "missing_total": plan.missing_total_bytes,
        "warnings": list(plan.warnings),
        "measured": plan.note,
        "speed": dataclasses.asdict(rate) if rate else None,
        "basis": plan.basis,
        "devices": [_share_json(share) for share in plan.devices],
        "host": {
            "name": "CPU",
            "budget": plan.host.host.available_bytes,
            "layers": plan.host.layer_count,
            "first_layer": 0 if plan.host.layer_count else None,
            "last_layer": plan.host.layer_count - 1 if plan.host.layer_count else None,
            "mapped": plan.host.weights_bytes,
            **_bytes(plan.host),
        },
    }


def _bytes(share: DevicePlan | HostPlan) -> dict[str, object]:
    return {
        "weights": share.weights_bytes,
        "kv_cache": share.kv_cache_bytes,
        "compute": share.compute_bytes,
        "reserve": share.reserve_bytes,
        "total": share.model_bytes,
    }


def _share_json(share: DevicePlan) -> dict[str, object]:
    return {
        "name": share.device.engine_name,
        "label": share.device.label,
        "id": share.device.id,
        "budget": share.device.free_bytes,
        "layers": share.layer_count,
        "first_layer": share.first_layer,
        "last_layer": share.last_layer,
        **_bytes(share),
    }
