"""What the catalog's pages say in numbers: which hardware runs a model, how it compares, answers.

Everything here is computed from layouts and plans when it is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from app import units
from app.catalog import entries
from app.catalog.model import ModelEntry, Relation
from app.gguf.model import ModelLayout
from app.hardware import gpu_table
from app.hardware.gpu_table import Gpu
from app.plan import least, memory
from app.plan.devices import imagined_device
from app.plan.model import KvCacheType, PlanHost, PlanRequest, Verdict
from app.plan.planner import make_plan
from app.plan.rules import CPU
from app.plan.shapes import Shapes
from app.units import GIB

CONTEXT = 32_768
"""Tokens for which hardware is looked for, unless a model was trained for fewer."""
LISTED = 4
_HOST = PlanHost(total_bytes=64 * GIB, available_bytes=64 * GIB)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """The fewest equal cards that hold a model."""

    gpu: str
    count: int
    memory_bytes: int

    def __str__(self) -> str:
        """As `--gpus` takes it: `2x H100 SXM`."""
        return f"{self.count}x {self.gpu}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a quantization takes.

    Attributes:
        context: Tokens that `cards` have room for beside the weights, with an f16 KV cache.
        cards: Of each GPU the fewest that hold all of it, the least memory first; at most 8.
    """

    quantization: str
    size_bytes: int
    parameter_count: int
    context: int
    cards: tuple[Cards, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, over all tensors."""
        return 8 * self.size_bytes / self.parameter_count

    @property
    def shortest(self) -> tuple[Cards, ...]:
        """For each number of cards the one with the least memory, the fewest cards first, a few."""
        by_count: dict[int, Cards] = {}
        for cards in self.cards:
            by_count.setdefault(cards.count, cards)
        return tuple(by_count[count] for count in sorted(by_count))[:LISTED]


def which(entry: ModelEntry, context: int = CONTEXT) -> Iterator[Needs]:
    """For every quantization of a model what hardware runs it, the smallest first, as it is found."""
    for kind in entries.quantizations(entry):
        yield needs(entries.layout(entry, kind), context)


def needs(layout: ModelLayout, context: int = CONTEXT) -> Needs:
    """What hardware holds all of a model."""
    tokens = min(context, layout.context_length)
    shapes = Shapes(layout)

    @functools.cache
    def each(count: int, backend: str) -> int:
        """Bytes that each of `count` equal cards must have: what a balanced split takes on the fullest."""
        plenty = 2 * layout.size_bytes + 2**40
        request = PlanRequest(context=tokens)
        roomy = Gpu(name="", memory_bytes=plenty, nominal_gib=plenty / GIB)
        devices = tuple(imagined_device(roomy, n, backend=backend) for n in range(count))
        plan = make_plan(layout, request, devices, _HOST, limits=False, shapes=shapes)
        if plan.verdict is not Verdict.FITS:
            return plenty
        return plenty - min(share.left_bytes for share in plan.devices)

    def fewest(gpu: Gpu) -> int:
        """How many of it hold the model; 0 if no number does."""
        counts = range(1, least.most_of(gpu) + 1)
        return next((n for n in counts if each(n, gpu_table.backend(gpu)) <= gpu.memory_bytes), 0)

    found = [
        Cards(gpu=gpu.name, count=count, memory_bytes=count * gpu.memory_bytes)
        for gpu in gpu_table.known()
        if (count := fewest(gpu))
    ]
    return Needs(
        quantization=layout.quantization,
        size_bytes=layout.file_size_bytes,
        parameter_count=layout.parameter_count,
        context=tokens,
        cards=tuple(sorted(found, key=lambda cards: (cards.memory_bytes, cards.count))),
    )


def compare(entry: ModelEntry, other: ModelEntry) -> str:
    """Which of two models is larger, and by how much: `other` against `entry`."""
    there, here = other.parameters.value, entry.parameters.value
    words = "as large" if there == here else "larger" if there > here else "smaller"
    text = f"{other.name} is {words}: {_billions(there)} parameters against {_billions(here)}"
    same = [k for k in entries.quantizations(entry) if k in entries.quantizations(other)]
    if not same:
        return f"{text}."
    kind = entries.DEFAULT_QUANTIZATION if entries.DEFAULT_QUANTIZATION in same else same[-1]
    sizes = [entries.layout(e, kind).file_size_bytes for e in (other, entry)]
    return (
        f"{text}, {units.format_file_size(sizes[0])} against "
        f"{units.format_file_size(sizes[1])} in {kind}."
    )


def relations(entry: ModelEntry) -> tuple[tuple[Relation, ModelEntry, str], ...]:
    """Each related model, its entry, and how it compares."""
    by_id = {other.id: other for other in entries.entries()}
    return tuple(
        (relation, by_id[relation.model], compare(entry, by_id[relation.model]))
        for relation in entry.relations
    )


def answers(entry: ModelEntry) -> tuple[tuple[str, str], ...]:
    """The usual questions about a model, with their answers filled in."""
    return tuple(
        (q.question, entries.fill(q.answer, functools.partial(_compute, entry)))
        for q in entry.questions
    )


def _compute(entry: ModelEntry, verb: str, arguments: tuple[str, ...]) -> str:
    """What a verb of the catalog stands for (`app.catalog.entries.VERBS`)."""
    match verb, arguments:
        case "parameters", ():
            return _billions(entry.parameters.value)
        case "context", ():
            return f"{entry.context_length.value:,}"
        case "size", (kind,):
            return units.format_file_size(entries.layout(entry, kind).file_size_bytes)
        case "compare", (name,):
            other = entries.find(name)
            return compare(entry, other) if other else ""
        case "hold", (gpus, kind, context):
            return _hold(entries.layout(entry, kind), gpus, int(context))
        case "least", (kind, context):
            return _least(entries.layout(entry, kind), int(context))
        case "kv", (context,):
            return _kv_cache(entries.layout(entry), int(context))
        case "largest", (kind,):
            return _largest(entries.layout(entry, kind))
        case _:
            raise ValueError(f"{entry.id}: {verb} {arguments}")


def _billions(count: int) -> str:
    if count < 1_000_000_000:
        return f"{count / 1e6:.0f} million"
    return f"{count / 1e9:.1f} billion"


def _hold(layout: ModelLayout, gpus: str, context: int) -> str:
    """Whether these cards hold it, and with how much to spare."""
    found = gpu_table.parse(gpus)
    backend = gpu_table.backend(found[0])
    devices = tuple(imagined_device(gpu, n, backend=backend) for n, gpu in enumerate(found))
    plan = make_plan(layout, PlanRequest(context=context), devices, _HOST)
    what = f"{layout.quantization} with {context:,} tokens"
    if plan.verdict is Verdict.FITS:
        left = units.format_memory(min(s.left_bytes for s in plan.devices if s.layer_count))
        verb, rest = ("holds", "it") if len(found) == 1 else ("hold", "the fullest")
        return f"{gpus} {verb} {what} wholly, with {left} left on {rest}."
    count, total = plan.gpu_layers, plan.block_count + 1
    where = "" if plan.verdict is Verdict.TOO_LARGE else "; the rest would run slowly on the CPU"
    return (
        f"{gpus} {'does' if len(found) == 1 else 'do'} not hold {what}: "
        f"{count} of {total} layers fit{where}."
    )


def _least(layout: ModelLayout, context: int) -> str:
    """The least hardware that holds it, in words."""
    found = needs(layout, context)
    what = f"{layout.quantization} with {found.context:,} tokens"
    listed = [str(cards) for cards in found.shortest]
    if not listed:
        return f"No machine of up to {least.MOST_CARDS} equal cards holds {what}."
    words = " or ".join([", ".join(listed[:-1]), listed[-1]] if listed[1:] else listed)
    return f"{what} takes at least {words}."


def kv_cache_bytes(layout: ModelLayout, context: int, kind: KvCacheType) -> int:
    """What `context` tokens take in the KV cache, keys and values in `kind`."""
    request = PlanRequest(context=context, kv_type_k=kind, kv_type_v=kind)
    return sum(memory.layer_kv_cache(layout, request, context, CPU))


def _kv_cache(layout: ModelLayout, context: int) -> str:
    """What the KV cache takes in full and in half precision."""
    sizes = []
    for kind in (KvCacheType.F16, KvCacheType.Q8_0):
        size = kv_cache_bytes(layout, context, kind)
        sizes.append(f"{units.format_memory(size)} as {kind}")
    return f"{context:,} tokens take {' or '.join(sizes)}."


def _largest(layout: ModelLayout) -> str:
    """The largest layer beside the middle one."""
    sizes = sorted((layer.size_bytes, layer.index) for layer in layout.layers if layer.size_bytes)
    size, index = sizes[-1]
    usual = units.format_memory(sizes[len(sizes) // 2][0])
    empty = len(layout.layers) - len(sizes)
    more = f"; {empty} hold nothing" if empty else ""
    return (
        f"In {layout.quantization} layer {index} has {units.format_memory(size)}, "
        f"the middle one {usual}{more}."
    )
