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
CORRECTIONS = 4
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
    """How many parts the attention of a layer can be cut into."""
    length, step = _attention_cut(layer, count)
    return length // step


def _attention_cut(layer: LayerLayout, count: int) -> tuple[int, int]:
    """Length of what is cut, and the step of cuts: whole groups of heads, whole blocks of the type.

    Source: `get_split_granularity` in llama-model.cpp.
    """
    output = next((t for t in layer.tensors if t.name.endswith("attn_output.weight")), None)
    if output is None or not layer.head_count_kv:
        return count, 1
    group = layer.head_count // layer.head_count_kv * layer.key_length
    block = _BLOCKS[output.type]
    while block < 128 and block * count < group:
        block *= 2
    return layer.head_count * layer.key_length, math.lcm(group, block)


def _feed_forward_cut(layer: LayerLayout, count: int) -> tuple[int, int]:
    """The same of the feed-forward network."""
    down = next((t for t in layer.tensors if re.search(r"ffn_down(_exps)?\.weight$", t.name)), None)
    return (count, 1) if down is None else (down.shape[0], math.lcm(_BLOCKS[down.type], 128))


def _cut(length: int, step: int, parts: Sequence[int], turn: int) -> list[float]:
    """The fraction that each device gets; what rounding leaves goes to another one with each layer.

    Source: the end of `llama_meta_device_get_split_state` in llama-model.cpp, where `turn` is `rotation`.
    """
    count, low, seen = len(parts), 0, 0
    result = [0.0] * count
    for place in range(count):
        device = (place + turn) % count
        seen += parts[device]
        high = length * seen // sum(parts)
        high = length if place == count - 1 else high - high % step
        result[device] = (high - low) / length
        low = high
    return result


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Bytes of what is split over all devices, what each holds whole, and main memory's part."""

    split: int
    whole: int
    cache: tuple[int, ...]
    compute: int
    host_weights: int
    host_compute: int


def place(problem: Problem, context: int) -> LoadPlan:
    """The plan for one context: even shares where they fit, else in proportion to the room."""
    sizes = _sizes(problem, context)
    room = [budget - sizes.whole - sizes.compute for budget in problem.budgets]
    plan = _plan(problem, context, sizes, (1,) * len(room))
    if plan.runs or max(room) - min(room) <= ALIKE * max(1, *problem.budgets):
        return plan
    divided = sizes.split + sum(sizes.cache)
    for _ in range(CORRECTIONS):
        plan = _plan(problem, context, sizes, _proportions(room, divided))
        if plan.runs:
            break
        # Cuts are rounded: who got too much asks for less.
        shares = zip(room, plan.devices, strict=True)
        room = [value + min(0, share.left_bytes) for value, share in shares]
    return plan


def _plan(problem: Problem, context: int, sizes: _Sizes, parts: tuple[int, ...]) -> LoadPlan:
    """The plan for these parts."""
    weights, cache = _divided(problem, sizes, parts)
    shares = []
    for device, (each, own, held) in enumerate(zip(parts, weights, cache, strict=True)):
        total = problem.total_layers if each else 0
        shares.append(
            DevicePlan(
                device=problem.devices[device],
                layer_count=total,
                first_layer=0 if total else None,
                last_layer=total - 1 if total else None,
                holds_output=total > 0,
                weights_bytes=sizes.whole + own,
                kv_cache_bytes=held,
                compute_bytes=sizes.compute,
                reserve_bytes=problem.reserves[device],
            )
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
        problem.layout, problem.request, tuple(shares), host,
        context=context,
        sizes=memory.layer_weights(problem.layout, CPU),
        parts=parts,
    )  # fmt: skip
    warnings = (*plan.warnings, WARNING)
    return dataclasses.replace(plan, basis=Basis.ESTIMATED, warnings=warnings)


def _divided(
    problem: Problem, sizes: _Sizes, parts: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Weights and KV cache that each device gets of what is split, in bytes."""
    layout, kind, count = problem.layout, problem.kind, len(parts)
    weights, cache = [0.0] * count, [0.0] * count
    turns: dict[bool, int] = {}
    for layer in layout.layers:
        alike = bool(layer.sliding_window)
        turn = turns.get(alike, 0)
        turns[alike] = turn + 1
        attention = _cut(*_attention_cut(layer, count), parts, turn % count)
        feed_forward = _cut(*_feed_forward_cut(layer, count), parts, turn % count)
        for device in range(count):
            cache[device] += sizes.cache[layer.index] * attention[device]
        for tensor in layer.tensors:
            if _SPLIT.match(tensor.name):
                cuts = feed_forward if ".ffn_" in tensor.name else attention
                size = memory.tensor_bytes(tensor, kind)
                weights = [own + size * cut for own, cut in zip(weights, cuts, strict=True)]
    output = sum(memory.tensor_bytes(t, kind) for t in layout.output if _SPLIT.match(t.name))
    weights = [own + output * part / sum(parts) for own, part in zip(weights, parts, strict=True)]
    return [math.ceil(own) for own in weights], [math.ceil(held) for held in cache]


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
    cache = memory.layer_kv_cache(layout, request, context, kind)
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
