"""How fast a plan can be at most, and is likely to be: memory bandwidth decides when one person asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from app.plan.model import LoadPlan, PlanDevice

LIKELY_LOW, LIKELY_HIGH = 0.5, 0.85
"""Measured shares of the bound (XiongjieDai, GPU-Benchmarks-on-LLM-Inference, Llama 70B Q4_K_M):
2 RTX 4090 80 %, 2 RTX 3090 74 %, RTX A6000 81 %, H100 PCIe 52 %, A100 SXM 51 %, M2 Ultra 64 %."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Token generation in tokens/s, with the whole context in use."""

    bound: float
    likely_low: float
    likely_high: float

    def __str__(self) -> str:
        """The range in words, with no more digits than it deserves."""
        digits = 0 if self.likely_low >= 10 else 1
        low, high, bound = (
            f"{v:.{digits}f}" for v in (self.likely_low, self.likely_high, self.bound)
        )
        return f"likely {low} to {high} tokens/s, {bound} at most, with the context full"


def estimate(
    plan: LoadPlan,
    bandwidth: Callable[[PlanDevice], float | None],
    host_bandwidth: float | None = None,
) -> Speed | None:
    """The bound: each token reads all weights and the KV cache once, device after device.

    None if the bandwidth of a device that holds layers is not known. The token embedding is not
    read, but for one row.
    """
    seconds = 0.0
    for share in plan.devices:
        held = share.weights_bytes + share.kv_cache_bytes
        if not held:
            continue
        rate = bandwidth(share.device)
        if not rate:
            return None
        seconds += held / rate
    if plan.host.layer_count:
        if not host_bandwidth:
            return None
        seconds += (plan.host.weights_bytes + plan.host.kv_cache_bytes) / host_bandwidth
    if not seconds:
        return None
    bound = 1 / seconds
    return Speed(bound=bound, likely_low=LIKELY_LOW * bound, likely_high=LIKELY_HIGH * bound)
