"""A plan in the terms of the widgets."""

from __future__ import annotations

from app.plan.model import DevicePlan, HostPlan, Verdict
from ui.widgets.memory_bar import MemoryBarValues

VERDICT_STATES = {
    Verdict.FITS: ("ok", "circle-check"),
    Verdict.CPU_ONLY: ("ok", "circle-check"),
    Verdict.PARTLY: ("warn", "triangle-alert"),
    Verdict.TOO_LARGE: ("error", "circle-x"),
}
"""The state that colours a verdict, and its icon."""


def bar_values(
    share: DevicePlan | HostPlan, scale: int, in_use: int | None = None
) -> MemoryBarValues:
    """What a bar shows of a device's or main memory's share; all in bytes.

    Args:
        share: What is planned there.
        scale: The length of the whole bar.
        in_use: What the model really takes there, where it is known.
    """
    if isinstance(share, DevicePlan):
        total, others = share.device.total_bytes, share.device.others_bytes
    else:
        total = share.host.total_bytes
        others = total - share.host.available_bytes
    return MemoryBarValues(
        total=total,
        weights=share.weights_bytes,
        kv_cache=share.kv_cache_bytes,
        compute=share.compute_bytes,
        reserve=share.reserve_bytes,
        others=others,
        in_use=in_use,
        scale=scale,
    )
