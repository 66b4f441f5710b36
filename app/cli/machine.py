"""The options that name a model and a machine, this one or one that a person thinks of."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import sys
from pathlib import Path

from app import paths, units
from app.catalog import entries, hub, names, repository, starter
from app.catalog.model import ModelEntry
from app.catalog.search import HubLookUps
from app.cli import where
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout, read_layout_from
from app.hardware import gpu_table
from app.hardware.detect import detect
from app.plan.devices import imagined_device, plan_devices
from app.plan.measured import MeasuredStore
from app.plan.model import PlanDevice, PlanHost
from app.settings.model import Settings

BACKENDS = ("cuda", "vulkan", "metal", "rpc", "cpu")
DEFAULT_RAM_GIB = 64.0
THIS = "this"
_FILE_LIKE = re.compile(r"[/\\]|\.gguf$", re.IGNORECASE)


def _gib(text: str) -> float:
    """A size in GiB: `64`, `64GB` or `64 GiB`."""
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*(?:g|gb|gib)?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no size in GiB such as 64")
    return float(match[1])


def add_model(command: argparse.ArgumentParser) -> None:
    """The MODEL argument."""
    command.add_argument(
        "model",
        help="a GGUF file (any shard of a split one), `starter`, hf:owner/repo:QUANT, "
        "hf:owner/repo/file.gguf, or a model of the catalog such as nemotron-ultra-253b:Q4_K_M "
        "(`models` lists them)",
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    """The options that name a machine other than this one."""
    command.add_argument(
        "--gpus",
        help="plan for these instead: 24,24,32,80 or '8x RTX 3090'; `this` is what this machine has, "
        "so that 'this, RTX 3090' adds a card to it",
    )
    command.add_argument(
        "--ram", type=_gib, help="main memory in GiB, with --gpus (default 64, or this machine's)"
    )
    command.add_argument(
        "--backend",
        choices=BACKENDS,
        help="whose rules hold for --gpus; without, use only this machine's devices of that backend",
    )
    command.add_argument(
        "--devices",
        metavar="NAME,NAME",
        help="use these devices alone, in this order, by the names that a plan shows (CUDA1,CUDA0)",
    )


def model_path(name: str) -> Path:
    """The file that a MODEL argument names.

    Raises:
        AppError: There is no such model, or it is not on this machine.
    """
    entry = catalog_entry(name)
    if name == "starter" or (entry is not None and entry.starter):
        return starter.ensure(paths.folders().models)
    if entry is not None or hub.is_address(name):
        return where.on_this_machine(name)
    no_file = not name or not Path(name).expanduser().exists()
    if no_file and (":" in name or not _FILE_LIKE.search(name)):
        close = difflib.get_close_matches(name.lower(), [e.id for e in entries.entries()], 3, 0.3)
        raise AppError(
            f"There is no model “{name}”.",
            hint=f"{f'Did you mean {close[0]}? ' if close else ''}"
            "Name a GGUF file, `starter`, hf:owner/repo/file.gguf, or one of "
            f"{', '.join(e.id for e in entries.entries())} with a quantization, such as "
            "nemotron-ultra-253b:Q4_K_M.",
            kind=ErrorKind.MODEL_FILE,
        )
    return Path(name).expanduser()


def layout(name: str) -> ModelLayout:
    """The layout of a MODEL argument.

    Raises:
        AppError: There is no such model, or it cannot be read.
    """
    if hub.is_address(name):
        return _on_hub(hub.parse(name))
    entry = catalog_entry(name)
    if entry is not None:
        return _known(entry, name.partition(":")[2])
    return starter.named(read_layout(model_path(name)))


def layouts(name: str) -> tuple[ModelLayout, ...]:
    """The layouts to choose among: all quantizations of a model of the catalog, else the one named."""
    entry = catalog_entry(name)
    known = entries.quantizations(entry) if entry is not None else ()
    if entry is None or not known or name.partition(":")[2]:
        return (layout(name),)
    return tuple(entries.layout(entry, kind) for kind in known)


def catalog_entry(name: str) -> ModelEntry | None:
    """The catalog's entry that a MODEL argument means; None for a file, an address, or `starter`."""
    if hub.is_address(name) or name == "starter" or Path(name).expanduser().exists():
        return None
    return entries.find(name)


def _on_hub(address: hub.Address) -> ModelLayout:
    """The layout of a file or quantization on the Hub, of which only headers are read."""
    if address.path:
        return read_layout_from(hub.open_files(address))
    look_ups = HubLookUps(paths.folders().cache)
    answer = look_ups.snapshot(address.repo, address.revision)
    if answer.notice:
        print(f"{answer.notice} Its list of files is old.", file=sys.stderr)
    return look_ups.layout(repository.choose(repository.file_sets(answer.value), address))


def _known(entry: ModelEntry, quantization: str) -> ModelLayout:
    """The layout of a model of the catalog: one that comes with the app, else one on the Hub."""
    kind = names.quantization(quantization)
    known = entries.quantizations(entry)
    here = kind in known or (known and not quantization)
    if here or not entry.repositories or (quantization and not kind):
        return entries.layout(entry, quantization)
    errors = []
    for address in entries.addresses(entry, kind):
        try:
            return _on_hub(address)
        except AppError as error:
            errors.append(error)
    raise errors[0]


def machine(
    options: argparse.Namespace, settings: Settings
) -> tuple[tuple[PlanDevice, ...], PlanHost]:
    """Devices and main memory that the options name.

    Raises:
        AppError: A GPU or a device is not known, or the memory is not possible.
    """
    if options.gpus is None:
        if options.ram is not None:
            raise AppError(
                "--ram goes with --gpus.",
                hint="For this machine it is found out; leave it out, or write --gpus this.",
                kind=ErrorKind.USAGE,
            )
        devices, host = _detected(settings)
        if options.backend is not None:
            devices = _of_backend(devices, options.backend)
    else:
        devices, host = _imagined(options, settings)
    if options.devices is not None:
        devices = _chosen(devices, options.devices)
    return devices, host


def _detected(settings: Settings) -> tuple[tuple[PlanDevice, ...], PlanHost]:
    """This machine."""
    report = detect(model_folder=paths.folders().models, rpc_servers=settings.rpc_servers)
    devices = plan_devices(
        report,
        order=settings.device_order,
        disabled=settings.disabled_devices,
        learned=MeasuredStore(paths.folders().data / "measured.json").reserves(),
    )
    for notice in report.notices:
        print(f"{notice.title} {notice.hint}".strip(), file=sys.stderr)
    memory = report.memory
    return devices, PlanHost(total_bytes=memory.total_bytes, available_bytes=memory.available_bytes)


def _of_backend(devices: tuple[PlanDevice, ...], backend: str) -> tuple[PlanDevice, ...]:
    found = tuple(device for device in devices if device.backend == backend)
    if not found and backend != "cpu":
        here = ", ".join(sorted({device.backend for device in devices})) or "the CPU alone"
        raise AppError(
            f"This machine has no device that the engine uses through {backend}.",
            detail=f"What there is: {here}.",
            hint="Leave --backend out, or name cards that you think of with --gpus.",
            kind=ErrorKind.USAGE,
        )
    return found


def _chosen(devices: tuple[PlanDevice, ...], names: str) -> tuple[PlanDevice, ...]:
    """The named devices in the order of the names."""
    known = {device.engine_name.lower(): device for device in devices}
    known |= {device.label.lower(): device for device in devices}
    wanted = [name.strip().lower() for name in names.split(",")]
    chosen = [known[name] for name in wanted if name in known]
    if len(chosen) < len(wanted) or len({device.id for device in chosen}) < len(wanted):
        raise AppError(
            f"“{names}” does not name devices of the machine, each once.",
            hint=f"There are {', '.join(f'{d.engine_name} ({d.label})' for d in devices) or 'none'}.",
            kind=ErrorKind.USAGE,
        )
    return tuple(chosen)


def _imagined(
    options: argparse.Namespace, settings: Settings
) -> tuple[tuple[PlanDevice, ...], PlanHost]:
    """A machine of GPUs by name or size, this one's among them where `this` is written."""
    parts = [part.strip() for part in options.gpus.split(",")]
    here: tuple[PlanDevice, ...] = ()
    host: PlanHost | None = None
    if sum(part.lower() == THIS for part in parts) > 1:
        raise AppError(
            "--gpus names this machine twice.", hint="Write `this` once.", kind=ErrorKind.USAGE
        )
    if any(part.lower() == THIS for part in parts):
        here, host = _detected(settings)
        parts = [part for part in parts if part.lower() != THIS]
    if options.ram is not None or host is None:
        size = round((DEFAULT_RAM_GIB if options.ram is None else options.ram) * units.GIB)
        if not 0 < size <= 2**50:
            raise AppError(
                f"{options.ram} GiB of main memory is not possible.",
                hint="Name a size such as --ram 128.",
                kind=ErrorKind.USAGE,
            )
        host = PlanHost(total_bytes=size, available_bytes=size)
    added = gpu_table.parse(", ".join(parts)) if parts else ()
    if options.backend == "cpu":
        print(
            "With --backend cpu all runs in main memory; the GPUs count for nothing.",
            file=sys.stderr,
        )
        return (), host
    devices = list(here)
    for gpu in added:
        backend = options.backend or gpu_table.backend(gpu)
        taken = sum(device.backend == backend for device in devices)
        devices.append(imagined_device(gpu, len(devices), backend=backend, index=taken))
    return tuple(devices), host


def assumed_memory(options: argparse.Namespace) -> str:
    """What main memory an imagined machine counts with where nobody named it, a sentence."""
    parts = [part.strip().lower() for part in (options.gpus or THIS).split(",")]
    if options.ram is not None or THIS in parts:
        return ""
    return f"Main memory is taken to be {DEFAULT_RAM_GIB:g} GiB; --ram names another size."


def alternatives(name: str) -> tuple[ModelLayout, ...]:
    """Other quantizations of a model of the catalog, and those of smaller relatives, the nearest first."""
    entry = catalog_entry(name)
    if entry is None:
        return ()
    same = [entries.layout(entry, kind) for kind in entries.quantizations(entry)]
    if not same:
        return ()
    others = (sorted(kinds, key=lambda a: -a.size_bytes) for kinds in relatives(same[0]))
    return (*same, *itertools.chain.from_iterable(others))


def relatives(layout: ModelLayout) -> list[tuple[ModelLayout, ...]]:
    """Smaller models in all their quantizations, the nearest first, the starter model last."""
    entry = entries.find(layout.name)
    found = entries.smaller(entry) if entry else entries.smaller_than(layout.parameter_count)
    starters = tuple(other for other in entries.entries() if other.starter and other is not entry)
    return [
        tuple(entries.layout(other, kind) for kind in kinds)
        for other in (*found, *starters)
        if (kinds := entries.quantizations(other))
    ]
