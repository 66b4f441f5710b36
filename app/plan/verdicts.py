"""What a split means: whether it fits, where it is tightest, and the sentence that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from app import units
from app.gguf.model import ModelLayout
from app.plan.model import (
    Basis,
    DevicePlan,
    HostPlan,
    LoadPlan,
    PlanRequest,
    TensorOverride,
    Verdict,
)

KNOWN_ARCHITECTURES = frozenset({
    "llama", "deci", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma2", "gemma3", "mistral3", "phi2",
    "phi3", "phimoe", "nemotron", "nemotron_h", "nemotron_h_moe", "deepseek2", "gpt-oss",
})  # fmt: skip
"""Architectures whose graphs were compared with llama.cpp's own figures."""


def judged(
    layout: ModelLayout,
    request: PlanRequest,
    shares: tuple[DevicePlan, ...],
    host: HostPlan,
    *,
    context: int,
    sizes: tuple[int, ...],
    overrides: tuple[TensorOverride, ...] = (),
    parts: tuple[int, ...] | None = None,
) -> LoadPlan:
    """The plan for shares that are already computed.

    `sizes` are the layers' bytes; `parts` of each tensor go to each device where tensors are split.
    """
    known = layout.architecture in KNOWN_ARCHITECTURES
    counts = tuple(share.layer_count for share in shares)
    plan = LoadPlan(
        request=request,
        verdict=Verdict.TOO_LARGE,
        devices=shares,
        host=host,
        block_count=layout.block_count,
        gpu_layers=sum(counts) if parts is None else layout.block_count + 1,
        tensor_split=counts if parts is None else parts,
        context=context,
        max_context=0,
        bottleneck=None,
        shortfall_bytes=0,
        basis=Basis.COMPUTED if known else Basis.ESTIMATED,
        layer_sizes=sizes,
        sentence="",
        tensor_overrides=overrides,
        warnings=_warnings(layout, context),
    )
    return _weighed(dataclasses.replace(plan, quantization=layout.quantization))


def _warnings(layout: ModelLayout, context: int) -> tuple[str, ...]:
    trained = layout.context_length
    if context <= trained:
        return ()
    return (
        f"The model was trained for {trained:,} tokens; what it says beyond them makes little sense.",
    )


def _weighed(plan: LoadPlan) -> LoadPlan:
    """The plan with its verdict: where it is tightest, what it lacks, and the sentence that says so."""
    left = {share.device.id: share.left_bytes for share in plan.devices if share.used}
    left_host = _left_on_host(plan.devices, plan.host)
    shortfall = max(0, -min([*left.values(), left_host]))
    whole = plan.gpu_layers == plan.block_count + 1
    places = left if whole or (left and left_host >= 0) else {}
    worst = min(places, key=lambda key: places[key]) if places else "host"
    if left_host < 0 and (not left or left_host < min(left.values())):
        worst = "host"
    if shortfall:
        verdict = Verdict.TOO_LARGE
    elif not plan.gpu_layers:
        verdict = Verdict.CPU_ONLY
    else:
        on_host = any(override.device == "CPU" for override in plan.tensor_overrides)
        verdict = Verdict.FITS if whole and not on_host else Verdict.PARTLY
    plan = dataclasses.replace(plan, verdict=verdict, bottleneck=worst, shortfall_bytes=shortfall)
    return dataclasses.replace(plan, sentence=_sentence(plan))


def _left_on_host(shares: Sequence[DevicePlan], host: HostPlan) -> int:
    """What is left of main memory, of which RPC servers on this machine take their share."""
    return host.left_bytes - sum(s.model_bytes for s in shares if s.device.shares_host_memory)


def confirmed(plan: LoadPlan, found: Mapping[str, tuple[int, int, int]]) -> LoadPlan:
    """The plan with llama.cpp's own figures.

    Args:
        plan: As computed.
        found: Weights, KV cache and compute buffer in bytes by the device's engine name; `CPU` for
            main memory.
    """

    def figures(name: str) -> dict[str, Any]:
        weights, kv_cache, compute = found.get(name, (0, 0, 0))
        return {"weights_bytes": weights, "kv_cache_bytes": kv_cache, "compute_bytes": compute}

    shares = tuple(
        dataclasses.replace(share, **figures(share.device.engine_name)) for share in plan.devices
    )
    host = dataclasses.replace(plan.host, **figures("CPU"))
    made = _weighed(dataclasses.replace(plan, devices=shares, host=host, basis=Basis.CONFIRMED))
    if made.fits and not plan.fits:
        return dataclasses.replace(made, hint="", remedies=(), missing_bytes=0, missing_on=None)
    return made


def _lacking(plan: LoadPlan) -> str:
    labels = {share.device.id: share.device.label for share in plan.devices}
    place = labels.get(plan.bottleneck or "", "Main memory")
    return f"{place} lacks {units.format_memory(plan.shortfall_bytes)}."


def _sentence(plan: LoadPlan) -> str:
    if plan.shortfall_bytes:
        return _lacking(plan)
    head = f"{plan.quantization}, " if plan.quantization else ""
    head += f"{plan.context:,} tokens, "
    used = [share.device.label for share in plan.devices if share.used]
    where = used[0] if len(used) == 1 else f"{len(used)} devices"
    blocks = plan.block_count
    if plan.verdict is Verdict.CPU_ONLY:
        return f"{head}all {blocks} layers on the CPU, in main memory."
    moved = len(plan.tensor_overrides)
    apart = f", {moved} of their tensors" if moved > 1 else ", one of their tensors"
    on_host = any(override.device == "CPU" for override in plan.tensor_overrides)
    apart += " in main memory" if on_host else " apart"
    if plan.request.tensor_parallel:
        return f"{head}all {blocks} layers on {where}, the tensors of each split over all of them."
    if plan.gpu_layers == blocks + 1:
        return f"{head}all {blocks} layers on {where}{apart if moved else ''}."
    rest = f"the rest on the CPU{apart if moved else ''}"
    return f"{head}{plan.gpu_layers} of {blocks + 1} layers on {where}, {rest}."
