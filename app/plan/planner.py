"""From a model's layout and the devices' free memory to a `LoadPlan`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout, TensorInfo
from app.hardware import gpu_table
from app.hardware.model import HardwareReport
from app.plan import memory, placement, verdicts
from app.plan.compute import ComputeTable, buffers, compute_table
from app.plan.model import (
    DevicePlan,
    FlashAttention,
    HostPlan,
    LoadPlan,
    Objective,
    PlanDevice,
    PlanHost,
    PlanRequest,
    TensorOverride,
    Verdict,
)
from app.plan.rules import CPU, BackendRules, rules
from app.plan.shapes import Shapes, Work

AUTOMATIC_CONTEXT = 32_768
MIN_CONTEXT = 512
MOST_CONTEXT = 2**24
MOST_DEVICES = 15
"""ggml's scheduler takes 16 backends, the CPU among them (GGML_SCHED_MAX_BACKENDS)."""
DIFFERENT = 0.05
"""Cards whose free memory differs by more than this share of the largest are worth another order."""
MOST_TRIED = 8
"""With more devices than these not every set of them is tried for the fewest."""
FEW = 4
"""All orders of so many devices are looked at where tensors move apart."""
CORRECTIONS = 3
"""How often a split is sought again after the exact figures were larger than the quick ones."""

HOST = -1
"""Main memory, among indices of devices."""
Split = tuple[Sequence[int], tuple[int, ...]]
"""The order of devices (indices), and layers for each in that order."""


def plan_devices(
    report: HardwareReport,
    *,
    order: Sequence[str] = (),
    disabled: Sequence[str] = (),
    learned: Mapping[str, int] | None = None,
) -> tuple[PlanDevice, ...]:
    """The devices that the engine can use, those of `order` first, without `disabled` (ids).

    `learned` are bytes beyond llama.cpp's account that loads took on this machine, by id.
    """
    usable = {d.id: d for d in report.usable_devices if d.id not in disabled}
    ordered = [*(i for i in order if i in usable), *(i for i in usable if i not in order)]
    result = []
    for device in (usable[i] for i in ordered):
        total, free = device.memory_total_bytes or 0, device.memory_free_bytes or 0
        others = device.used_by_others_bytes
        known = gpu_table.find(device.name)
        result.append(
            PlanDevice(
                id=device.id,
                label=device.label,
                name=device.name,
                engine_name=device.support.engine_name or "",
                backend=device.support.backend or "",
                total_bytes=total,
                free_bytes=total - others if others is not None else free,
                others_bytes=others if others is not None else total - free,
                shares_host_memory=_is_here(device.endpoint),
                bandwidth_bytes_per_s=known.bandwidth_bytes_per_s if known else None,
                prompt_flops_per_s=known.prompt_flops_per_s if known else None,
                learned_reserve_bytes=(learned or {}).get(device.id),
            )
        )
    return tuple(result)


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
    ones, as llama.cpp keeps them. Without `limits` the most context stays unknown, and compute
    buffers are the quick figures, hardly ever too small: for many plans at once, whose layouts
    may share their `shapes`.

    Raises:
        AppError: What was fixed by hand contradicts the model.
    """
    planner = Planner(layout, request, tuple(devices), host, shapes)
    planner.check()
    context = request.context
    if context is None:
        context = planner.automatic_context()
    if not 1 <= context <= MOST_CONTEXT:
        raise AppError(
            f"A context of {context:,} tokens is not possible.",
            hint=f"Choose between {MIN_CONTEXT} and {layout.context_length:,}.",
            kind=ErrorKind.USAGE,
        )
    if not limits:
        return planner.place(context, exact=False)
    return planner.plan(context)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A tensor apart from its layer: at `target`, the device (index), or HOST."""

    layer: int
    tensor: TensorInfo
    target: int
    override: TensorOverride

    def applied(
        self, order: Sequence[int], shares: Sequence[DevicePlan], host: HostPlan
    ) -> tuple[list[DevicePlan], HostPlan]:
        """Shares (of the devices in `order`) with the tensor taken from its layer's and put at its place."""
        result = []
        for index, share in zip(order, shares, strict=True):
            size = memory.tensor_bytes(self.tensor, rules(share.device.backend))
            first, last = share.first_layer, share.last_layer
            leaves = first is not None and last is not None and first <= self.layer <= last
            weights = share.weights_bytes + size * ((index == self.target) - leaves)
            result.append(dataclasses.replace(share, weights_bytes=weights))
        if self.target == HOST:
            size = memory.tensor_bytes(self.tensor, CPU)
            host = dataclasses.replace(host, weights_bytes=host.weights_bytes + size)
        return result, host


class Planner:
    """One request on one machine."""

    def __init__(
        self,
        layout: ModelLayout,
        request: PlanRequest,
        devices: tuple[PlanDevice, ...],
        host: PlanHost,
        shapes: Shapes | None = None,
    ) -> None:
        self.layout, self.request, self.devices, self.host = layout, request, devices, host
        self.shapes = shapes or Shapes(layout)
        self.total_layers = layout.block_count + 1
        self._rules = tuple(rules(device.backend) for device in devices)
        self._weights = {r: memory.layer_weights(layout, r) for r in {CPU, *self._rules}}
        self._shared = {r: memory.shared_weights(layout, r) for r in {CPU, *self._rules}}
        self.reserves = tuple(self._reserve(device) for device in devices)
        self._caches: dict[tuple[int, BackendRules], tuple[int, ...]] = {}

    def _reserve(self, device: PlanDevice) -> int:
        default = rules(device.backend).reserve_bytes
        if device.learned_reserve_bytes is not None:
            default = device.learned_reserve_bytes
        return self.request.reserves.get(device.id, default)

    @property
    def budgets(self) -> list[int]:
        """Bytes that the model may take on each device."""
        pairs = zip(self.devices, self.reserves, strict=True)
        return [device.free_bytes - reserve for device, reserve in pairs]

    def orders(self) -> list[tuple[int, ...]]:
        """Orders of devices to look at where all are too many: as given, and by room where that may be."""
        given = tuple(range(len(self.devices)))
        if not self.free_order:
            return [given]
        if len(given) <= FEW:
            budgets = self.budgets
            unlike = {
                tuple(budgets[i] for i in order): order for order in itertools.permutations(given)
            }
            return list(unlike.values())
        by_room = sorted(given, key=lambda index: self.budgets[index])
        return list(dict.fromkeys((given, tuple(by_room), tuple(reversed(by_room)))))

    @property
    def free_order(self) -> bool:
        """True if devices may change places and it makes a difference."""
        alike = len({device.backend for device in self.devices}) == 1
        return self.request.any_order and alike and len(set(self.budgets)) > 1

    def on_host(self, context: int, layers: int) -> int:
        """Bytes of weights and cache of the first `layers` in main memory."""
        cache = self._cache(context, CPU)
        shared = self._shared[CPU] if min(layers, self.layout.block_count) else 0
        return sum(self._weights[CPU][:layers]) + sum(cache[:layers]) + shared

    def changed(self, **changes: object) -> Planner:
        """The same machine and model with another request."""
        request = dataclasses.replace(self.request, **changes)  # type: ignore[arg-type]
        return Planner(self.layout, request, self.devices, self.host, self.shapes)

    def check(self) -> None:
        """Refuse what llama.cpp would refuse.

        Raises:
            AppError: With what to choose instead.
        """
        request = self.request
        for kind, keys in ((request.kv_type_k, True), (request.kv_type_v, False)):
            if not memory.kv_type_suits(self.layout, kind, keys=keys):
                raise AppError(
                    f"A {'K' if keys else 'V'} cache of {kind} does not suit {self.layout.name}.",
                    detail="The heads of this model do not divide into the type's blocks.",
                    hint="Choose f16.",
                    kind=ErrorKind.USAGE,
                )
        if request.kv_type_v.quantized and request.flash_attention is FlashAttention.OFF:
            raise AppError(
                f"A V cache of {request.kv_type_v} needs flash attention.",
                hint="Leave flash attention on, or choose f16 as V cache.",
                kind=ErrorKind.USAGE,
            )
        if request.layer_counts is not None:
            self._check_counts(request.layer_counts)

    def _check_counts(self, counts: tuple[int, ...]) -> None:
        wrong = len(counts) != len(self.devices) or any(count < 0 for count in counts)
        if wrong or sum(counts) > self.total_layers:
            raise AppError(
                f"The split {', '.join(map(str, counts))} does not suit {len(self.devices)} devices "
                f"and {self.total_layers} layers (output included).",
                hint="Reset the split to automatic.",
                kind=ErrorKind.USAGE,
            )

    # --- context ------------------------------------------------------------

    def automatic_context(self) -> int:
        """The trained context up to 32,768, halved while not everything fits."""
        context = max(MIN_CONTEXT, min(self.layout.context_length, AUTOMATIC_CONTEXT))
        first = context
        while context > 2 * MIN_CONTEXT:
            plan = self.place(context, exact=False)
            if plan.verdict is Verdict.FITS or (not self.devices and plan.fits):
                break
            context //= 2
        else:
            context = min(first, 8 * MIN_CONTEXT)
        if self.request.objective is Objective.LONGEST:
            return self.max_context(self.place(context, exact=False)) or context
        return context

    def max_context(self, plan: LoadPlan) -> int:
        """Most tokens, in steps of 256, with which the verdict stays as good; in the plan's order."""
        good: tuple[Verdict, ...] = (Verdict.FITS, plan.verdict)
        if not self.devices:
            good = (Verdict.CPU_ONLY,)
        elif plan.verdict is Verdict.TOO_LARGE:
            good = (Verdict.FITS, Verdict.PARTLY, Verdict.CPU_ONLY)
        order = tuple(share.device for share in plan.devices)
        request = dataclasses.replace(self.request, any_order=False, objective=Objective.BALANCED)
        ordered = Planner(self.layout, request, order, self.host, self.shapes)
        step = memory.CONTEXT_STEP
        low, high = 0, self.layout.context_length // step + 1
        while high - low > 1:
            middle = (low + high) // 2
            if plan.tensor_overrides:
                fits = middle * step <= plan.context
            elif plan.verdict is Verdict.FITS:
                fits = ordered.fits(middle * step)
            else:
                fits = ordered.place(middle * step, exact=False).verdict in good
            if fits:
                low = middle
            else:
                high = middle
        return low * step

    def fits(self, context: int) -> bool:
        """True if all layers fit on the devices, in their order or as they were fixed by hand."""
        if self.request.layer_counts is not None or self.request.gpu_layers is not None:
            return self.place(context, exact=False).verdict is Verdict.FITS
        if not _Attempt(self, context, 0).fits():
            return False
        host = self._host_plan(context, 0, self.table(context, pipelined=True).host)
        return host.left_bytes >= 0 or any(d.shares_host_memory for d in self.devices)

    # --- placing ------------------------------------------------------------

    def plan(self, context: int) -> LoadPlan:
        """The plan, with the most context that fits."""
        plan = self.place(context, exact=True)
        return dataclasses.replace(plan, max_context=self.max_context(plan))

    def place(self, context: int, *, exact: bool) -> LoadPlan:
        """Layers to devices for one context; `exact` with compute buffers to the byte."""
        if self.request.layer_counts is not None:
            split: Split = range(len(self.devices)), self.request.layer_counts
            return self.build(context, split, exact=exact)
        attempt = _Attempt(self, context, 0)
        plan = self.build(context, attempt.split(), exact=exact)
        for _ in range(CORRECTIONS if exact else 0):
            if plan.fits or attempt.forced:
                break
            attempt = _Attempt(self, context, attempt.margin + plan.shortfall_bytes)
            plan = self.build(context, attempt.split(), exact=exact)
        if plan.verdict is Verdict.FITS or not exact or self.request.gpu_layers is not None:
            return plan
        from app.plan import rescue

        if not self.devices:
            return plan
        return rescue.rescued(self, context) or rescue.best_partial(self, context, plan)

    def work(self, context: int) -> Work:
        """What is computed at once with this context."""
        request = self.request
        return Work(
            tokens=min(request.micro_batch, context),
            cells=memory.padded_context(context),
            local_cells=memory.local_cells(self.layout, context, request.micro_batch),
            flash_attention=request.flash_attention is not FlashAttention.OFF,
            kv_type_k=request.kv_type_k,
            kv_type_v=request.kv_type_v,
        )

    def table(self, context: int, *, pipelined: bool) -> ComputeTable:
        """Quick compute buffers, by the rules of the device that takes most."""
        return compute_table(
            self.shapes,
            self.work(context),
            pipelined=pipelined,
            alignment=max((r.alignment for r in self._rules), default=CPU.alignment),
            unpacks=any(rule.unpacks_cache for rule in self._rules),
        )

    def _cache(self, context: int, kind: BackendRules) -> tuple[int, ...]:
        """KV cache of each layer."""
        found = self._caches.get((context, kind))
        if found is None:
            found = memory.layer_kv_cache(self.layout, self.request, context, kind)
            self._caches[context, kind] = found
        return found

    def held(self, device: int, context: int) -> Callable[[int, int], int]:
        """`held(first, end)`: weights and cache of those layers on the device (index), in bytes."""
        kind = self._rules[device]
        shared, blocks = self._shared[kind], self.layout.block_count
        weights = _sums(self._weights[kind])
        cache = _sums(self._cache(context, kind))

        def held(first: int, end: int) -> int:
            total = weights[end] - weights[first] + cache[end] - cache[first]
            inner = min(end, blocks)
            return total + (shared if inner > first else 0)

        return held

    def build(
        self,
        context: int,
        split: Split,
        *,
        exact: bool,
        overrides: Sequence[Moved] = (),
    ) -> LoadPlan:
        """The plan for a given split, with these tensors apart from their layers."""
        order, counts = split
        first_offloaded = self.total_layers - sum(counts)
        edges = list(itertools.accumulate(counts, initial=first_offloaded))
        spans = list(itertools.pairwise(edges))
        used = sum(1 for count in counts if count)
        compute = self._compute(context, order, spans, overrides, exact=exact or not used)
        places = zip(order, spans, compute[:-1], strict=True)
        shares = [self._share(index, context, span, size) for index, span, size in places]
        host = self._host_plan(context, first_offloaded, compute[-1])
        for moved in overrides:
            shares, host = moved.applied(order, shares, host)
        return verdicts.judged(
            self.layout, self.request, tuple(shares), host,
            context=context,
            sizes=self._weights[CPU],
            overrides=tuple(moved.override for moved in overrides),
        )  # fmt: skip

    def _compute(
        self,
        context: int,
        order: Sequence[int],
        spans: Sequence[tuple[int, int]],
        overrides: Sequence[Moved],
        *,
        exact: bool,
    ) -> tuple[int, ...]:
        """Compute buffers of the devices in `order` with these spans of layers, and of the host."""
        used = sum(1 for first, end in spans if end > first)
        start = spans[0][0] if spans else self.total_layers
        pipelined = used > 1 and not start and not overrides
        if not exact:
            table = self.table(context, pipelined=pipelined)
            on_host = table(0, min(start, self.layout.block_count)) + table.host
            return (*(table(*span) for span in spans), on_host)
        places = [len(order)] * self.total_layers
        for place, (first, end) in enumerate(spans):
            places[first:end] = [place] * (end - first)
        return buffers(
            self.shapes,
            self.work(context),
            places,
            [self._rules[index] for index in order],
            pipelined=pipelined,
            overrides={
                moved.tensor.name: order.index(moved.target)
                if moved.target in order
                else len(order)
                for moved in overrides
            },
        )

    def _share(self, index: int, context: int, span: tuple[int, int], compute: int) -> DevicePlan:
        first, end = span
        kind = self._rules[index]
        cache = self._cache(context, kind)
        kv_cache = sum(cache[first:end])
        return DevicePlan(
            device=self.devices[index],
            layer_count=end - first,
            first_layer=first if end > first else None,
            last_layer=end - 1 if end > first else None,
            holds_output=first < end == self.total_layers,
            weights_bytes=self.held(index, context)(first, end) - kv_cache,
            kv_cache_bytes=kv_cache,
            compute_bytes=compute,
            reserve_bytes=self.reserves[index],
        )

    def _host_plan(self, context: int, layers: int, compute: int) -> HostPlan:
        """Main memory: the token embedding and the first `layers`, the output only if all stay there."""
        weights = memory.tensors_bytes(self.layout.token_embedding, CPU)
        weights += sum(self._weights[CPU][:layers])
        if layers == self.total_layers and self.layout.tied:
            # The output is the token embedding itself; a copy is made on other devices only.
            weights -= self._weights[CPU][-1] - memory.tensors_bytes(self.layout.output, CPU)
        weights += self._shared[CPU] if min(layers, self.layout.block_count) else 0
        return HostPlan(
            host=self.host,
            layer_count=layers,
            weights_bytes=weights,
            kv_cache_bytes=sum(self._cache(context, CPU)[:layers]),
            compute_bytes=compute,
            reserve_bytes=CPU.reserve_bytes,
        )


class _Attempt:
    """One search for a split."""

    def __init__(self, planner: Planner, context: int, margin: int) -> None:
        self._planner, self._context = planner, context
        self.margin = margin
        self.total = planner.total_layers
        self.budgets = [budget - margin for budget in planner.budgets]
        self._held = [planner.held(index, context) for index in range(len(self.budgets))]
        self.forced = False
        """True if the number of layers was given and they do not fit."""

    def split(self) -> Split:
        """The best split that fits, with as many layers on devices as can be."""
        planner = self._planner
        as_given = range(len(planner.devices))
        fixed = planner.request.gpu_layers
        nothing: Split = as_given, (0,) * len(planner.devices)
        if not planner.devices or fixed == 0:
            return nothing
        wanted = self.total if fixed is None else max(0, min(fixed, self.total))
        placed = self._placed(wanted)
        if placed is not None:
            return placed
        if fixed is not None:
            self.forced = True
            return as_given, placement.by_memory(wanted, [max(0, b) for b in self.budgets])
        low, high, best = 0, wanted, nothing  # `low` layers fit, `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            found = self._placed(middle)
            if found is None:
                high = middle
            else:
                low, best = middle, found
        return best

    def fits(self) -> bool:
        """True if all layers do."""
        return placement.fits(self.total, 0, self.budgets, self._cost(self.total))

    def _cost(self, layers: int) -> placement.Cost:
        pipelined = layers == self.total and len(self.budgets) > 1
        table = self._planner.table(self._context, pipelined=pipelined)
        held = self._held

        def cost(device: int, first: int, end: int) -> int:
            return held[device](first, end) + table(first, end)

        return cost

    def _placed(self, layers: int) -> Split | None:
        """As the objective wants it, or None if so many layers do not fit."""
        planner, request = self._planner, self._planner.request
        first, cost = self.total - layers, self._cost(layers)
        as_given = range(len(self.budgets))
        found = placement.balanced(self.total, first, self.budgets, cost)
        split: Split | None = None if found is None else (as_given, found)
        differ = max(self.budgets) - min(self.budgets) > DIFFERENT * max(self.budgets)
        free_order = planner.free_order
        if free_order and (differ or found is None):
            split = placement.balanced_any_order(self.total, first, self.budgets, cost)
        if split is None:
            return None
        if request.objective is Objective.FEWEST:
            return self._fewest(first, cost, split, free_order=free_order)
        if request.objective is Objective.FASTEST:
            return self._fastest(first, cost, split, free_order=free_order)
        return split

    def _fewest(self, first: int, cost: placement.Cost, split: Split, *, free_order: bool) -> Split:
        """As few devices as will do, and of those that are enough the ones with most room left.

        Where devices may change places those with most room are the best; in a given order each
        set of so many is tried.
        """
        order, devices = split[0], range(len(self.budgets))
        by_room = sorted(devices, key=lambda index: self.budgets[index], reverse=True)
        for count in range(1, len(by_room)):
            if free_order or len(by_room) > MOST_TRIED:
                sets: Iterable[tuple[int, ...]] = [tuple(by_room[:count])]
            else:
                sets = itertools.combinations(order, count)
            best: tuple[int, Split] | None = None
            for chosen in sets:
                found = self._only(first, cost, chosen, free_order=free_order)
                if found is not None and (best is None or found[0] > best[0]):
                    best = found
            if best is not None:
                return best[1]
        return split

    def _only(
        self, first: int, cost: placement.Cost, chosen: Sequence[int], *, free_order: bool
    ) -> tuple[int, Split] | None:
        """What is left on the fullest, and the split, if only these devices hold layers."""
        budgets = [self.budgets[index] for index in chosen]
        own = self._in_order(cost, chosen)
        counts = placement.balanced(self.total, first, budgets, own)
        order: Sequence[int] = chosen
        if free_order:
            found = placement.balanced_any_order(self.total, first, budgets, own)
            if found is not None:
                order, counts = [chosen[index] for index in found[0]], found[1]
        if counts is None:
            return None
        start, least = first, max(budgets)
        for index, number in zip(order, counts, strict=True):
            if number:
                least = min(least, self.budgets[index] - cost(index, start, start + number))
            start += number
        layers = dict(zip(order, counts, strict=True))
        rest = [index for index in range(len(self.budgets)) if index not in layers]
        whole = (*order, *rest) if free_order else tuple(range(len(self.budgets)))
        return least, (whole, tuple(layers.get(index, 0) for index in whole))

    @staticmethod
    def _in_order(cost: placement.Cost, order: Sequence[int]) -> placement.Cost:
        """The cost by place in an order of devices (indices)."""

        def own(place: int, start: int, end: int) -> int:
            return cost(order[place], start, end)

        return own

    def _fastest(
        self, first: int, cost: placement.Cost, split: Split, *, free_order: bool
    ) -> Split:
        """Least time for one token; unknown bandwidths count as equal ones."""
        rates = [device.bandwidth_bytes_per_s or 1e12 for device in self._planner.devices]
        by_rate = sorted(range(len(rates)), key=lambda index: rates[index])
        orders = {tuple(split[0])}
        if free_order:
            orders |= {tuple(by_rate), tuple(reversed(by_rate))}
        held, best = self._held, (math.inf, split)
        for order in sorted(orders):
            own = self._in_order(cost, order)

            def seconds(device: int, start: int, end: int, order: tuple[int, ...] = order) -> float:
                return held[order[device]](start, end) / rates[order[device]]

            budgets = [self.budgets[index] for index in order]
            found = placement.fastest(self.total, first, budgets, own, seconds)
            if found is not None and found[0] < best[0]:
                best = found[0], (order, found[1])
        return best[1]


def _is_here(endpoint: str | None) -> bool:
    """True for an RPC server on this machine, whose devices are its main memory."""
    host = (endpoint or "").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def _sums(values: Sequence[int]) -> list[int]:
    result = [0]
    for value in values:
        result.append(result[-1] + value)
    return result
