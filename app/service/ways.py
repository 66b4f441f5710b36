"""What can be done about a plan that failed: each way tried on the planner, with what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from app.catalog.library import Library, State
from app.errors import AppError
from app.events import WayOut
from app.gguf.model import ModelLayout
from app.plan import speed
from app.plan.model import LoadPlan, Remedy, Verdict
from app.settings.model import Settings, SplitMode
from app.settings.requests import with_remedy

Preview = Callable[[Settings], LoadPlan | None]
Find = Callable[[str], Path | None]
"""A file on this machine with the same model in that quantization."""


_FIELDS = (
    "model_path",
    "context",
    "kv_type_k",
    "kv_type_v",
    "micro_batch",
    "split_mode",
    "layers",
    "reserves",
    "disabled_devices",
)
"""Settings that a way out may change."""


def changed(way: Settings) -> dict[str, object]:
    """What the settings of a way change in those in force by then."""
    return {name: getattr(way, name) for name in _FIELDS}


def ways(
    settings: Settings,
    failed: LoadPlan,
    layout: ModelLayout,
    preview: Preview,
    exact: Preview,
    find: Find,
    place: str = "",
    *,
    anew: bool = True,
) -> tuple[WayOut, ...]:
    """What to do after `failed` did not load with `settings`, what costs least first.

    Args:
        settings: In force; the plan that they give now has the machine as it really is.
        failed: What was loaded with them.
        layout: Of its model.
        preview: Plans with other settings, quickly.
        exact: The same with remedies, which takes longer.
        find: Files that are here.
        place: Id of the device that lacked memory, if that was it.
        anew: Offer the new plan of the same settings as well.
    """
    kept = settings
    if settings.context is None:
        kept = settings.model_copy(update={"context": failed.context})
    plan = _tried(exact, kept)
    if plan is None:
        return ()
    found: list[WayOut] = []
    host: list[WayOut] = []
    if anew and plan.runs and not _same(plan, failed):
        way = WayOut(
            title=_new_split(plan, failed, place), effect=effect(plan, layout), settings=kept
        )
        (found if plan.fits else host).append(way)
    rest: list[WayOut] = []
    for remedy in plan.remedies:
        if remedy.quantization:
            rest += _smaller(remedy, settings, find)
        elif remedy.changes or remedy.layers:
            found += _applied(remedy, kept, layout, preview)
    return (*found, *host, *rest)


def effect(plan: LoadPlan, layout: ModelLayout) -> str:
    """Where it lies then, and how fast it will be."""
    used = [share.device for share in plan.devices if share.used]
    places = f"{len(used)} devices"
    if len(used) == 1:
        # RPC devices are numbered anew once one of them is left out.
        server = f" at {used[0].name}" if used[0].backend == "rpc" else ""
        places = f"{used[0].label}{server}"
    if plan.verdict is Verdict.FITS:
        words = f"fits on {places}"
    elif plan.verdict is Verdict.PARTLY:
        total = plan.block_count + 1
        words = f"{plan.gpu_layers} of {total} layers on {places}, the rest in main memory"
    else:
        words = "runs in main memory alone"
    rate = speed.estimate(plan, layout).generation
    return f"{words}, about {rate.likely} tokens/s" if rate else words


def title(remedy: Remedy) -> str:
    """What a button says that applies a remedy."""
    if remedy.layers:
        layers, _, label = remedy.sentence.removeprefix("With ").partition(" moved off ")
        return f"Move {layers} off {label.partition(' it fits')[0]}"
    match dict(remedy.changes):
        case {"kv_type_k": kind, "micro_batch": int(size)}:
            return f"Use a KV cache of {kind} and a micro-batch of {size}"
        case {"kv_type_k": kind}:
            return f"Use a KV cache of {kind}"
        case {"micro_batch": int(size)}:
            return f"Use a micro-batch of {size}"
        case {"context": int(tokens)}:
            return f"Use a context of {tokens:,}"
        case {"reserves": _}:
            return "Use the usual reserve"
        case _:
            return "Split automatically"


def _applied(
    remedy: Remedy, settings: Settings, layout: ModelLayout, preview: Preview
) -> Iterator[WayOut]:
    """The way, if it really is one."""
    changed = with_remedy(settings, remedy)
    plan = _tried(preview, changed)
    if plan is None or not plan.runs or not plan.fits:
        return
    cost = "; long prompts take longer" if "micro_batch" in remedy.changes else ""
    yield WayOut(title=title(remedy), effect=effect(plan, layout) + cost, settings=changed)


def _smaller(remedy: Remedy, settings: Settings, find: Find) -> Iterator[WayOut]:
    path = find(remedy.quantization)
    if path is not None:
        changed = settings.model_copy(update={"model_path": str(path)})
        yield WayOut(
            title=f"Load {remedy.quantization}",
            effect=f"fits, and is here as {path.name}",
            settings=changed,
        )
    else:
        yield WayOut(
            title=f"Download {remedy.quantization}",
            effect=remedy.sentence.rstrip("."),
            quantization=remedy.quantization,
        )


def without(settings: Settings, ids: Sequence[str]) -> Settings:
    """The settings with these devices switched off; a split by hand of what is left says nothing any more."""
    off = tuple(dict.fromkeys((*settings.disabled_devices, *ids)))
    changes: dict[str, object] = {"disabled_devices": off}
    if settings.split_mode is SplitMode.MANUAL and any(settings.layers.get(id) for id in ids):
        changes["split_mode"] = SplitMode.AUTOMATIC
    return settings.model_copy(update=changes)


def within(settings: Settings, ids: Sequence[str]) -> Settings:
    """The settings with these devices switched on."""
    off = tuple(id for id in settings.disabled_devices if id not in ids)
    return settings.model_copy(update={"disabled_devices": off})


def _tried(preview: Preview, settings: Settings) -> LoadPlan | None:
    try:
        return preview(settings)
    except AppError:
        return None


def _same(plan: LoadPlan, failed: LoadPlan) -> bool:
    """True if loading it would ask the devices for the same again."""
    return _shape(plan) == _shape(failed)


def _shape(plan: LoadPlan) -> object:
    return (
        [(s.device.id, s.layer_count) for s in plan.devices if s.used],
        plan.tensor_overrides,
        plan.context,
        plan.request.kv_type_k,
        plan.request.kv_type_v,
        plan.request.micro_batch,
    )


def _new_split(plan: LoadPlan, failed: LoadPlan, place: str) -> str:
    """What is different, in a few words."""
    layers = plan.block_count + 1 - plan.gpu_layers
    if not plan.fits and layers:
        return f"Leave {_layers(layers)} in main memory"
    if not plan.fits:
        return "Leave some tensors in main memory"
    now, before = (
        {share.device.id: share.layer_count for share in each.devices} for each in (plan, failed)
    )
    fewer = before.get(place, 0) - now.get(place, 0)
    label = next((s.device.label for s in failed.devices if s.device.id == place), "")
    if fewer > 0 and not now.get(place):
        return f"Leave {label} out"
    return f"Move {_layers(fewer)} off {label}" if fewer > 0 else "Use another split"


def _layers(count: int) -> str:
    return "one layer" if count == 1 else f"{count} layers"


def local_file(library: Library, layout: ModelLayout | None, quantization: str) -> Path | None:
    """The first file of the same model in another quantization, whole and on this machine."""
    for model in library.models:
        if (
            layout is not None
            and model.state is State.COMPLETE
            and model.quantization == quantization
            and (model.architecture, model.parameter_count)
            == (layout.architecture, layout.parameter_count)
        ):
            return model.files[0]
    return None
