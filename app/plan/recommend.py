"""Which quantization, context and KV cache type to take: all of them planned, the best first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from app import units
from app.gguf.model import ModelLayout
from app.plan import memory
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan, usable
from app.plan.problem import Problem
from app.plan.search import Search
from app.plan.shapes import Shapes

CONTEXTS = (4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
USEFUL_CONTEXT = 16_384
"""More context than this is worth less than a better quantization."""
LEGACY = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1"})
"""Older formats: K-quants of the same size answer better (llama.cpp, tools/quantize/README.md)."""
_VERDICTS = (Verdict.TOO_LARGE, Verdict.CPU_ONLY, Verdict.PARTLY, Verdict.FITS)
_PRECISION = (KvCacheType.Q4_0, KvCacheType.Q8_0, KvCacheType.F16)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One cell of the matrix."""

    layout: ModelLayout
    kv_type: KvCacheType
    plan: LoadPlan

    @property
    def rank(self) -> tuple[float, ...]:
        """Greater is better: all on devices, a useful context, then bits, then context, then KV cache.

        It says nothing of memory that is left over, so more memory never makes the best one worse.
        """
        context = self.plan.context
        if self.plan.verdict is Verdict.TOO_LARGE:
            return (0, -self.plan.shortfall_bytes)
        return (
            _VERDICTS.index(self.plan.verdict),
            self.kv_type is not KvCacheType.Q4_0,
            min(context, USEFUL_CONTEXT),
            0 if self.layout.quantization in LEGACY else self.layout.size_bytes,
            context,
            _PRECISION.index(self.kv_type),
        )


def matrix(
    layouts: Sequence[ModelLayout],
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    *,
    contexts: Sequence[int] = CONTEXTS,
) -> tuple[Choice, ...]:
    """Every quantization, context and KV cache type, the best first."""
    choices = []
    for layout in layouts:
        shapes = Shapes(layout)
        kinds = [
            kind
            for kind in reversed(_PRECISION)
            if all(memory.kv_type_suits(layout, kind, keys=keys) for keys in (True, False))
        ]
        usable = [context for context in contexts if context <= layout.context_length]
        for context in usable or [layout.context_length]:
            for kind in kinds:
                wanted = dataclasses.replace(
                    request, context=context, kv_type_k=kind, kv_type_v=kind
                )
                plan = make_plan(layout, wanted, devices, host, limits=False, shapes=shapes)
                choices.append(Choice(layout=layout, kv_type=kind, plan=plan))
    return tuple(sorted(choices, key=lambda choice: choice.rank, reverse=True))


def exactly(choice: Choice, devices: Sequence[PlanDevice], host: PlanHost) -> Choice:
    """The same choice with figures to the byte, and with tensors apart where that helps."""
    return dataclasses.replace(
        choice, plan=make_plan(choice.layout, choice.plan.request, devices, host)
    )


def missing_bytes(choice: Choice, devices: Sequence[PlanDevice], host: PlanHost) -> int:
    """What the fullest device lacks in the best split of all layers; 0 where they fit."""
    if choice.plan.verdict is Verdict.FITS or not devices:
        return 0
    problem = Problem(choice.layout, choice.plan.request, usable(devices), host)
    lacking = Search(problem, choice.plan.context, 0).missing()
    return lacking[0][0] if lacking else 0


def relatives(
    models: Sequence[Sequence[ModelLayout]],
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
) -> list[Choice]:
    """The best choice of each other model that lies wholly on devices, or in main memory without any.

    `models` are the quantizations of each, the nearest relative first.
    """
    wanted = Verdict.FITS if devices else Verdict.CPU_ONLY
    best = (matrix(layouts, request, devices, host)[0] for layouts in models)
    return [exactly(choice, devices, host) for choice in best if choice.plan.verdict is wanted]


def reason(best: Choice) -> str:
    """Why this one, or why none, in one plain sentence."""
    plan, layout = best.plan, best.layout
    words = f"{layout.quantization} with {plan.context:,} tokens and {best.kv_type} as KV cache"
    used = [share for share in plan.devices if share.layer_count]
    if plan.verdict is Verdict.TOO_LARGE:
        short = units.format_memory(plan.shortfall_bytes)
        return f"Nothing fits: even {words} lacks {short} on one device or in main memory."
    if plan.verdict is Verdict.FITS:
        left = units.format_memory(min(share.left_bytes for share in used))
        where = used[0].device.label if len(used) == 1 else f"{len(used)} devices"
        return f"{words}: the best quantization that lies wholly on {where}, with {left} left on the fullest."
    if plan.verdict is Verdict.PARTLY:
        held = units.format_memory(plan.host.weights_bytes + plan.host.kv_cache_bytes)
        return f"{words}: it runs with {held} of it in main memory, which is slow."
    return f"{words}: it runs on the CPU alone, in main memory."
