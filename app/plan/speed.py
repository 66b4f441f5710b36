"""How fast a plan can be at most, and is likely to be; always a range, never one number."""

from __future__ import annotations

import dataclasses

from app.gguf.model import ModelLayout
from app.plan.model import LoadPlan

LIKELY_LOW, LIKELY_HIGH = 0.5, 0.85
"""Measured shares of the bound (XiongjieDai, GPU-Benchmarks-on-LLM-Inference, Llama 3 70B Q4_K_M):
2 RTX 4090 80 %, 2 RTX 3090 74 %, RTX A6000 81 %, H100 PCIe 52 %, A100 SXM 51 %, M2 Ultra 64 %."""
HOST_BANDWIDTH = 51.2e9
"""Bytes/s of two channels of DDR4-3200, where nothing is known of main memory."""
PROMPT_LOW, PROMPT_HIGH = 0.6, 1.3
"""The same source, prompts of 512 to 8,192 tokens on 2 to 8 cards against the rate of one: 2 RTX 3090
0.79 to 0.86, 2 RTX 4090 1.0 to 1.1, 6 RTX 3090 1.0 to 1.7; a split by layers can overlap micro-batches."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Tokens/s: at most, and likely."""

    bound: float
    likely_low: float
    likely_high: float

    def __str__(self) -> str:
        """The range in words, with no more digits than it deserves."""
        digits = 0 if self.likely_low >= 10 else 1
        numbers = (self.likely_low, self.likely_high, self.bound)
        low, high, bound = (f"{value:,.{digits}f}" for value in numbers)
        return f"likely {low} to {high} tokens/s, {bound} at most"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Both phases of an answer; None where nothing is known of a device.

    Attributes:
        generation: With the whole context in use.
        empty_context: Generation in an empty context.
        prompt: Prompt processing.
        assumed_host: Main memory works along, and its bandwidth is an assumption.
    """

    generation: Range | None
    empty_context: Range | None
    prompt: Range | None
    assumed_host: bool = False


def estimate(plan: LoadPlan, layout: ModelLayout, host_bandwidth: float | None = None) -> Speed:
    """What the devices' bandwidths and measured rates allow."""
    bandwidth = host_bandwidth or HOST_BANDWIDTH
    generation = _generation(plan, bandwidth, cache=True)
    return Speed(
        generation=generation,
        empty_context=_generation(plan, bandwidth, cache=False),
        prompt=_prompt(plan, layout),
        assumed_host=bool(generation) and plan.verdict.on_host and host_bandwidth is None,
    )


def _generation(plan: LoadPlan, host_bandwidth: float, *, cache: bool) -> Range | None:
    """Each token reads all weights and the KV cache once, device after device.

    The token embedding is not read, but for one row.
    """
    seconds = 0.0
    for share in plan.devices:
        held = share.weights_bytes + share.kv_cache_bytes * cache
        if not held:
            continue
        rate = share.device.bandwidth_bytes_per_s
        if not rate:
            return None
        seconds += held / rate
    if plan.verdict.on_host:
        host = plan.host.weights_bytes + plan.host.kv_cache_bytes * cache
        seconds += host / host_bandwidth
    if not seconds:
        return None
    bound = 1 / seconds
    return Range(bound=bound, likely_low=LIKELY_LOW * bound, likely_high=LIKELY_HIGH * bound)


def _prompt(plan: LoadPlan, layout: ModelLayout) -> Range | None:
    """Two operations for each weight that a token meets; at most as fast as the slowest device alone."""
    if plan.verdict.on_host:
        return None
    layers = [_operations(layout, index) for index in range(layout.block_count)]
    times = []
    for share in plan.devices:
        if share.first_layer is None or share.last_layer is None:
            continue
        rate = share.device.prompt_flops_per_s
        if not rate:
            return None
        # The output is computed for few tokens of a prompt.
        times.append(sum(layers[share.first_layer : share.last_layer + 1]) / rate)
    if not sum(times):
        return None
    one, bound = 1 / sum(times), 1 / max(times)
    top = max(PROMPT_HIGH * one, bound)
    return Range(bound=top, likely_low=PROMPT_LOW * one, likely_high=min(top, PROMPT_HIGH * one))


def _operations(layout: ModelLayout, index: int) -> float:
    """Of one layer and token."""
    prefix = f"{layout.architecture}."
    count, used = (layout.metadata.get(prefix + k) for k in ("expert_count", "expert_used_count"))
    share = used / count if isinstance(used, int) and isinstance(count, int) and count else 1.0
    total = 0.0
    for tensor in layout.layers[index].tensors:
        if len(tensor.shape) > 1:
            weights = 1
            for length in tensor.shape:
                weights *= length
            total += 2 * weights * (share if "_exps" in tensor.name else 1)
    return total
