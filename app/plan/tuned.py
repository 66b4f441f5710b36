"""Splits that were measured to be the fastest, kept per model and machine for the next plan."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pydantic

from app import jsonfile
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.plan.model import FlashAttention, LoadPlan, Objective, PlanDevice, PlanHost, PlanRequest
from app.plan.planner import make_plan

MOST_ENTRIES = 100
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_REPLACED = (Objective.BALANCED, Objective.FASTEST)
"""A person who wants the fewest devices or the longest context gets that instead."""


class Tuned(pydantic.BaseModel):
    """What was the fastest.

    Attributes:
        devices: Ids in the order of layers.
        layer_counts: Layers for each; empty without devices.
        tokens_per_s: Generation, as measured.
        prompt_tokens_per_s: Prompt processing, as measured.
        measured_on: The day.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    devices: tuple[str, ...] = ()
    layer_counts: tuple[int, ...] = ()
    micro_batch: int = pydantic.Field(ge=1, le=65_536)
    flash_attention: FlashAttention
    tokens_per_s: float = pydantic.Field(gt=0)
    prompt_tokens_per_s: float = pydantic.Field(gt=0)
    measured_on: date

    @property
    def sentence(self) -> str:
        """What a plan says of it."""
        on = self.measured_on
        day = f"{on.day} {_MONTHS[on.month - 1]} {on.year}"
        return f"Measured fastest on {day}: {self.tokens_per_s:,.1f} tokens/s."


def tuned_from(plan: LoadPlan, tokens_per_s: float, prompt_tokens_per_s: float, on: date) -> Tuned:
    """What to remember of a plan that was measured."""
    placed = plan.devices if plan.gpu_layers else ()
    return Tuned(
        devices=tuple(share.device.id for share in placed),
        layer_counts=tuple(share.layer_count for share in placed),
        micro_batch=plan.request.micro_batch,
        flash_attention=plan.request.flash_attention,
        tokens_per_s=tokens_per_s,
        prompt_tokens_per_s=prompt_tokens_per_s,
        measured_on=on,
    )


class TunedStore:
    """One small JSON file; what does not suit the model, devices or engine of today is not found."""

    def __init__(self, path: Path, engine_version: str) -> None:
        """`path` need not exist; a broken file counts as empty."""
        self._path = path
        self._engine = engine_version

    @property
    def empty(self) -> bool:
        """True if nothing was measured on this machine."""
        return not jsonfile.read(self._path)

    def get(
        self, layout: ModelLayout, devices: Sequence[PlanDevice], request: PlanRequest, context: int
    ) -> Tuned | None:
        """What was the fastest with these devices, this context and KV cache; None if nobody measured."""
        found = jsonfile.read(self._path).get(self._key(layout, devices, request, context))
        with contextlib.suppress(pydantic.ValidationError):
            return Tuned.model_validate(found)
        return None

    def put(
        self,
        layout: ModelLayout,
        devices: Sequence[PlanDevice],
        request: PlanRequest,
        context: int,
        tuned: Tuned,
    ) -> None:
        """Remember it; a disk that cannot take it costs another measurement, no more."""
        key = self._key(layout, devices, request, context)
        values = {k: v for k, v in jsonfile.read(self._path).items() if k != key}
        self._write(values | {key: tuned.model_dump(mode="json")})

    def forget(
        self, layout: ModelLayout, devices: Sequence[PlanDevice], request: PlanRequest, context: int
    ) -> None:
        """It fits no longer."""
        key = self._key(layout, devices, request, context)
        values = jsonfile.read(self._path)
        if values.pop(key, None) is not None:
            self._write(values)

    def _key(
        self, layout: ModelLayout, devices: Sequence[PlanDevice], request: PlanRequest, context: int
    ) -> str:
        facts = [
            self._engine,
            [_identity(path) for path in layout.files],
            layout.size_bytes,
            sorted((device.id, device.backend, device.total_bytes) for device in devices),
            context,
            [request.kv_type_k, request.kv_type_v, request.micro_batch, request.flash_attention],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _write(self, values: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            jsonfile.write(self._path, dict(list(values.items())[-MOST_ENTRIES:]))


def _identity(path: Path) -> list[object]:
    """Name, size and time of the last change: another file has others, a moved one the same."""
    try:
        found = path.stat()
    except OSError:
        return [path.name, 0, 0]
    return [path.name, found.st_size, found.st_mtime_ns]


def tuned_plan(
    store: TunedStore,
    layout: ModelLayout,
    request: PlanRequest,
    devices: Sequence[PlanDevice],
    host: PlanHost,
    *,
    limits: bool = True,
) -> LoadPlan | None:
    """The plan that was measured as the fastest for such a request, if it still fits.

    None where nothing was measured, where a person fixed the split, or where other things than
    speed are wanted. What no longer fits is forgotten, but not by quick figures (no `limits`).
    """
    if store.empty or request.by_hand or request.objective not in _REPLACED:
        return None
    if devices and not request.any_order:
        return None
    context = request.context
    if context is None:
        context = make_plan(layout, request, devices, host, limits=False).context
    found = store.get(layout, devices, request, context)
    if found is None:
        return None
    known = {device.id: device for device in devices}
    order = [known[id] for id in found.devices if id in known]
    rest = [device for device in devices if device.id not in found.devices]
    counts = (*found.layer_counts, *(0 for _ in rest)) if found.devices else None
    measured = dataclasses.replace(
        request,
        context=context,
        layer_counts=counts,
        any_order=False,
        micro_batch=found.micro_batch,
        batch=max(request.batch, found.micro_batch),
        flash_attention=found.flash_attention,
    )
    plan = None
    if _suits(found, order, layout):
        with contextlib.suppress(AppError):  # which the plan without it tells, if it is the request
            plan = make_plan(layout, measured, (*order, *rest), host, limits=limits)
    if plan is None or not plan.runs:
        if limits:
            store.forget(layout, devices, request, context)
        return None
    return dataclasses.replace(plan, note=found.sentence)


def _suits(found: Tuned, order: Sequence[PlanDevice], layout: ModelLayout) -> bool:
    """False if somebody wrote what was never measured."""
    counts, ids = found.layer_counts, found.devices
    if not ids:
        return True
    each_once = len({*ids}) == len(order) == len(ids) == len(counts)
    return each_once and min(counts) >= 0 and sum(counts) <= layout.block_count + 1
