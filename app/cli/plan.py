"""`plan`: what of a model would run where, on this machine or on one that a person thinks of."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from app import paths, units
from app.cli import machine
from app.cli.split import split_by_hand
from app.engine.once import dry_run
from app.engine.safety import engine_version
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.plan import placement, speed
from app.plan import text as plan_text
from app.plan.model import FlashAttention, LoadPlan, Objective, PlanDevice, PlanRequest
from app.plan.planner import make_plan
from app.plan.remedies import with_remedies
from app.plan.tuned import TunedStore, tuned_plan
from app.plan.verdicts import confirmed
from app.service.loading import check_confirmable
from app.settings.model import Settings, SplitMode
from app.settings.requests import load_command, make_request

IMAGINED_NOTE = (
    "In the dry run, RPC devices on this machine's CPU took the place of these GPUs: their "
    "alignment and compute buffers are the CPU's, and a GPU's own can differ a little."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `plan`, beside those it shares with `chat`."""
    machine.add_model(command)
    machine.add_machine(command)
    command.add_argument("--micro-batch", type=int, help="tokens computed at once (default 512)")
    command.add_argument("--flash-attention", choices=[str(f) for f in FlashAttention])
    command.add_argument("--gpu-layers", type=int, help="layers on devices, the output included")
    command.add_argument(
        "--tensor-split",
        metavar="N,N",
        help="share of the layers for each device, as llama.cpp cuts them; layer counts are exact",
    )
    command.add_argument(
        "--objective",
        choices=[str(objective) for objective in Objective],
        help="what the split is best at (default balanced: most room left on the fullest of the devices used)",
    )
    command.add_argument(
        "--reserve",
        metavar="GIB[,GIB]",
        help="GiB to keep free on each device, or one number for each in their order",
    )
    command.add_argument(
        "--confirm",
        action="store_true",
        help="let llama.cpp itself say what each device would hold; nothing is loaded",
    )
    command.add_argument(
        "--force", action="store_true", help="take what was fixed by hand as it is"
    )


def plan(options: argparse.Namespace, settings: Settings) -> int:
    """Print the plan; the exit code says whether it fits."""
    layout = machine.layout(options.model)
    devices, host = machine.machine(options, settings)
    if options.gpus is not None:
        # What was fixed by hand here means nothing there.
        mode = SplitMode.TENSOR if options.split_mode == "tensor" else SplitMode.AUTOMATIC
        settings = settings.model_copy(update={"split_mode": mode, "device_order": ()})
    _check(options)
    if options.tensor_split:
        options.layers = _cut(options, layout, len(devices))
    if options.layers:
        ids = [device.id for device in devices]
        total = layout.block_count + 1
        settings = split_by_hand(options.layers, settings, ids, total)
    request = _request(options, make_request(settings, layout, devices), devices)
    if options.split_mode == "tensor":
        request = dataclasses.replace(request, tensor_parallel=True)
    made = None
    if options.gpus is None:
        store = TunedStore(paths.folders().data / "tuned.json", engine_version())
        made = tuned_plan(store, layout, request, devices, host)
    made = made or make_plan(layout, request, devices, host)
    made = with_remedies(made, layout, devices, host, machine.alternatives(options.model))
    note = ""
    if options.confirm:
        check_confirmable(made, loaded=False)
        imagined = options.gpus is not None
        made = _confirm(made, layout, settings, imagined=imagined)
        note = IMAGINED_NOTE if imagined and made.gpu_layers else ""
    rate = speed.estimate(made, layout)
    if options.json:
        print(json.dumps(plan_text.to_json(made, rate) | {"note": note}, indent=1))
    else:
        where = "this machine"
        if options.gpus is not None:
            where = "these GPUs" if devices else "such a machine"
        text = plan_text.describe(made, str(layout.files[0]), rate, where=where)
        kind = f", {layout.quantization}" if layout.quantization else ""
        head = f"{layout.name}{kind}, {made.context:,} tokens"
        print("\n".join(filter(None, (head, machine.assumed_memory(options), text))))
        if note:
            print(f"\n{note}")
    return 0 if made.runs or request.force else 4


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if options.layers and (options.tensor_split or options.gpu_layers is not None):
        other = "--tensor-split" if options.tensor_split else "--gpu-layers"
        raise AppError(
            f"--layers and {other} say the same in two ways.",
            hint="Leave one of them out.",
            kind=ErrorKind.USAGE,
        )
    if options.gpu_layers is not None and options.gpu_layers < -1:
        raise AppError(
            f"{options.gpu_layers} layers on devices are not possible.",
            hint="Choose a number from 0 on, or leave it out for as many as fit.",
            kind=ErrorKind.USAGE,
        )


def _cut(options: argparse.Namespace, layout: ModelLayout, devices: int) -> str:
    """`--tensor-split` as numbers of layers, of those that are on devices."""
    total = layout.block_count + 1
    wanted = total if options.gpu_layers is None or options.gpu_layers < 0 else options.gpu_layers
    try:
        shares = [float(part) for part in options.tensor_split.split(",")]
    except ValueError:
        shares = []
    usable = (
        len(shares) == devices and all(0 <= share < 1e9 for share in shares) and sum(shares) > 0
    )
    if not usable:
        raise AppError(
            f"The split {options.tensor_split} is not a share for each of {devices} devices.",
            hint="Name as many numbers as there are devices, in their order, 3,1 for example.",
            kind=ErrorKind.USAGE,
        )
    options.gpu_layers = None
    return ",".join(str(n) for n in placement.by_proportions(min(wanted, total), shares))


def _confirm(
    made: LoadPlan, layout: ModelLayout, settings: Settings, *, imagined: bool
) -> LoadPlan:
    """The plan with the figures of a dry run."""
    command = load_command(made, layout, settings, None)
    if any(share.device.backend == "rpc" for share in made.devices):
        command = command.model_copy(update={"rpc_servers": settings.rpc_servers})
    return confirmed(made, dry_run(command, layout, paths.folders().data, stand_ins=imagined))


def _request(
    options: argparse.Namespace, request: PlanRequest, devices: Sequence[PlanDevice]
) -> PlanRequest:
    """The request with the options on top."""
    changes: dict[str, object] = {"force": options.force}
    if options.devices is not None:
        changes["any_order"] = False
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
        changes["reserves"] = _reserves(options.reserve, devices)
    if options.objective is not None:
        changes["objective"] = Objective(options.objective)
    return dataclasses.replace(request, **changes)  # type: ignore[arg-type]


def _reserves(text: str, devices: Sequence[PlanDevice]) -> dict[str, int]:
    """`--reserve` in bytes by device id."""
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) == 1:
        sizes *= len(devices)
    if len(sizes) != len(devices) or not all(0 <= size <= 1024 for size in sizes):
        raise AppError(
            f"A reserve of {text} GiB is not possible.",
            hint="Choose one size such as --reserve 1, or one for each of the "
            f"{len(devices)} devices: {','.join('1' for _ in devices) or '1'}.",
            kind=ErrorKind.USAGE,
        )
    return {device.id: round(size * units.GIB) for device, size in zip(devices, sizes, strict=True)}
