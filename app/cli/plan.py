"""`plan`: what of a model would run where, on this machine or on one that a person thinks of."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app import paths, units
from app.catalog import hub, starter
from app.engine.once import load_once
from app.errors import AppError, ErrorKind
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout, read_layout_from
from app.gguf.remote import Kept, write_stand_in
from app.hardware import gpu_table
from app.hardware.detect import detect
from app.plan import recommend as recommendation
from app.plan import speed
from app.plan import text as plan_text
from app.plan.model import (
    FlashAttention,
    KvCacheType,
    LoadPlan,
    PlanDevice,
    PlanHost,
    PlanRequest,
    Verdict,
)
from app.plan.planner import confirmed, make_plan, plan_devices
from app.settings.model import Settings, SplitMode
from app.settings.requests import load_command, make_request

BACKENDS = ("cuda", "vulkan", "metal", "rpc", "cpu")
_ENGINE_NAMES = {"cuda": "CUDA", "vulkan": "Vulkan", "metal": "MTL", "rpc": "RPC"}
DEFAULT_RAM_GIB = 64.0


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `plan`, beside those it shares with `chat`."""
    names = ", ".join(bundled.names())
    command.add_argument(
        "model",
        help="a GGUF file, any shard of a split one, `starter`, one on the Hub of which only the "
        "header is read, such as hf:owner/repo/file.gguf[@revision], or a known model such as "
        f"nemotron-ultra-253b:Q4_K_M (known: {names})",
    )
    add_machine(command)
    command.add_argument("--micro-batch", type=int, help="tokens computed at once (default 512)")
    command.add_argument("--flash-attention", choices=[str(f) for f in FlashAttention])
    command.add_argument("--gpu-layers", type=int, help="layers on devices, the output included")
    command.add_argument(
        "--tensor-split", metavar="N,N", dest="layers", help="layers per device, by hand"
    )
    command.add_argument("--reserve", type=float, help="GiB to keep free on each device")
    command.add_argument(
        "--confirm",
        action="store_true",
        help="let llama.cpp itself say what each device would hold; nothing is loaded",
    )
    command.add_argument(
        "--force", action="store_true", help="take what was fixed by hand as it is"
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    """The options that name a machine other than this one."""
    command.add_argument("--gpus", help="plan for these instead: 24,24,32,80 or '8x RTX 3090'")
    command.add_argument("--ram", type=float, help="main memory in GiB, with --gpus (default 64)")
    command.add_argument("--backend", choices=BACKENDS, help="whose rules hold, with --gpus")


def model_path(name: str) -> Path:
    """The file that a MODEL argument names."""
    if name == "starter":
        return starter.ensure(paths.folders().models)
    return Path(name).expanduser()


def plan(options: argparse.Namespace, settings: Settings) -> int:
    """Print the plan; the exit code says whether it fits."""
    sources = _sources(options.model)
    layout = read_layout_from(sources) if sources else _layout(options.model)
    devices, host, bandwidths = _machine(options, settings)
    if options.layers:
        ids = [device.id for device in devices]
        total = layout.block_count + 1
        settings = split_by_hand(options.layers, settings, ids, total)
    request = _request(options, make_request(settings, layout, devices), devices)
    made = make_plan(layout, request, devices, host)
    if options.confirm:
        made = _confirm(options, made, layout, settings, sources)
    rate = speed.estimate(made, lambda device: bandwidths.get(device.id))
    if options.json:
        print(json.dumps(plan_text.to_json(made, rate), indent=1))
    else:
        print(f"{layout.name}\n{plan_text.describe(made, str(layout.files[0]), rate)}")
    return 0 if made.fits or request.force else 4


def _confirm(
    options: argparse.Namespace,
    made: LoadPlan,
    layout: ModelLayout,
    settings: Settings,
    sources: Sequence[Kept],
) -> LoadPlan:
    """The plan with the figures of a dry run on the real devices."""
    if options.gpus is not None or not (sources or layout.files[0].is_file()):
        raise AppError(
            "Only a model file on this machine's own devices can be confirmed.",
            hint="Leave --confirm out, or name a GGUF file and leave --gpus out.",
            kind=ErrorKind.USAGE,
        )
    if not sources:
        return _dry_run(made, layout, settings)
    cache = paths.folders().cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="stand-in-", dir=cache) as folder:
            files = tuple(Path(folder) / Path(source.name).name for source in sources)
            for source, file in zip(sources, files, strict=True):
                write_stand_in(source, file)
            return _dry_run(made, dataclasses.replace(layout, files=files), settings)
    except OSError as error:
        raise AppError(
            f"The folder {cache} cannot be written to.",
            detail=f"{error.strerror or error}.",
            hint="Change its permissions, or move the app's folders with ULTRA_LAUNCHER_HOME.",
            kind=ErrorKind.DISK,
        ) from error


def _dry_run(made: LoadPlan, layout: ModelLayout, settings: Settings) -> LoadPlan:
    command = load_command(made, layout, settings, None).model_copy(
        update={
            "dry_run": True,
            "rpc_servers": settings.rpc_servers
            if any(share.device.backend == "rpc" for share in made.devices)
            else (),
        }
    )
    loaded = load_once(command, paths.folders().data)
    found = {m.device: (m.weights_bytes, m.kv_cache_bytes, m.compute_bytes) for m in loaded.memory}
    return confirmed(made, found)


def recommend(options: argparse.Namespace, settings: Settings) -> int:
    """Print the best choice and the matrix behind it; the exit code says whether anything fits."""
    if bundled.is_name(options.model) and not Path(options.model).exists():
        name = options.model.partition(":")[0].lower()
        layouts = [bundled.layout(f"{name}:{kind}") for kind in bundled.quantizations(name)]
    else:
        layouts = [_layout(options.model)]
    devices, host, bandwidths = _machine(options, settings)
    request = PlanRequest(any_order=not settings.device_order)
    choices = recommendation.matrix(layouts, request, devices, host)
    best = choices[0]
    rate = speed.estimate(best.plan, lambda device: bandwidths.get(device.id))
    fits = best.plan.verdict is not Verdict.TOO_LARGE
    if options.json:
        print(json.dumps({
            "reason": recommendation.reason(best),
            "best": plan_text.to_json(best.plan, rate) if fits else None,
            "matrix": [_choice_json(choice) for choice in choices],
        }, indent=1))  # fmt: skip
    else:
        print(f"{best.layout.name}\n{recommendation.reason(best)}")
        print(f"Speed: {rate}." if rate else "", end="\n\n" if rate else "\n")
        print(_table(choices))
    return 0 if fits else 4


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
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
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


def _sources(name: str) -> tuple[Kept, ...]:
    """The files on the Hub that a MODEL argument names; none if it is a local one."""
    if not hub.is_address(name):
        return ()
    return tuple(Kept(file) for file in hub.open_files(hub.parse(name)))


def _layout(name: str) -> ModelLayout:
    if sources := _sources(name):
        return read_layout_from(sources)
    if bundled.is_name(name) and not Path(name).exists():
        return bundled.layout(name)
    if ":" in name and not Path(name).expanduser().exists():
        raise AppError(
            f"There is no model “{name}”.",
            hint="Name a GGUF file, `starter`, hf:owner/repo/file.gguf, or one of "
            f"{', '.join(bundled.names())} with a quantization, such as nemotron-ultra-253b:Q4_K_M.",
            kind=ErrorKind.MODEL_FILE,
        )
    return starter.named(read_layout(model_path(name)))


def _machine(
    options: argparse.Namespace, settings: Settings
) -> tuple[tuple[PlanDevice, ...], PlanHost, dict[str, float | None]]:
    """Devices, main memory, and each device's bandwidth in bytes/s."""
    if options.gpus is not None:
        ram = round((DEFAULT_RAM_GIB if options.ram is None else options.ram) * units.GIB)
        if not 0 < ram <= 2**50:
            raise AppError(
                f"{options.ram} GiB of main memory is not possible.",
                hint="Name a size such as --ram 128.",
                kind=ErrorKind.USAGE,
            )
        gpus = gpu_table.parse(options.gpus)
        backend = options.backend or "cuda"
        made = tuple(_imagined(gpu, index, backend) for index, gpu in enumerate(gpus))
        rates = {d.id: gpu.bandwidth_bytes_per_s for d, gpu in zip(made, gpus, strict=True)}
        host = PlanHost(total_bytes=ram, available_bytes=ram)
        return (() if backend == "cpu" else made), host, rates
    for name in ("ram", "backend"):
        if getattr(options, name) is not None:
            raise AppError(
                f"--{name} goes with --gpus.",
                hint="For this machine it is found out; leave it out.",
                kind=ErrorKind.USAGE,
            )
    report = detect(model_folder=paths.folders().models, rpc_servers=settings.rpc_servers)
    devices = plan_devices(report, order=settings.device_order, disabled=settings.disabled_devices)
    for notice in report.notices:
        print(f"{notice.title} {notice.hint}".strip(), file=sys.stderr)
    memory = report.memory
    host = PlanHost(total_bytes=memory.total_bytes, available_bytes=memory.available_bytes)
    return devices, host, {device.id: gpu_table.bandwidth(device.name) for device in devices}


def _imagined(gpu: gpu_table.Gpu, index: int, backend: str) -> PlanDevice:
    return PlanDevice(
        id=f"gpu-{index}",
        label=f"GPU {index}",
        name=gpu.name,
        engine_name=f"{_ENGINE_NAMES.get(backend, 'CUDA')}{index}",
        backend=backend,
        total_bytes=gpu.memory_bytes,
        free_bytes=gpu.memory_bytes,
    )


def _request(
    options: argparse.Namespace, request: PlanRequest, devices: Sequence[PlanDevice]
) -> PlanRequest:
    """The request with the options on top."""
    changes: dict[str, object] = {"force": options.force}
    if options.micro_batch is not None:
        if not 1 <= options.micro_batch <= 65_536:
            raise AppError(
                f"A micro-batch of {options.micro_batch} tokens is not possible.",
                hint="Choose between 1 and 65,536; 512 is usual.",
                kind=ErrorKind.USAGE,
            )
        changes["micro_batch"] = options.micro_batch
        changes["batch"] = max(request.batch, options.micro_batch)
    if options.flash_attention is not None:
        changes["flash_attention"] = FlashAttention(options.flash_attention)
    if options.gpu_layers is not None:
        changes["gpu_layers"] = None if options.gpu_layers < 0 else options.gpu_layers
    if options.reserve is not None:
        if not 0 <= options.reserve <= 1024:
            raise AppError(
                f"A reserve of {options.reserve} GiB is not possible.",
                hint="Choose a size such as --reserve 1.",
                kind=ErrorKind.USAGE,
            )
        size = round(options.reserve * units.GIB)
        changes["reserves"] = {device.id: size for device in devices}
    changed = dataclasses.replace(request, **changes)  # type: ignore[arg-type]
    quantized_v = changed.kv_type_v is not KvCacheType.F16
    if quantized_v and changed.flash_attention is FlashAttention.OFF:
        raise AppError(
            f"A V cache of {changed.kv_type_v} needs flash attention.",
            hint="Leave --flash-attention off out, or choose --kv-type-v f16.",
            kind=ErrorKind.USAGE,
        )
    return changed


def split_by_hand(
    text: str, settings: Settings, devices: Sequence[str], total_layers: int
) -> Settings:
    """Settings with `--layers` taken over.

    Raises:
        AppError: It is not a number of layers for each device, or they are more than there are.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if len(counts) != len(devices) or any(count < 0 for count in counts):
        raise AppError(
            f"The split {text} is not a number of layers for each of {len(devices)} devices.",
            hint="Name as many numbers as there are devices, in their order.",
            kind=ErrorKind.USAGE,
        )
    if not 0 < sum(counts) <= total_layers:
        raise AppError(
            f"The split {text} places {sum(counts)} layers; the model has {total_layers}, "
            "the output included.",
            hint=f"Choose numbers that sum up to {total_layers}, or to fewer with the rest on the CPU.",
            kind=ErrorKind.USAGE,
        )
    layers = dict(zip(devices, counts, strict=True))
    return settings.model_copy(update={"split_mode": SplitMode.MANUAL, "layers": layers})
