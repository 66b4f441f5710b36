"""One request on one machine: what each split would take, in bytes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.plan import memory, moved, tensor_parallel, verdicts
from app.plan.compute import ComputeTable, buffers, compute_table
from app.plan.model import (
    DevicePlan,
    FlashAttention,
    HostPlan,
    LoadPlan,
    PlanDevice,
    PlanHost,
    PlanRequest,
    TensorOverride,
)
from app.plan.moved import HOST, Moved
from app.plan.rules import CPU, BackendRules, rules
from app.plan.search import Split
from app.plan.shapes import Shapes, Work

FEW = 4
"""All orders of so many devices are looked at where tensors move apart."""


class Problem:
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
        self._barred = tuple(moved.barred(layout, kind) for kind in self._rules)
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

    def changed(self, **changes: object) -> Problem:
        """The same machine and model with another request."""
        request = dataclasses.replace(self.request, **changes)  # type: ignore[arg-type]
        return Problem(self.layout, request, self.devices, self.host, self.shapes)

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
        latent = self.shapes.number("attention.key_length_mla")
        if latent and request.kv_type_k is not request.kv_type_v:
            raise AppError(
                f"{self.layout.name} keeps K and V in one cache, so that both need the same type.",
                hint="Choose one type for both.",
                kind=ErrorKind.USAGE,
            )
        if request.layer_counts is not None:
            self._check_counts(request.layer_counts)
        if request.tensor_parallel:
            reason = tensor_parallel.withheld(self.layout, request, self.devices)
            if reason:
                raise AppError(reason, hint="Choose a split by layers.", kind=ErrorKind.USAGE)

    def _check_counts(self, counts: tuple[int, ...]) -> None:
        wrong = len(counts) != len(self.devices) or any(count < 0 for count in counts)
        if wrong or sum(counts) > self.total_layers:
            raise AppError(
                f"The split {', '.join(map(str, counts))} does not suit {len(self.devices)} devices "
                f"and {self.total_layers} layers (output included).",
                hint="Reset the split to automatic.",
                kind=ErrorKind.USAGE,
            )

    def moved(self, overrides: Sequence[TensorOverride]) -> tuple[Moved, ...]:
        """The same tensors apart on this machine's devices, but for those that their backend bars."""
        layers = [(layer.index, t) for layer in self.layout.layers for t in layer.tensors]
        tensors = {tensor.name: (layer, tensor) for layer, tensor in layers}
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

    @property
    def kind(self) -> BackendRules:
        """The rules of the devices, the strictest where they differ; the CPU's without any."""
        return max(self._rules, key=lambda rule: rule.alignment, default=CPU)

    @property
    def barred(self) -> frozenset[str]:
        """Names of tensors that one of the devices cannot hold."""
        return frozenset(tensor.name for found in self._barred for _, tensor in found)

    def work(self, context: int) -> Work:
        """What is computed at once with this context."""
        request = self.request
        micro_batch = min(request.micro_batch, request.batch)
        return Work(
            tokens=min(micro_batch, context),
            cells=memory.padded_context(context),
            local_cells=memory.local_cells(self.layout, context, micro_batch),
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
        for layer, tensor in self._barred[device]:
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
        stranded = moved.stranded(order, spans, self._barred)
        apart = (*overrides, *stranded)
        compute, drawn = self._compute(context, order, spans, apart, exact=exact or not used)
        if drawn and exact and self.request.flash_attention is FlashAttention.AUTO:
            # llama.cpp does without where it would run apart from its layer, unless the cache needs it.
            needed = self.request.kv_type_v.quantized
            found = FlashAttention.ON if needed else FlashAttention.OFF
            return self.changed(flash_attention=found).build(
                context, split, exact=exact, overrides=overrides
            )
        places = zip(order, spans, compute[:-1], strict=True)
        shares = [self._share(index, context, span, size) for index, span, size in places]
        host = self._host_plan(context, first_offloaded, compute[-1])
        on_host = sum(memory.tensor_bytes(each.tensor, CPU) for each in stranded)
        host = dataclasses.replace(host, weights_bytes=host.weights_bytes + on_host)
        for each in overrides:
            shares, host = each.applied(order, shares, host)
        return verdicts.judged(
            self.layout, self.request, tuple(shares), host,
            context=context,
            sizes=self._weights[CPU],
            overrides=tuple(each.override for each in apart),
        )  # fmt: skip

    def _compute(
        self,
        context: int,
        order: Sequence[int],
        spans: Sequence[tuple[int, int]],
        overrides: Sequence[Moved],
        *,
        exact: bool,
    ) -> tuple[tuple[int, ...], bool]:
        """Compute buffers of the devices in `order` with these spans of layers, and of the host.

        True as well if flash attention would run apart from its layer.
        """
        used = sum(1 for first, end in spans if end > first)
        start = spans[0][0] if spans else self.total_layers
        pipelined = used > 1 and not start and not overrides
        if not exact:
            table = self.table(context, pipelined=pipelined)
            on_host = table(0, min(start, self.layout.block_count)) + table.host
            return (*(table(*span) for span in spans), on_host), False
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
                each.tensor.name: order.index(each.target) if each.target in order else len(order)
                for each in overrides
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
