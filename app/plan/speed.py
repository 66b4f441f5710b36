"""How fast a plan can be at most, and is likely to be; always a range, never one number."""

from __future__ import annotations

import dataclasses

from app.gguf.model import ModelLayout
from app.plan.model import LoadPlan, Verdict

GENERATION_SOURCE = (
    "likely is 0.5 to 0.85 of what memory bandwidth allows, as Llama 3 70B reached on one to eight cards "
    "(XiongjieDai, GPU-Benchmarks-on-LLM-Inference), and 0.05 to 0.15 ms more for each layer (Pavlo Khmel, "
    "LLM throughput benchmark on 13 GPUs)"
)
PROMPT_SOURCE = (
    "prompt processing is 0.6 to 1.3 of the rates that were measured there with one card of a kind"
)
LIKELY_LOW, LIKELY_HIGH = 0.5, 0.85
"""Measured shares of the bound (XiongjieDai, GPU-Benchmarks-on-LLM-Inference, Llama 3 70B Q4_K_M):
2 RTX 4090 80 %, 2 RTX 3090 74 %, RTX A6000 81 %, H100 PCIe 52 %, A100 SXM 51 %, M2 Ultra 64 %."""
LAYER_LOW_S, LAYER_HIGH_S = 150e-6, 50e-6
"""Time that a layer takes beside its reading, at the slow and at the fast end. From tokens/s of small models
in Pavlo Khmel, "LLM throughput benchmark on 13 GPUs and 10 models" (June 2026), the number of layers from
memory: LFM2.5 1.2B (0.7 GB, 16 layers) 614 on an RTX 4090 and 737 on an H100 SXM, Ministral 3 3B (1.8 GB,
26 layers) 271 and 305: less the reading at 0.85 of the bandwidth 50 to 100 microseconds are left."""
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

    @property
    def likely(self) -> str:
        """The likely range alone: `3.0–5.2`."""
        digits = 0 if self.likely_low >= 10 else 1
        return f"{self.likely_low:,.{digits}f}–{self.likely_high:,.{digits}f}"

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
        whole: Generation if what lies in main memory lay on the devices, where anything does.
        sources: What the ranges rest on, in words.
        assumed_host: Main memory works along, and its bandwidth is an assumption.
    """

    generation: Range | None
    empty_context: Range | None
    prompt: Range | None
    whole: Range | None = None
    sources: tuple[str, ...] = ()
    assumed_host: bool = False


def estimate(plan: LoadPlan, layout: ModelLayout) -> Speed:
    """What the devices' bandwidths and measured rates allow.

    Nothing is known of what cannot run, and of tensors that are split: there the way between devices counts.
    """
    if plan.verdict is Verdict.TOO_LARGE or plan.request.tensor_parallel:
        return Speed(generation=None, empty_context=None, prompt=None)
    generation = _generation(plan, layout, cache=True)
    prompt = _prompt(plan, layout)
    sources = ((GENERATION_SOURCE,) if generation else ()) + ((PROMPT_SOURCE,) if prompt else ())
    return Speed(
        generation=generation,
        empty_context=_generation(plan, layout, cache=False),
        prompt=prompt,
        whole=_whole(plan, layout),
        sources=sources,
        assumed_host=bool(generation) and plan.verdict.on_host,
    )


def _generation(plan: LoadPlan, layout: ModelLayout, *, cache: bool) -> Range | None:
    """Each token reads all weights and the KV cache once, place after place.

    Of experts only those that a token chooses are read, and of the token embedding one row.
    """
    used = _share_used(layout)
    seconds = 0.0
    for share in plan.devices:
        held = share.weights_bytes * used + share.kv_cache_bytes * cache
        if not held:
            continue
        rate = share.device.bandwidth_bytes_per_s
        if not rate:
            return None
        seconds += held / rate
    if plan.verdict.on_host:
        seconds += _read_on_host(plan, layout, used, cache=cache) / HOST_BANDWIDTH
    return _range(seconds, layout)


def _read_on_host(plan: LoadPlan, layout: ModelLayout, used: float, *, cache: bool) -> float:
    """Bytes that one token reads in main memory."""
    output_elsewhere = plan.gpu_layers > 0 or not layout.tied
    embedding = sum(t.size_bytes for t in layout.token_embedding) if output_elsewhere else 0
    weights = max(0, plan.host.weights_bytes - embedding) * used
    return weights + plan.host.kv_cache_bytes * cache


def _whole(plan: LoadPlan, layout: ModelLayout) -> Range | None:
    """As if the devices held all of it, each in proportion to what it holds now."""
    used = _share_used(layout)
    rates = [
        (s.weights_bytes + s.kv_cache_bytes, s.device.bandwidth_bytes_per_s) for s in plan.devices
    ]
    held = sum(size for size, _ in rates)
    if (
        plan.verdict is not Verdict.PARTLY
        or not held
        or not all(rate for size, rate in rates if size)
    ):
        return None
    seconds = sum(size / rate for size, rate in rates if size and rate)
    more = _read_on_host(plan, layout, used, cache=True) / used
    return _range(seconds * used * (held + more) / held, layout)


def _range(seconds: float, layout: ModelLayout) -> Range | None:
    if not seconds:
        return None
    layers = sum(1 for layer in layout.layers if layer.tensors)
    return Range(
        bound=1 / seconds,
        likely_low=1 / (seconds / LIKELY_LOW + layers * LAYER_LOW_S),
        likely_high=1 / (seconds / LIKELY_HIGH + layers * LAYER_HIGH_S),
    )


def _share_used(layout: ModelLayout) -> float:
    """Share of all weights in layers that one token reads: all, but for experts that it does not choose."""
    whole = active = 0.0
    share = _experts_used(layout)
    for layer in layout.layers:
        for tensor in layer.tensors:
            whole += tensor.size_bytes
            active += tensor.size_bytes * (share if "_exps" in tensor.name else 1)
    return active / whole if whole else 1.0


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
    share = _experts_used(layout)
    total = 0.0
    for tensor in layout.layers[index].tensors:
        if len(tensor.shape) > 1:
            weights = 1
            for length in tensor.shape:
                weights *= length
            total += 2 * weights * (share if "_exps" in tensor.name else 1)
    return total


def _experts_used(layout: ModelLayout) -> float:
    prefix = f"{layout.architecture}."
    count, used = (layout.metadata.get(prefix + k) for k in ("expert_count", "expert_used_count"))
    return used / count if isinstance(used, int) and isinstance(count, int) and count else 1.0
