"""Tensor mode: each layer's tensors are split over all devices, which compute at the same time.

llama.cpp's `LLAMA_SPLIT_MODE_TENSOR`, experimental there. What it allows, and what it splits, is
read from llama-arch.cpp (`llm_arch_supports_sm_tensor`), llama-context.cpp (`llama_init_from_model`)
and llama-model.cpp (`llama_meta_device_get_split_state`); what crashes was found by loading models.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.gguf.model import LayerLayout, ModelLayout
from app.gguf.types import TENSOR_TYPES
from app.plan import memory, verdicts
from app.plan.compute import buffers
from app.plan.model import (
    Basis,
    DevicePlan,
    FlashAttention,
    HostPlan,
    LoadPlan,
    PlanDevice,
    PlanRequest,
)
from app.plan.rules import CPU

if TYPE_CHECKING:
    from app.plan.problem import Problem

REFUSED = frozenset({
    "grok", "mpt", "plamo2", "minicpm3", "gemma3n", "mamba", "mamba2", "jamba", "falcon-h1", "olmo2",
    "olmoe", "deepseek2", "deepseek32", "hy_v4", "dots3note", "glm-dsa", "bitnet", "t5", "nemotron_h",
    "nemotron_h_moe", "granitehybrid", "minimax-01", "minimax-m2", "minimax-m3", "mistral4",
    "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next", "qwen3tts", "qwen4exp",
})  # fmt: skip
"""Architectures that llama.cpp refuses."""
PARTS = 1000
"""In so many parts an uneven split is told to llama.cpp."""
ALIKE = 0.05
"""Devices whose room differs by less than this share of the largest get as much."""
WARNING = "Experimental: what each device takes is estimated, and llama.cpp's makers ask to check the answers."
_SPLIT = re.compile(
    r"blk\.\d+\.(attn_(q|k|v|qkv)\.(weight|bias)|attn_(output|gate|sinks)\.weight"
    r"|ssm_(dt\.bias|a|alpha\.weight|beta\.weight|ba\.weight|conv1d\.weight|out\.weight)"
    r"|ffn_(up|gate|gate_up)(_exps)?\.(weight|bias)|ffn_down(_exps)?\.weight)$|output\.(weight|bias)$"
)
_BLOCKS = {name: block for name, block, _ in TENSOR_TYPES.values()}


def withheld(layout: ModelLayout, request: PlanRequest, devices: Sequence[PlanDevice]) -> str:
    """Why the tensors cannot be split so, a sentence; empty if they can."""
    count = len(devices)
    if count < 2:
        return "Splitting tensors takes two devices or more."
    if len({device.backend for device in devices}) > 1:
        return "Tensors can be split over devices of one backend only; these have several."
    if layout.architecture in REFUSED:
        return (
            f"llama.cpp does not split the tensors of models of the kind “{layout.architecture}”."
        )
    if request.flash_attention is FlashAttention.OFF:
        return "Splitting tensors needs flash attention, which is off."
    for layer in layout.layers:
        if layer.tensors and not layer.recurrent and not layer.head_count_kv:
            return (
                f"Layer {layer.index} has no attention; llama.cpp crashes where it splits the tensors "
                "of such a model."
            )
        if _normed(layer) and _attention_parts(layer, count) < count:
            return (
                f"The {layer.head_count_kv} KV heads of layer {layer.index} do not divide over {count} "
                "devices."
            )
    return ""


def _normed(layer: LayerLayout) -> bool:
    """True if queries or keys are normalised head by head: then each device needs a head of its own."""
    return any(re.search(r"attn_[qk]_norm\.weight$", tensor.name) for tensor in layer.tensors)


def _attention_parts(layer: LayerLayout, count: int) -> int:
    """How many parts the attention of a layer can be cut into (`get_split_granularity`)."""
    output = next((t for t in layer.tensors if t.name.endswith("attn_output.weight")), None)
    block = _BLOCKS[output.type] if output is not None else 1
    group = layer.head_count // layer.head_count_kv * layer.key_length if layer.head_count_kv else 0
    if not group:
        return count
    while block < 128 and block * count < group:
        block *= 2
    return layer.head_count * layer.key_length // math.lcm(group, block)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Bytes: what is split over all devices, what each holds whole, and main memory's part."""

    split: int
    whole: int
    cache: int
    compute: int
    host_weights: int
    host_compute: int


def place(problem: Problem, context: int) -> LoadPlan:
    """The plan for one context: even shares where they fit, else in proportion to the room."""
    sizes = _sizes(problem, context)
    budgets = problem.budgets
    parts = (1,) * len(budgets)
    room = [budget - sizes.whole - sizes.compute for budget in budgets]
    divided = sizes.split + sizes.cache
    if min(room) < divided / len(room) and max(room) - min(room) > ALIKE * max(1, *budgets):
        parts = _proportions(room, divided)
    shares = tuple(
        _share(problem, index, part / sum(parts), sizes) for index, part in enumerate(parts)
    )
    host = HostPlan(
        host=problem.host,
        layer_count=0,
        weights_bytes=sizes.host_weights,
        kv_cache_bytes=0,
        compute_bytes=sizes.host_compute,
        reserve_bytes=CPU.reserve_bytes,
    )
    plan = verdicts.judged(
        problem.layout, problem.request, shares, host,
        context=context,
        sizes=memory.layer_weights(problem.layout, CPU),
        parts=parts,
    )  # fmt: skip
    warnings = (*plan.warnings, WARNING)
    return dataclasses.replace(plan, basis=Basis.ESTIMATED, warnings=warnings)


def _proportions(room: list[int], divided: int) -> tuple[int, ...]:
    """Parts that leave as much on each device, as far as those with little room allow."""
    active = [index for index, value in enumerate(room) if value > 0]
    if not active:
        return (1,) * len(room)
    while True:
        left = (sum(room[index] for index in active) - divided) / len(active)
        full = [index for index in active if room[index] <= left]
        if not full:
            break
        active = [index for index in active if index not in full]
    return tuple(
        round(PARTS * (value - left) / divided) if index in active else 0
        for index, value in enumerate(room)
    )


def _sizes(problem: Problem, context: int) -> _Sizes:
    layout, kind = problem.layout, problem.kind
    tensors = [t for layer in layout.layers for t in layer.tensors]
    tensors += [*layout.output, *layout.other]
    if layout.tied:
        tensors += [t for t in layout.token_embedding if t.name == "token_embd.weight"]
    split = [t for t in tensors if _SPLIT.match(t.name)]
    total = memory.tensors_bytes(tensors, kind)
    divided = memory.tensors_bytes(split, kind)
    request = dataclasses.replace(problem.request, flash_attention=FlashAttention.ON)
    cache = sum(memory.layer_kv_cache(layout, request, context, kind))
    (compute, host_compute), _ = buffers(
        problem.shapes, problem.work(context), [0] * problem.total_layers, [kind], pipelined=False
    )
    # What is summed up over devices passes through a buffer of its own on each.
    passing = 2 * 4 * layout.embedding_length * min(request.micro_batch, context)
    return _Sizes(
        split=divided,
        whole=total - divided,
        cache=cache,
        compute=compute + passing,
        host_weights=memory.tensors_bytes(layout.token_embedding, CPU),
        host_compute=host_compute,
    )


def _share(problem: Problem, index: int, part: float, sizes: _Sizes) -> DevicePlan:
    total = problem.total_layers
    return DevicePlan(
        device=problem.devices[index],
        layer_count=total if part else 0,
        first_layer=0 if part else None,
        last_layer=total - 1 if part else None,
        holds_output=part > 0,
        weights_bytes=math.ceil(sizes.whole + part * sizes.split) if part else 0,
        kv_cache_bytes=math.ceil(part * sizes.cache),
        compute_bytes=sizes.compute if part else 0,
        reserve_bytes=problem.reserves[index],
    )


def automatic_context(problem: Problem, first: int, least: int) -> int:
    """`first` tokens, halved while they do not fit."""
    context = first
    while context > least and not place(problem, context).runs:
        context //= 2
    return context


def max_context(problem: Problem) -> int:
    """Most tokens that fit, in steps of 256; 0 if none do."""
    step, most = memory.CONTEXT_STEP, problem.layout.context_length
    low, high = 0, -(-most // step) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if place(problem, middle * step).runs:
            low = middle
        else:
            high = middle
    return min(low * step, most)
