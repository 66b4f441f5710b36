"""Which longer context fits beside a model that already runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from app.errors import AppError
from app.gguf.model import ModelLayout
from app.plan.model import KvCacheType, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan

USEFUL = 1.25
"""Less than so much more is not worth loading again."""
STEP = 2
"""What is offered is at most so much more, since a longer context takes memory and time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LargerContext:
    """What was found.

    Attributes:
        context: Tokens now.
        larger: Tokens that fit; 0 if no useful number does.
        kv_type: With this type of the KV cache only; None if it stays as it is.
        trained: Tokens that the model was trained for: no more are offered.
        needed: Tokens that it takes for what is to be read; less is not offered.
    """

    context: int
    larger: int
    trained: int
    kv_type: KvCacheType | None = None
    needed: int = 0

    @property
    def changes(self) -> dict[str, object]:
        """The settings that it takes."""
        kinds = {"kv_type_k": self.kv_type, "kv_type_v": self.kv_type} if self.kv_type else {}
        return {"context": self.larger, **kinds}


def larger_context(
    layout: ModelLayout,
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    *,
    needed: int = 0,
) -> LargerContext:
    """The next useful context after `request.context` that runs as well, if need be with another KV cache.

    Less than is `needed` would be loaded in vain. May take seconds.
    """
    context = request.context or 0
    least, trained = max(context * USEFUL, needed), layout.context_length
    nothing = LargerContext(context=context, larger=0, trained=trained, needed=needed)
    if trained < least:
        return nothing
    for kind in (None, KvCacheType.Q8_0, KvCacheType.Q4_0):
        kinds = {"kv_type_k": kind, "kv_type_v": kind} if kind is not None else {}
        try:
            plan = make_plan(layout, dataclasses.replace(request, **kinds), devices, host)  # type: ignore[arg-type]
        except AppError:  # this type does not suit
            continue
        if plan.runs and plan.max_context >= least:
            larger = min(max(STEP * context, needed), plan.max_context)
            return dataclasses.replace(nothing, larger=larger, kv_type=kind)
    return nothing
