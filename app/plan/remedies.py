"""What would help where a model does not fit, in the order of what it costs the person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from app import units
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, Remedy, Verdict
from app.plan.planner import MIN_CONTEXT, make_plan, max_context, quick, usable, whole
from app.plan.problem import Problem

SMALLER_BATCHES = (256, 128, 64)


def with_remedies(
    plan: LoadPlan,
    layout: ModelLayout,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    alternatives: Sequence[ModelLayout] = (),
) -> LoadPlan:
    """The plan with what would help, if not everything lies on devices; each was tried.

    `alternatives` are other quantizations of the model, and relatives, the nearest first.
    """
    if plan.fits or plan.request.force:
        return plan
    wanted = Verdict.FITS if devices else Verdict.CPU_ONLY
    problem = Problem(layout, plan.request, usable(devices), host)
    found = tuple(_found(plan, problem, wanted, alternatives))
    return dataclasses.replace(plan, remedies=found, hint=str(found[0]) if found else "")


def _found(
    plan: LoadPlan, problem: Problem, wanted: Verdict, alternatives: Sequence[ModelLayout]
) -> Iterator[Remedy]:
    if problem.request.tensor_parallel:
        by_layers = problem.changed(tensor_parallel=False, any_order=True)
        if _fits(by_layers, plan, wanted):
            reset = {"layer_counts": None, "gpu_layers": None}
            yield Remedy(sentence="With layers split instead of tensors it fits.", changes=reset)
    if problem.request.by_hand:
        automatic = {"layer_counts": None, "gpu_layers": None}
        problem = problem.changed(**automatic)
        if _fits(problem, plan, wanted):
            yield Remedy(sentence="Reset the split to automatic: then it fits.", changes=automatic)
            return
    if problem.request.reserves and _fits(problem, plan, wanted, reserves={}):
        yield Remedy(sentence="With the usual reserve it fits.", changes={"reserves": {}})
        return
    yield from _smaller_work(problem, plan, wanted)
    context = _fitting_context(problem, plan, wanted)
    if context:
        yield Remedy(
            sentence=f"With a context of up to {context:,} tokens it fits.",
            changes={"context": context},
        )
    smaller = _smaller(plan, problem, wanted, alternatives)
    if smaller:
        yield Remedy(sentence=smaller)
    elif alternatives and not context:
        yield Remedy(sentence="No other quantization or relative that is known here fits.")
    yield from (Remedy(sentence=words, missing=True) for words in _missing(plan))


def _smaller_work(problem: Problem, plan: LoadPlan, wanted: Verdict) -> Iterator[Remedy]:
    """The most precise smaller KV cache, and the largest smaller micro-batch, that are enough alone."""
    for kind in (KvCacheType.Q8_0, KvCacheType.Q4_0):
        kinds = {"kv_type_k": kind, "kv_type_v": kind}
        if _fits(problem, plan, wanted, **kinds):
            yield Remedy(sentence=f"With a KV cache of {kind} it fits.", changes=kinds)
            break
    for batch in SMALLER_BATCHES:
        smaller_batch = batch < problem.request.micro_batch
        if smaller_batch and _fits(problem, plan, wanted, micro_batch=batch):
            yield Remedy(
                sentence=f"With a micro-batch of {batch} tokens it fits; long prompts take longer.",
                changes={"micro_batch": batch},
            )
            break


def _fits(problem: Problem, plan: LoadPlan, wanted: Verdict, **changes: object) -> bool:
    """True if these changes alone are enough."""
    changed = problem.changed(**changes)
    try:
        changed.check()
    except AppError:
        return False
    if wanted is Verdict.FITS:
        return whole(changed, plan.context) is not None
    return quick(changed, plan.context).verdict is wanted


def _fitting_context(problem: Problem, plan: LoadPlan, wanted: Verdict) -> int:
    """The longest context below the plan's with which it fits, 0 if none."""
    least = quick(problem, min(MIN_CONTEXT, plan.context))
    if least.verdict is not wanted:
        return 0
    longest = max_context(problem, least)
    return longest if longest < plan.context else 0


def _smaller(
    plan: LoadPlan, problem: Problem, wanted: Verdict, alternatives: Sequence[ModelLayout]
) -> str:
    """The largest other quantization that fits, or the first relative that does."""
    request = dataclasses.replace(problem.request, context=plan.context)
    here = problem.layout
    same = [a for a in alternatives if a.name == here.name and a.size_bytes < here.size_bytes]
    other = [a for a in alternatives if a.name != here.name]
    for layout in [*sorted(same, key=lambda a: a.size_bytes, reverse=True), *other]:
        context = min(plan.context, layout.context_length)
        asked = dataclasses.replace(request, context=context)
        try:
            made = make_plan(layout, asked, problem.devices, problem.host, limits=False)
        except AppError:
            continue
        if made.verdict is wanted:
            size = units.format_file_size(layout.size_bytes)
            if layout.name == here.name:
                return f"{layout.quantization} ({size}) fits."
            return f"{layout.name} at {layout.quantization} ({size}) fits: the nearest relative."
    return ""


def _missing(plan: LoadPlan) -> Iterator[str]:
    """Which place lacks how much."""
    for share in plan.devices:
        if share.layer_count and share.left_bytes < 0:
            yield f"{share.device.label} is {units.format_memory(-share.left_bytes)} short."
    if plan.missing_bytes:
        labels = {share.device.id: share.device.label for share in plan.devices}
        most = units.format_memory(plan.missing_bytes)
        if plan.missing_devices == 1:
            yield f"{labels[plan.missing_on or '']} is {most} short of a split with all layers on devices."
        else:
            total = units.format_memory(plan.missing_total_bytes)
            yield (
                f"For a split with all layers on devices {plan.missing_devices} of them are up to {most} "
                f"short each, {total} together."
            )
    if plan.host.left_bytes < 0:
        yield f"Main memory is {units.format_memory(-plan.host.left_bytes)} short."
        if plan.host.left_bytes + plan.host.weights_bytes >= 0:
            yield "Forced, it reads what main memory cannot keep from the disk again for each token."
