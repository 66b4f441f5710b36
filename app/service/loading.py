"""Whether a plan may be loaded, and whether it already is."""

from __future__ import annotations

import dataclasses

from app.engine.model import ModelLoaded
from app.errors import Action, AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.plan.model import LoadPlan


def checked(layout: ModelLayout | None, plan: LoadPlan | None) -> tuple[ModelLayout, LoadPlan]:
    """Both, if they can be loaded.

    Raises:
        AppError: No model is chosen, or it does not fit.
    """
    if layout is None or plan is None:
        raise no_model()
    if not plan.runs:
        raise AppError(
            f"{layout.name} does not fit: {plan.sentence}",
            hint=plan.hint,
            action=Action.OPEN_SPLIT,
            kind=ErrorKind.MEMORY,
        )
    return layout, plan


def no_model() -> AppError:
    """Nothing can be done yet."""
    return AppError(
        "No model is chosen.",
        hint="Choose a GGUF file.",
        action=Action.CHOOSE_MODEL,
        kind=ErrorKind.USAGE,
    )


def held(loaded: ModelLoaded) -> dict[str, int]:
    """What the model took, in bytes by the device's engine name."""
    return {m.device: m.model_bytes for m in loaded.loaded.memory}


def is_loaded(
    layout: ModelLayout | None,
    plan: LoadPlan | None,
    loaded: ModelLoaded | None,
    loaded_plan: LoadPlan | None,
) -> bool:
    """True unless another plan, or another model, is loaded than `layout` with `plan`."""
    if loaded is None or plan is None or loaded_plan is None or layout is None:
        return True
    return loaded.model_path == str(layout.files[0]) and same_load(plan, loaded_plan)


def same_load(plan: LoadPlan, loaded: LoadPlan) -> bool:
    """True if loading `plan` would change nothing that a person asked for.

    An automatic split that would come out a little different now is no reason to load again.
    """
    requested = (plan.request, loaded.request)
    by_hand = any(each.layer_counts is not None or each.tensor_parallel for each in requested)
    if by_hand and plan.tensor_split != loaded.tensor_split:
        return False
    used = [
        {share.device.id for share in each.devices if share.layer_count} for each in (plan, loaded)
    ]
    requests = [
        dataclasses.replace(each.request, context=None, layer_counts=None, any_order=False)
        for each in (plan, loaded)
    ]
    return used[0] == used[1] and requests[0] == requests[1] and plan.context == loaded.context


def check_confirmable(plan: LoadPlan, *, loaded: bool) -> None:
    """Make sure that a dry run of the plan would be answered.

    Raises:
        AppError: It splits tensors, or needs RPC servers, which already serve the engine.
    """
    if plan.request.tensor_parallel:
        raise AppError(
            "A dry run cannot tell how the tensors are split.",
            hint="Load the model: what the fullest device really holds is shown then.",
            kind=ErrorKind.USAGE,
        )
    if loaded and any(s.used and s.device.backend == "rpc" for s in plan.devices):
        raise AppError(
            "RPC servers serve one engine at a time.",
            hint="Unload the model, then confirm the plan.",
            kind=ErrorKind.USAGE,
        )
