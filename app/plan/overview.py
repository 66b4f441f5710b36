"""Whether a machine runs a model: a row for each quantization, a cell for each context; and in one word."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from app import units
from app.gguf.model import ModelLayout
from app.plan import placement, recommend, speed
from app.plan.model import KvCacheType, LoadPlan, PlanDevice, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.recommend import Choice
from app.plan.speed import Range

CONTEXTS = (8_192, 16_384, 32_768, 65_536, 131_072)
TIGHT_BYTES = units.GIB
"""With less than this left on the fullest device a choice is tight."""
FIT_CONTEXT = 8_192
LIKELY_BITS = 4.8
"""Bits per weight of Q4_K_M, the usual quantization."""
_WHOLE = (Verdict.FITS, Verdict.CPU_ONLY)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a model is planned for."""

    devices: tuple[PlanDevice, ...]
    host: PlanHost

    @property
    def words(self) -> str:
        """`8 × RTX 3090`, `RTX 4090 and RTX 3060`, or main memory where there is no device."""
        if not self.devices:
            return f"{units.format_memory(self.host.total_bytes, digits=0)} of main memory"
        counts = collections.Counter(device.name for device in self.devices)
        return " and ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model suits a machine, in short.

    Attributes:
        quantization: The best that lies where it should, else the smallest; empty if unknown.
        size_bytes: Of its files; 0 if unknown.
        likely: True if only the number of weights was known.
    """

    verdict: Verdict
    quantization: str = ""
    size_bytes: int = 0
    likely: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One quantization with one context.

    Attributes:
        choice: With the most precise KV cache that leaves something to spare, else that fits, else runs.
        missing_bytes: What the fullest device lacks (main memory where there is none); 0 if it fits.
    """

    context: int
    choice: Choice
    missing_bytes: int

    @property
    def fits(self) -> bool:
        """True if all lies on devices, or in main memory where there are none."""
        return self.choice.plan.verdict in _WHOLE

    @property
    def tight(self) -> bool:
        """True if it fits with little to spare."""
        return self.fits and left_bytes(self.choice.plan) < TIGHT_BYTES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantization.

    Attributes:
        name: Names it: the quantization, or a file where two have the same.
        best: What to take of it.
        rate: Tokens/s of `best`; None if nothing is known of a device.
    """

    name: str
    size_bytes: int
    bits_per_weight: float
    best: Choice
    rate: Range | None
    cells: tuple[Cell, ...]

    @property
    def verdict(self) -> Verdict:
        """Of `best`."""
        return self.best.plan.verdict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All quantizations on a machine, the smallest first, as far as they are worked out.

    Attributes:
        pending: Names of those that are not worked out yet.
    """

    machine: Machine
    rows: tuple[Row, ...]
    pending: tuple[str, ...] = ()

    @property
    def best(self) -> Row | None:
        """The row to take: the best that fits, else the one that lacks least; None if there is none."""
        fitting = [row for row in self.rows if row.verdict in _WHOLE]
        if fitting:
            return max(fitting, key=lambda row: row.best.rank)
        runs = [row for row in self.rows if row.best.plan.runs] or self.rows
        return min(runs, key=lambda row: row.cells[0].missing_bytes, default=None)

    @property
    def fitting(self) -> int:
        """How many rows fit."""
        return sum(row.verdict in _WHOLE for row in self.rows)


def left_bytes(plan: LoadPlan) -> int:
    """What is left on the fullest device in use, or of main memory where none is."""
    used = [share.left_bytes for share in plan.devices if share.used]
    return min(used) if used else plan.host.left_bytes


def row(name: str, layout: ModelLayout, machine: Machine) -> Row:
    """A quantization in every context and with every KV cache type."""
    contexts = [c for c in CONTEXTS if c <= layout.context_length] or [layout.context_length]
    request = PlanRequest(any_order=True)
    choices = recommend.matrix([layout], request, machine.devices, machine.host, contexts=contexts)
    cells = tuple(_cell([c for c in choices if c.plan.context == n], machine) for n in contexts)
    # Of what leaves something to spare, the best; tight ones only where there is nothing else.
    best = max(cells, key=lambda cell: (cell.fits and not cell.tight, cell.choice.rank)).choice
    if best.plan.verdict not in _WHOLE:
        best = cells[0].choice
    rate = speed.estimate(best.plan, layout).generation if best.plan.runs else None
    return Row(
        name=name,
        size_bytes=layout.file_size_bytes,
        bits_per_weight=8 * layout.size_bytes / max(1, layout.parameter_count),
        best=best,
        rate=rate,
        cells=cells,
    )


def _cell(choices: Sequence[Choice], machine: Machine) -> Cell:
    """`choices` are one context's, the best first."""
    best = choices[0]
    fitting = [c for c in choices if c.plan.verdict in _WHOLE]
    roomy = [c for c in fitting if left_bytes(c.plan) >= TIGHT_BYTES]
    context = best.plan.context
    if fitting:
        order = list(KvCacheType)
        chosen = min(roomy or fitting, key=lambda c: order.index(c.kv_type))
        return Cell(context=context, choice=chosen, missing_bytes=0)
    smallest = max(choices, key=lambda c: list(KvCacheType).index(c.kv_type))
    if machine.devices:
        missing = recommend.missing_bytes(smallest, machine.devices, machine.host)
    else:
        missing = smallest.plan.shortfall_bytes
    return Cell(context=context, choice=best, missing_bytes=missing)


def fit(layouts: Sequence[ModelLayout], machine: Machine) -> Fit:
    """How the quantizations of a model suit a machine; the largest that fits is looked for by halving."""
    known = [layout for layout in layouts if layout.quantization not in recommend.LEGACY] or layouts
    ordered = sorted(known, key=lambda layout: layout.size_bytes)
    first = _judge(ordered[0], machine)
    if first not in _WHOLE:
        return _fit(ordered[0], first)

    def whole(index: int) -> ModelLayout | None:
        return ordered[index] if _judge(ordered[index], machine) in _WHOLE else None

    return _fit(placement.last_found(0, len(ordered), whole) or ordered[0], first)


def _fit(layout: ModelLayout, verdict: Verdict) -> Fit:
    return Fit(verdict=verdict, quantization=layout.quantization, size_bytes=layout.file_size_bytes)


def _judge(layout: ModelLayout, machine: Machine) -> Verdict:
    request = PlanRequest(
        context=min(FIT_CONTEXT, layout.context_length), kv_type_k=KvCacheType.Q8_0,
        kv_type_v=KvCacheType.Q8_0, any_order=True,
    )  # fmt: skip
    return make_plan(layout, request, machine.devices, machine.host, limits=False).verdict


def likely(parameters: int, machine: Machine) -> Fit:
    """How a model of so many weights suits a machine in the usual quantization, by size alone."""
    size = round(parameters * LIKELY_BITS / 8)
    wanted = size * 11 // 10
    devices = sum(max(0, device.free_bytes - units.GIB) for device in machine.devices)
    room = devices + machine.host.available_bytes
    if machine.devices and wanted <= devices:
        verdict = Verdict.FITS
    elif wanted <= room:
        verdict = Verdict.PARTLY if machine.devices else Verdict.CPU_ONLY
    else:
        verdict = Verdict.TOO_LARGE
    return Fit(verdict=verdict, quantization="Q4_K_M", size_bytes=size, likely=True)
