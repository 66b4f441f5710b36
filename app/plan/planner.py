"""From a model's layout and the devices' free memory to a `LoadPlan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.hardware import gpu_table
from app.hardware.model import HardwareReport
from app.plan import memory, placement, verdicts
from app.plan.compute import ComputeModel, ComputeTable, Source, compute_table
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
CORRECTIONS = 3
"""How often a split is sought again after the exact figures were larger than the quick ones."""

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
            if plan.verdict is Verdict.FITS and not plan.tensor_overrides:
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
        host = self._host_plan(context, 0, len(self.devices), True, exact=False)
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

        return rescue.rescued(self, context) or plan

    def work(self, context: int, device_rules: Sequence[object] | None = None) -> Work:
        """What is computed at once with this context."""
        request = self.request
        quantized = request.kv_type_k.quantized or request.kv_type_v.quantized
        found = self._rules if device_rules is None else device_rules
        return Work(
            tokens=min(request.micro_batch, context),
            cells=memory.padded_context(context),
            local_cells=memory.local_cells(self.layout, context, request.micro_batch),
            flash_attention=request.flash_attention is not FlashAttention.OFF,
            kv_type_k=request.kv_type_k,
            kv_type_v=request.kv_type_v,
            unpacks_cache=quantized and any(getattr(r, "unpacks_cache", False) for r in found),
        )

    def table(self, context: int, *, pipelined: bool) -> ComputeTable:
        """Quick compute buffers, by the rules of the device that takes most."""
        alignment = max((r.alignment for r in self._rules), default=CPU.alignment)
        work = self.work(context)
        return compute_table(self.shapes, work, pipelined=pipelined, alignment=alignment)

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
        overrides: Sequence[tuple[TensorOverride, int, int]] = (),
    ) -> LoadPlan:
        """The plan for a given split; each override with its layer and device (index, -1 for the host)."""
        order, counts = split
        offloaded = sum(counts)
        start = first_offloaded = self.total_layers - offloaded
        used = sum(1 for count in counts if count)
        pipelined = used > 1 and not first_offloaded and not overrides
        source = Source.HOST if first_offloaded else Source.EMBEDDING
        shares = []
        for index, count in zip(order, counts, strict=True):
            end = start + count
            compute = self._compute(index, context, (start, end), source, pipelined, exact=exact)
            source = Source.DEVICE if compute else source
            shares.append(self._share(index, context, (start, end), compute))
            start = end
        host = self._host_plan(context, first_offloaded, used, pipelined, exact=exact)
        if overrides:
            from app.plan import rescue

            shares, host = rescue.moved(self, context, order, shares, host, overrides)
        return verdicts.judged(
            self.layout, self.request, tuple(shares), host,
            context=context,
            sizes=self._weights[CPU],
            overrides=tuple(override for override, _, _ in overrides),
        )  # fmt: skip

    def _compute(
        self,
        index: int,
        context: int,
        span: tuple[int, int],
        source: Source,
        pipelined: bool,
        *,
        exact: bool,
    ) -> int:
        if span[0] == span[1]:
            return 0
        if not exact:
            return self.table(context, pipelined=pipelined)(*span)
        kind = self._rules[index]
        model = ComputeModel(
            self.shapes, self.work(context, (kind,)), pipelined=pipelined, alignment=kind.alignment
        )
        return model.device(*span, source=source)

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

    def _host_plan(
        self, context: int, layers: int, used: int, pipelined: bool, *, exact: bool
    ) -> HostPlan:
        """Main memory: the token embedding and the first `layers`, the output only if all stay there."""
        weights = memory.tensors_bytes(self.layout.token_embedding, CPU)
        weights += sum(self._weights[CPU][:layers])
        output = layers == self.total_layers
        if output and self.layout.tied:
            # The output is the token embedding itself; a copy is made on other devices only.
            weights -= self._weights[CPU][-1] - memory.tensors_bytes(self.layout.output, CPU)
        blocks = min(layers, self.layout.block_count)
        weights += self._shared[CPU] if blocks else 0
        cache = self._cache(context, CPU)
        if exact or not used:
            model = ComputeModel(
                self.shapes, self.work(context, ()), pipelined=pipelined, alignment=CPU.alignment
            )
            compute = model.host(blocks, output=output)
        else:
            table = self.table(context, pipelined=pipelined)
            compute = table(0, blocks) + table.exact.host(0, output=False)
        return HostPlan(
            host=self.host,
            layer_count=layers,
            weights_bytes=weights,
            kv_cache_bytes=sum(cache[:layers]),
            compute_bytes=compute,
            reserve_bytes=CPU.reserve_bytes,
        )


class _Attempt:
    """One search for a split."""

    def __init__(self, planner: Planner, context: int, margin: int) -> None:
        self._planner, self._context = planner, context
        self.margin = margin
        self.total = planner.total_layers
        free = [device.free_bytes for device in planner.devices]
        budgets = zip(free, planner.reserves, strict=True)
        self.budgets = [free - reserve - margin for free, reserve in budgets]
        self._held = [planner.held(index, context) for index in range(len(free))]
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
        alike = len({device.backend for device in planner.devices}) == 1
        differ = max(self.budgets) - min(self.budgets) > DIFFERENT * max(self.budgets)
        if request.any_order and alike and (differ or found is None) and len(set(self.budgets)) > 1:
            split = placement.balanced_any_order(self.total, first, self.budgets, cost)
        if split is None:
            return None
        if request.objective is Objective.FEWEST:
            return self._fewest(first, cost, split)
        if request.objective is Objective.FASTEST:
            return self._fastest(first, cost, split)
        return split

    def _fewest(self, first: int, cost: placement.Cost, split: Split) -> Split:
        """Only the devices with most room, as few as will do, in the order of `split`."""
        by_room = sorted(split[0], key=lambda index: self.budgets[index], reverse=True)
        for count in range(1, len(by_room)):
            chosen = set(by_room[:count])
            budgets = [self.budgets[i] if i in chosen else -1 for i in split[0]]
            ordered: placement.Cost = lambda d, a, b: cost(split[0][d], a, b) if b > a else 0  # noqa: E731
            found = placement.balanced(self.total, first, budgets, ordered)
            if found is not None:
                return split[0], found
        return split

    def _fastest(self, first: int, cost: placement.Cost, split: Split) -> Split:
        """Least time for one token; unknown bandwidths count as equal ones."""
        order = split[0]
        rates = [self._planner.devices[i].bandwidth_bytes_per_s or 1e12 for i in order]
        found = placement.fastest(
            self.total,
            first,
            [self.budgets[i] for i in order],
            lambda d, a, b: cost(order[d], a, b),
            lambda d, a, b: self._held[order[d]](a, b) / rates[d],
        )
        return split if found is None else (order, found)


def _is_here(endpoint: str | None) -> bool:
    """True for an RPC server on this machine, whose devices are its main memory."""
    host = (endpoint or "").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def _sums(values: Sequence[int]) -> list[int]:
    result = [0]
    for value in values:
        result.append(result[-1] + value)
    return result
