"""What would help where a model does not fit, in the order of what it costs the person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from app import units
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.plan.memory import CONTEXT_STEP
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
    automatic: dict[str, object] = {}
    if problem.request.by_hand:
        moved = _moved(problem, plan)
        automatic = {"layer_counts": None, "gpu_layers": None}
        problem = problem.changed(**automatic)
        fits = _fits(problem, plan, wanted)
        if fits:
            yield Remedy(sentence="Reset the split to automatic: then it fits.", changes=automatic)
        if moved is not None:
            yield moved
        if fits or moved is not None:
            return
    for remedy in _automatic(plan, problem, wanted, alternatives):
        changes = {**automatic, **remedy.changes} if remedy.changes else {}
        yield dataclasses.replace(remedy, changes=changes)


def _moved(problem: Problem, plan: LoadPlan) -> Remedy | None:
    """The split by hand with the fewest layers moved from devices that lack memory to those with most."""
    counts = plan.request.layer_counts
    if counts is None or len(problem.devices) < 2:
        return None
    now = list(counts)
    made = problem.build(plan.context, (range(len(now)), counts), exact=True)
    for _ in range(sum(counts)):
        left = [share.left_bytes for share in made.devices]
        short = min(range(len(now)), key=lambda index: left[index])
        if left[short] >= 0 or not now[short]:
            break
        to = max(range(len(now)), key=lambda index: left[index])
        now[short] -= 1
        now[to] += 1
        made = problem.build(plan.context, (range(len(now)), tuple(now)), exact=True)
    if not made.runs or tuple(now) == counts:
        return None
    gone = [(old - new, d.label) for old, new, d in zip(counts, now, problem.devices, strict=True)]
    count, label = max(gone)
    words = "one layer" if count == 1 else f"{count} layers"
    return Remedy(
        sentence=f"With {words} moved off {label} it fits.",
        layers={d.id: number for d, number in zip(problem.devices, now, strict=True)},
    )


def _automatic(
    plan: LoadPlan, problem: Problem, wanted: Verdict, alternatives: Sequence[ModelLayout]
) -> Iterator[Remedy]:
    """What would help an automatic split."""
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
    if smaller is not None:
        yield smaller
    elif alternatives and not context:
        yield Remedy(sentence="No other quantization or relative that is known here fits.")
    yield from (Remedy(sentence=words, missing=True) for words in _missing(plan))


def _smaller_work(problem: Problem, plan: LoadPlan, wanted: Verdict) -> Iterator[Remedy]:
    """The most precise smaller KV cache, and the largest smaller micro-batch, that are enough alone.

    Both together where neither is.
    """
    kinds: list[dict[str, object]] = [
        {"kv_type_k": kind, "kv_type_v": kind} for kind in (KvCacheType.Q8_0, KvCacheType.Q4_0)
    ]
    batches: list[dict[str, object]] = [
        {"micro_batch": batch} for batch in SMALLER_BATCHES if batch < problem.request.micro_batch
    ]
    alone = False
    for choices in (kinds, batches):
        changes = next((c for c in choices if _fits(problem, plan, wanted, **c)), None)
        if changes is not None:
            alone = True
            yield _smaller_remedy(changes)
    if not alone:
        both = ({**kind, **batch} for kind in kinds for batch in batches)
        changes = next((c for c in both if _fits(problem, plan, wanted, **c)), None)
        if changes is not None:
            yield _smaller_remedy(changes)


def _smaller_remedy(changes: dict[str, object]) -> Remedy:
    words = []
    if "kv_type_k" in changes:
        words.append(f"a KV cache of {changes['kv_type_k']}")
    if "micro_batch" in changes:
        words.append(f"a micro-batch of {changes['micro_batch']} tokens")
    cost = "; long prompts take longer" if "micro_batch" in changes else ""
    return Remedy(sentence=f"With {' and '.join(words)} it fits{cost}.", changes=changes)


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
    low, high = min(max_context(problem, least), plan.context), plan.context
    if wanted is Verdict.FITS:
        # Another order of the devices may hold more than the one of the least context.
        while high - low > max(CONTEXT_STEP, low // 32):
            middle = (low + high) // 2 // CONTEXT_STEP * CONTEXT_STEP
            if middle <= low:
                break
            if whole(problem, middle) is not None:
                low = middle
            else:
                high = middle
    return low if low < plan.context else 0


def _smaller(
    plan: LoadPlan, problem: Problem, wanted: Verdict, alternatives: Sequence[ModelLayout]
) -> Remedy | None:
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
                words = f"{layout.quantization} ({size}) fits."
                return Remedy(sentence=words, quantization=layout.quantization)
            name = f"{layout.name} at {layout.quantization}"
            return Remedy(
                sentence=f"{name} ({size}) fits: the nearest relative.", quantization=name
            )
    return None


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
