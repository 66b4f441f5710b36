"""From a model's layout and the devices' free memory to a `LoadPlan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.plan import memory, placement, rescue, tensor_parallel
from app.plan.model import LoadPlan, Objective, PlanDevice, PlanHost, PlanRequest, Verdict
from app.plan.problem import Problem
from app.plan.search import Search, Split
from app.plan.shapes import Shapes
from app.units import MIB

AUTOMATIC_CONTEXT = 32_768
MIN_CONTEXT = 512
MOST_CONTEXT = 2**24
MOST_DEVICES = 15
"""ggml's scheduler takes 16 backends, the CPU among them (GGML_SCHED_MAX_BACKENDS)."""
MOST_NAMED = 4
"""More devices that are left out are counted."""
CORRECTIONS = 3
"""How often a split is sought again after the exact figures were larger than the quick ones."""
SLACK = 128 * MIB
"""By so much the quick figures may be too large."""
LONGEST_PROBES = 5
"""Contexts that are tried beyond the longest for whole layers."""
TIGHT = 256 * MIB
"""With less left than this on a device the quick figures are not enough."""


def make_plan(
    layout: ModelLayout,
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    *,
    limits: bool = True,
    shapes: Shapes | None = None,
) -> LoadPlan:
    """The plan for `layout`.

    A context of None becomes the trained context, at most 32,768 tokens, halved until all layers
    fit where they fit at all. Layers that do not fit on devices stay in main memory, the first
    ones, as llama.cpp keeps them. Of more than 15 devices those with most memory are used. Without
    `limits` the most context stays unknown, and compute buffers are quick figures, exact only where
    it is tight: for many plans at once, whose layouts may share their `shapes`.

    Raises:
        AppError: What was fixed by hand contradicts the model.
    """
    problem = Problem(layout, request, usable(devices), host, shapes)
    problem.check()
    plan = _made(problem, limits=limits)
    return dataclasses.replace(plan, warnings=(*_left_out(devices), *plan.warnings))


def _made(problem: Problem, *, limits: bool) -> LoadPlan:
    """The plan, what it could hold at most, and what it lacks."""
    layout, request = problem.layout, problem.request
    context = request.context
    if context is None and request.tensor_parallel:
        first = min(layout.context_length, AUTOMATIC_CONTEXT)
        context = tensor_parallel.automatic_context(problem, first, 2 * MIN_CONTEXT)
    elif context is None:
        context = automatic_context(problem)
    if not 1 <= context <= MOST_CONTEXT:
        raise AppError(
            f"A context of {context:,} tokens is not possible.",
            hint=f"Choose between {MIN_CONTEXT} and {layout.context_length:,}.",
            kind=ErrorKind.USAGE,
        )
    if not limits:
        return quick(problem, context)
    plan = place(problem, context)
    most = max_context(problem, plan)
    if request.context is None and request.objective is Objective.LONGEST and most > context:
        longest = place(problem, most) if request.tensor_parallel else None
        plan = longest or _Limits(problem, plan).plan(most)
    plan = dataclasses.replace(plan, max_context=most)
    if plan.fits or request.by_hand or request.tensor_parallel or not problem.devices:
        return plan
    lacking = Search(problem, context, 0).missing()
    if not lacking:
        return plan
    return dataclasses.replace(
        plan,
        missing_bytes=lacking[0][0],
        missing_on=problem.devices[lacking[0][1]].id,
        missing_devices=len(lacking),
        missing_total_bytes=sum(size for size, _ in lacking),
    )


def usable(devices: Sequence[PlanDevice]) -> tuple[PlanDevice, ...]:
    """As many devices as llama.cpp takes, those with most memory, in their order."""
    if len(devices) <= MOST_DEVICES:
        return tuple(devices)
    chosen = sorted(devices, key=lambda device: -device.free_bytes)[:MOST_DEVICES]
    return tuple(device for device in devices if device in chosen)


def _left_out(devices: Sequence[PlanDevice]) -> tuple[str, ...]:
    """The devices that llama.cpp has no place for, in a sentence."""
    if len(devices) <= MOST_DEVICES:
        return ()
    used = {device.id for device in usable(devices)}
    spare = [device.label for device in devices if device.id not in used]
    words = ", ".join(spare) if len(spare) <= MOST_NAMED else f"{len(spare)} of {len(devices)}"
    verb = "is" if len(spare) == 1 else "are"
    return (f"llama.cpp takes at most {MOST_DEVICES} devices: {words} {verb} left out.",)


def place(problem: Problem, context: int) -> LoadPlan:
    """Layers to devices for one context, to the byte."""
    request, total = problem.request, problem.total_layers
    if request.tensor_parallel:
        return tensor_parallel.place(problem, context)
    if request.layer_counts is not None:
        split: Split = range(len(problem.devices)), request.layer_counts
        return problem.build(context, split, exact=True)
    search = Search(problem, context, 0)
    plan = problem.build(context, search.split(), exact=True)
    if plan.request.flash_attention is not request.flash_attention:
        return place(problem.changed(flash_attention=plan.request.flash_attention), context)
    if plan.gpu_layers < total and not request.by_hand:
        plan = whole(problem, context) or plan
    for _ in range(CORRECTIONS):
        over = _over(plan)
        if over <= 0 or search.forced:
            break
        search = Search(problem, context, search.margin + over)
        plan = problem.build(context, search.split(), exact=True)
    if plan.runs and plan.gpu_layers == total:
        return plan
    if not problem.devices or request.gpu_layers is not None:
        return plan
    return rescue.rescued(problem, context) or rescue.best_partial(problem, context, plan)


def whole(problem: Problem, context: int) -> LoadPlan | None:
    """The plan with all layers on devices, none of them taken apart, to the byte; None if they do not fit."""
    if problem.request.tensor_parallel:
        split_up = tensor_parallel.place(problem, context)
        return split_up if split_up.runs else None
    margin = -SLACK
    for _ in range(CORRECTIONS):
        split = Search(problem, context, margin).placed(problem.total_layers)
        if split is None:
            return None
        plan = problem.build(context, split, exact=True)
        over = _over(plan)
        if over <= 0:
            return plan if plan.runs else None
        margin += over
    return None


def quick(problem: Problem, context: int) -> LoadPlan:
    """The plan with quick figures, but to the byte where they leave it open whether all fits."""
    if problem.request.tensor_parallel:
        return tensor_parallel.place(problem, context)
    plan = _quick(problem, context, 0)
    by_hand = problem.request.by_hand or not problem.devices
    roomy = all(share.left_bytes >= TIGHT for share in plan.devices if share.used)
    if by_hand or (plan.verdict is Verdict.FITS and roomy):
        return plan
    found = whole(problem, context)
    if found is not None:
        return found
    return _quick(problem, context, TIGHT) if plan.verdict is Verdict.FITS else plan


def _quick(problem: Problem, context: int, margin: int) -> LoadPlan:
    counts = problem.request.layer_counts
    if counts is not None:
        return problem.build(context, (range(len(problem.devices)), counts), exact=False)
    return problem.build(context, Search(problem, context, margin).split(), exact=False)


def _over(plan: LoadPlan) -> int:
    """By how much the fullest device is over; 0 or less if none is."""
    return -min((share.left_bytes for share in plan.devices if share.used), default=0)


# --- context ----------------------------------------------------------------


def automatic_context(problem: Problem) -> int:
    """The trained context up to 32,768, halved while not everything fits."""
    context = first = min(problem.layout.context_length, AUTOMATIC_CONTEXT)
    while context > 2 * MIN_CONTEXT:
        plan = _quick(problem, context, 0)
        if plan.verdict is Verdict.FITS or (not problem.devices and plan.runs):
            break
        context //= 2
    else:
        context = min(first, 8 * MIN_CONTEXT)
    if problem.request.objective is Objective.LONGEST:
        most = max_context(problem, quick(problem, context)) or context
        return _longest(problem, most) if problem.devices else most
    return max(1, context)


def max_context(problem: Problem, plan: LoadPlan) -> int:
    """Most tokens, in steps of 256, with which the verdict stays as good; in the plan's order.

    By quick figures, which may leave some percent unused; that it fits is sure to the byte.
    """
    if problem.request.tensor_parallel:
        return tensor_parallel.max_context(problem)
    limits = _Limits(problem, plan)
    step, most = memory.CONTEXT_STEP, problem.layout.context_length

    def steps(count: int) -> int | None:
        return count if limits.quickly(count * step) else None

    low = placement.last_found(0, -(-most // step) + 1, steps) or 0
    while low and not limits.exactly(low * step):
        low -= max(1, low // 64)
    return min(low * step, most)


def _longest(problem: Problem, context: int) -> int:
    """The most tokens that fit if tensors may lie apart, where `context` fits without."""
    low, high = context, problem.layout.context_length
    if high <= low or rescue.rescued(problem, high) is not None:
        return max(low, high)
    for _ in range(LONGEST_PROBES):
        middle = (low + high) // 2 // memory.CONTEXT_STEP * memory.CONTEXT_STEP
        if middle <= low:
            break
        if rescue.rescued(problem, middle) is not None:
            low = middle
        else:
            high = middle
    return low


class _Limits:
    """Whether a plan stays as good with another context, its devices in the same order."""

    def __init__(self, of: Problem, plan: LoadPlan) -> None:
        order = tuple(share.device for share in plan.devices)
        request = dataclasses.replace(plan.request, any_order=False, objective=Objective.BALANCED)
        problem = Problem(of.layout, request, order, of.host, of.shapes)
        self._problem, self._plan = problem, plan
        self._split: Split = range(len(plan.devices)), plan.tensor_split
        self._apart = problem.moved(plan.tensor_overrides)
        self._shared = any(share.device.shares_host_memory for share in plan.devices)
        self._good = {Verdict.FITS, plan.verdict}
        if not problem.devices:
            self._good = {Verdict.CPU_ONLY}
        elif plan.verdict is Verdict.TOO_LARGE:
            self._good = {Verdict.FITS, Verdict.PARTLY, Verdict.CPU_ONLY}

    @property
    def _whole(self) -> bool:
        by_hand = self._problem.request.by_hand or self._shared
        return self._plan.verdict is Verdict.FITS and not by_hand

    def quickly(self, context: int) -> bool:
        """By quick figures, or with tensors apart exactly."""
        if self._plan.tensor_overrides:
            return self.exactly(context)
        if self._whole:
            return Search(self._problem, context, 0).fits()
        return _quick(self._problem, context, 0).verdict in self._good

    def plan(self, context: int) -> LoadPlan:
        """The plan with another context, tensors apart as they are."""
        if self._plan.tensor_overrides:
            return self._problem.build(context, self._split, exact=True, overrides=self._apart)
        return place(self._problem, context)

    def exactly(self, context: int) -> bool:
        """To the byte."""
        problem = self._problem
        if self._plan.tensor_overrides:
            return self.plan(context).runs
        split = self._split
        if problem.request.layer_counts is None:
            split = Search(problem, context, 0).split()
        return problem.build(context, split, exact=True).verdict in self._good
