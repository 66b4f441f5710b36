"""The options that say how a model is split, shared by the commands that load one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from app.errors import AppError, ErrorKind
from app.plan.model import LoadPlan
from app.service import AppService
from app.settings.model import Settings, SplitMode


def add_split_mode(command: argparse.ArgumentParser) -> None:
    """The option `--split-mode`."""
    command.add_argument(
        "--split-mode",
        choices=("layer", "tensor"),
        help="what is divided over the devices; tensor is experimental (default: as in the settings)",
    )


def with_split_mode(options: argparse.Namespace, settings: Settings) -> Settings:
    """The settings with `--split-mode` on top.

    Raises:
        AppError: Numbers of layers were given as well.
    """
    wanted = getattr(options, "split_mode", None)
    if wanted == "tensor":
        by_layers = [name for name in ("layers", "tensor_split", "gpu_layers")
                     if getattr(options, name, None) is not None]  # fmt: skip
        if by_layers:
            raise AppError(
                f"--split-mode tensor and --{by_layers[0].replace('_', '-')} contradict each other.",
                hint="Leave one of them out.",
                kind=ErrorKind.USAGE,
            )
        return settings.model_copy(update={"split_mode": SplitMode.TENSOR})
    if wanted == "layer" and settings.split_mode is SplitMode.TENSOR:
        return settings.model_copy(update={"split_mode": SplitMode.AUTOMATIC})
    return settings


def check_split(options: argparse.Namespace, plan: LoadPlan) -> None:
    """Make sure that tensors are split where that was asked for.

    Raises:
        AppError: The model or the devices do not allow it.
    """
    if getattr(options, "split_mode", None) == "tensor" and not plan.request.tensor_parallel:
        raise AppError(
            plan.note.removesuffix(" So layers are split."),
            hint="Use --split-mode layer.",
            kind=ErrorKind.USAGE,
        )


def take_split(options: argparse.Namespace, service: AppService, plan: LoadPlan) -> None:
    """Plan again with `--layers`, if they were given; what `--split-mode` asks for is checked.

    Raises:
        AppError: It does not suit the model or the devices.
    """
    check_split(options, plan)
    if options.layers:
        ids = [share.device.id for share in plan.devices]
        service.settings = split_by_hand(
            options.layers, service.settings, ids, plan.block_count + 1
        )
        service.planning.plan = service.planning.preview(service.settings)


def split_by_hand(
    text: str, settings: Settings, devices: Sequence[str], total_layers: int
) -> Settings:
    """Settings with `--layers` taken over.

    Raises:
        AppError: It is not a number of layers for each device, or they are more than there are.
    """
    if not devices:
        raise AppError(
            f"The split {text} has no devices to divide layers over: all are on the CPU.",
            hint="Leave --layers out; `ultra-launcher detect` says which devices can be used.",
            kind=ErrorKind.USAGE,
        )
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [-1]
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
