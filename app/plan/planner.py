"""From a model's layout and the devices' free memory to a `LoadPlan`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout, TensorInfo
from app.plan import memory, verdicts
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
from app.plan.search import Search, Split
from app.plan.shapes import Shapes, Work

AUTOMATIC_CONTEXT = 32_768
MIN_CONTEXT = 512
MOST_CONTEXT = 2**24
MOST_DEVICES = 15
"""ggml's scheduler takes 16 backends, the CPU among them (GGML_SCHED_MAX_BACKENDS)."""
FEW = 4
"""All orders of so many devices are looked at where tensors move apart."""
CORRECTIONS = 3
"""How often a split is sought again after the exact figures were larger than the quick ones."""

TOO_LONG = "Vulkan computes with no tensor over 4 GiB."
HOST = -1
"""Main memory, among indices of devices."""


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
        self._barred = {
            r: [
                (layer.index, tensor)
                for layer in layout.layers
                for tensor in layer.tensors
                if r.most_tensor_bytes is not None and tensor.size_bytes > r.most_tensor_bytes
            ]
            for r in {CPU, *self._rules}
        }
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
            if plan.verdict is Verdict.FITS or (not self.devices and plan.runs):
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
        split = tuple(range(len(order))), plan.tensor_split
        apart = ordered.moved(plan.tensor_overrides)
        step = memory.CONTEXT_STEP
        low, high = 0, self.layout.context_length // step + 1
        while high - low > 1:
            middle = (low + high) // 2
            if plan.tensor_overrides:
                fits = ordered.build(middle * step, split, exact=True, overrides=apart).runs
            elif plan.verdict is Verdict.FITS:
                fits = ordered.fits(middle * step)
            else:
                fits = ordered.place(middle * step, exact=False).verdict in good
            if fits:
                low = middle
            else:
                high = middle
        return low * step

    def moved(self, overrides: Sequence[TensorOverride]) -> tuple[Moved, ...]:
        """The same tensors apart on this planner's devices, but for those that their backend bars."""
        tensors = {t.name: (layer.index, t) for layer in self.layout.layers for t in layer.tensors}
        names = [device.engine_name for device in self.devices]
        return tuple(
            Moved(
                layer=tensors[override.tensor][0],
                tensor=tensors[override.tensor][1],
                target=HOST if override.device == "CPU" else names.index(override.device),
                override=override,
            )
            for override in overrides
            if not override.reason
        )

    def fits(self, context: int) -> bool:
        """True if all layers fit on the devices, in their order or as they were fixed by hand."""
        if self.request.layer_counts is not None or self.request.gpu_layers is not None:
            return self.place(context, exact=False).verdict is Verdict.FITS
        if not Search(self, context, 0).fits():
            return False
        host = self._host_plan(context, 0, self.table(context, pipelined=True).host)
        return host.left_bytes >= 0 or any(d.shares_host_memory for d in self.devices)

    # --- placing ------------------------------------------------------------

    def plan(self, context: int) -> LoadPlan:
        """The plan, with the most context that fits."""
        plan = self.place(context, exact=True)
        plan = dataclasses.replace(plan, max_context=self.max_context(plan))
        return plan if plan.fits or not self.devices else self._with_missing(plan, context)

    def _with_missing(self, plan: LoadPlan, context: int) -> LoadPlan:
        """The plan with what the devices lack to hold all layers."""
        found = Search(self, context, 0).missing()
        if self.request.layer_counts is not None or self.request.gpu_layers is not None:
            return plan
        size, index = found
        return dataclasses.replace(plan, missing_bytes=size, missing_on=self.devices[index].id)

    def place(self, context: int, *, exact: bool) -> LoadPlan:
        """Layers to devices for one context; `exact` with compute buffers to the byte."""
        if self.request.layer_counts is not None:
            split: Split = range(len(self.devices)), self.request.layer_counts
            return self.build(context, split, exact=exact)
        attempt = Search(self, context, 0)
        plan = self.build(context, attempt.split(), exact=exact)
        for _ in range(CORRECTIONS if exact else 0):
            over = -min((share.left_bytes for share in plan.devices if share.used), default=0)
            if over <= 0 or attempt.forced:
                break
            attempt = Search(self, context, attempt.margin + over)
            plan = self.build(context, attempt.split(), exact=exact)
        whole = plan.runs and plan.gpu_layers == self.total_layers
        if whole or not exact or not self.devices or self.request.gpu_layers is not None:
            return plan
        from app.plan import rescue

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
        sizes = list(self._weights[kind])
        for layer, tensor in self._barred[kind]:
            sizes[layer] -= memory.tensor_bytes(tensor, kind)
        weights = _sums(sizes)
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
        stranded = self._stranded(order, spans)
        apart = (*overrides, *stranded)
        compute = self._compute(context, order, spans, apart, exact=exact or not used)
        places = zip(order, spans, compute[:-1], strict=True)
        shares = [self._share(index, context, span, size) for index, span, size in places]
        host = self._host_plan(context, first_offloaded, compute[-1])
        on_host = sum(memory.tensor_bytes(moved.tensor, CPU) for moved in stranded)
        host = dataclasses.replace(host, weights_bytes=host.weights_bytes + on_host)
        for moved in overrides:
            shares, host = moved.applied(order, shares, host)
        return verdicts.judged(
            self.layout, self.request, tuple(shares), host,
            context=context,
            sizes=self._weights[CPU],
            overrides=tuple(moved.override for moved in apart),
        )  # fmt: skip

    def _stranded(
        self, order: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> tuple[Moved, ...]:
        """Tensors that are too large for the backend of their layer's device."""
        return tuple(
            Moved(
                layer=layer,
                tensor=tensor,
                target=HOST,
                override=TensorOverride(
                    tensor=tensor.name, device="CPU", size_bytes=tensor.size_bytes, reason=TOO_LONG
                ),
            )
            for index, (first, end) in zip(order, spans, strict=True)
            for layer, tensor in self._barred[self._rules[index]]
            if first <= layer < end
        )

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


def _sums(values: Sequence[int]) -> list[int]:
    result = [0]
    for value in values:
        result.append(result[-1] + value)
    return result
