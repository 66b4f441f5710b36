"""The options that name a model and a machine, this one or one that a person thinks of."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from app import paths, units
from app.catalog import entries, hub, names, repository, starter
from app.catalog.model import ModelEntry
from app.catalog.search import HubLookUps
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout, read_layout_from
from app.hardware import gpu_table
from app.hardware.detect import detect
from app.plan.measured import MeasuredStore
from app.plan.model import PlanDevice, PlanHost
from app.plan.planner import plan_devices
from app.settings.model import Settings

BACKENDS = ("cuda", "vulkan", "metal", "rpc", "cpu")
DEFAULT_RAM_GIB = 64.0
_ENGINE_NAMES = {"cuda": "CUDA", "vulkan": "Vulkan", "metal": "MTL", "rpc": "RPC"}


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
    command.add_argument("--gpus", help="plan for these instead: 24,24,32,80 or '8x RTX 3090'")
    command.add_argument("--ram", type=float, help="main memory in GiB, with --gpus (default 64)")
    command.add_argument("--backend", choices=BACKENDS, help="whose rules hold, with --gpus")


def model_path(name: str) -> Path:
    """The file that a MODEL argument names."""
    if name == "starter":
        return starter.ensure(paths.folders().models)
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
    if ":" in name and not Path(name).expanduser().exists():
        raise AppError(
            f"There is no model “{name}”.",
            hint="Name a GGUF file, `starter`, hf:owner/repo/file.gguf, or one of "
            f"{', '.join(e.id for e in entries.entries())} with a quantization, such as "
            "nemotron-ultra-253b:Q4_K_M.",
            kind=ErrorKind.MODEL_FILE,
        )
    return starter.named(read_layout(model_path(name)))


def layouts(name: str) -> tuple[ModelLayout, ...]:
    """The layouts to choose among: all quantizations of a model of the catalog, else the one named."""
    entry = catalog_entry(name)
    known = entries.quantizations(entry) if entry is not None else ()
    if entry is None or not known:
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
    """Devices and main memory that the options name."""
    if options.gpus is not None:
        return imagined(options.gpus, options.ram, options.backend or "cuda")
    for name in ("ram", "backend"):
        if getattr(options, name) is not None:
            raise AppError(
                f"--{name} goes with --gpus.",
                hint="For this machine it is found out; leave it out.",
                kind=ErrorKind.USAGE,
            )
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


def imagined(gpus: str, ram: float | None, backend: str) -> tuple[tuple[PlanDevice, ...], PlanHost]:
    """A machine of GPUs by name or size, and main memory in GiB.

    Raises:
        AppError: A GPU is not known, or the memory is not possible.
    """
    size = round((DEFAULT_RAM_GIB if ram is None else ram) * units.GIB)
    if not 0 < size <= 2**50:
        raise AppError(
            f"{ram} GiB of main memory is not possible.",
            hint="Name a size such as --ram 128.",
            kind=ErrorKind.USAGE,
        )
    found = gpu_table.parse(gpus)
    host = PlanHost(total_bytes=size, available_bytes=size)
    if backend == "cpu":
        return (), host
    return tuple(imagined_device(gpu, index, backend) for index, gpu in enumerate(found)), host


def imagined_device(gpu: gpu_table.Gpu, index: int, backend: str) -> PlanDevice:
    """A GPU that nobody else uses."""
    return PlanDevice(
        id=f"gpu-{index}",
        label=f"GPU {index}",
        name=gpu.name,
        engine_name=f"{_ENGINE_NAMES.get(backend, 'CUDA')}{index}",
        backend=backend,
        total_bytes=gpu.memory_bytes,
        free_bytes=gpu.memory_bytes,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        prompt_flops_per_s=gpu.prompt_flops_per_s,
    )


def alternatives(name: str) -> tuple[ModelLayout, ...]:
    """Other quantizations of a model of the catalog, and its smaller relatives at Q4_K_M, the nearest first."""
    entry = catalog_entry(name)
    if entry is None:
        return ()
    same = [entries.layout(entry, kind) for kind in entries.quantizations(entry)]
    related = [entries.find(relation.model) for relation in entry.relations]
    others = [
        entries.layout(other)
        for other in related
        if other is not None
        and other.parameters.value < entry.parameters.value
        and entries.quantizations(other)
    ]
    return (*same, *sorted(others, key=lambda other: -other.parameter_count))
