"""From a model's layout and the devices' free memory to a `LoadPlan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from app import units
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport
from app.plan import memory, placement
from app.plan.model import (
    Basis,
    DevicePlan,
    HostPlan,
    KvCacheType,
    LoadPlan,
    PlanDevice,
    PlanHost,
    PlanRequest,
    Verdict,
)

AUTOMATIC_CONTEXT = 32_768
MIN_CONTEXT = 512
DIFFERENT = 0.05
"""Cards whose free memory differs by more than this share of the largest are worth another order."""
KNOWN_ARCHITECTURES = frozenset(
    {"llama", "deci", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "phi3", "nemotron"}
)


def plan_devices(
    report: HardwareReport, *, order: Sequence[str] = (), disabled: Sequence[str] = ()
) -> tuple[PlanDevice, ...]:
    """The devices that the engine can use, those of `order` first, without `disabled` (ids)."""
    usable = {d.id: d for d in report.usable_devices if d.id not in disabled}
    ordered = [*(i for i in order if i in usable), *(i for i in usable if i not in order)]
    result = []
    for device in (usable[i] for i in ordered):
        total, free = device.memory_total_bytes or 0, device.memory_free_bytes or 0
        others = device.used_by_others_bytes
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
) -> LoadPlan:
    """The plan for `layout`; without `limits` the most context and the way out stay unknown, which is faster.

    A context of None becomes the trained context, at most 32,768 tokens, halved until all layers
    fit where they fit at all. Layers that do not fit on devices stay in main memory, the first
    ones, as llama.cpp keeps them.

    Raises:
        AppError: What was fixed by hand contradicts the model.
    """
    planner = _Planner(layout, request, tuple(devices), host)
    context = request.context
    if context is None:
        context = planner.automatic_context()
    if not 1 <= context <= 2**24:
        raise AppError(
            f"A context of {context:,} tokens is not possible.",
            hint=f"Choose between {MIN_CONTEXT} and {layout.context_length:,}.",
            kind=ErrorKind.USAGE,
        )
    return planner.plan(context) if limits else planner.place(context)


def confirmed(plan: LoadPlan, found: Mapping[str, tuple[int, int, int]]) -> LoadPlan:
    """The plan with llama.cpp's own figures.

    Args:
        plan: As computed.
        found: Weights, KV cache and compute buffer in bytes by the device's engine name; `CPU` for
            main memory.
    """

    def figure(name: str, index: int) -> int:
        return found.get(name, (0, 0, 0))[index]

    shares = tuple(
        dataclasses.replace(
            share,
            weights_bytes=figure(share.device.engine_name, 0),
            kv_cache_bytes=figure(share.device.engine_name, 1),
            compute_bytes=figure(share.device.engine_name, 2),
        )
        for share in plan.devices
    )
    host = dataclasses.replace(
        plan.host,
        weights_bytes=figure("CPU", 0),
        kv_cache_bytes=figure("CPU", 1),
        compute_bytes=figure("CPU", 2),
    )
    left = {share.device.id: share.left_bytes for share in shares if share.layer_count}
    lent = sum(share.model_bytes for share in shares if share.device.shares_host_memory)
    left["host"] = host.left_bytes - lent
    shortfall = max(0, -min(left.values()))
    changes: dict[str, object] = {}
    if bool(shortfall) != bool(plan.shortfall_bytes):
        changes["verdict"] = Verdict.TOO_LARGE if shortfall else Verdict.FITS
        changes["bottleneck"] = min(left, key=lambda place: left[place])
    made = dataclasses.replace(
        plan,
        devices=shares,
        host=host,
        basis=Basis.CONFIRMED,
        shortfall_bytes=shortfall,
        **changes,  # type: ignore[arg-type]
    )
    if not shortfall:
        return made
    worst = {s.device.id: s.device.label for s in shares}.get(made.bottleneck or "", "Main memory")
    return dataclasses.replace(made, sentence=f"{worst} lacks {units.format_memory(shortfall)}.")


class _Planner:
    """One request; layer sizes are computed once."""

    def __init__(
        self,
        layout: ModelLayout,
        request: PlanRequest,
        devices: tuple[PlanDevice, ...],
        host: PlanHost,
    ) -> None:
        self.layout, self.request, self.devices, self.host = layout, request, devices, host
        self.weights = memory.layer_weights(layout)
        self.total_layers = layout.block_count + 1
        self.reserves = tuple(
            request.reserves.get(d.id, memory.reserve_bytes(d.backend)) for d in devices
        )

    def automatic_context(self) -> int:
        """The trained context up to 32,768, halved while not everything fits."""
        context = max(MIN_CONTEXT, min(self.layout.context_length, AUTOMATIC_CONTEXT))
        first = context
        while context > 2 * MIN_CONTEXT:
            plan = self.place(context)
            if plan.verdict is Verdict.FITS or (not self.devices and plan.fits):
                return context
            context //= 2
        return min(first, 8 * MIN_CONTEXT)

    def plan(self, context: int) -> LoadPlan:
        """The plan, with the most context that fits and a way out where it does not."""
        plan = self.place(context)
        plan = dataclasses.replace(plan, max_context=self._max_context(plan))
        hint = "" if plan.fits else self._way_out(plan)
        return dataclasses.replace(plan, hint=hint)

    def place(self, context: int) -> LoadPlan:
        """Layers to devices for one context."""
        kv = memory.layer_kv_cache(self.layout, self.request, context)
        compute = memory.ComputeBuffer(
            self.layout, self.request, context, device_count=len(self.devices)
        )
        order, counts = self._counts(kv, compute)
        offloaded = sum(counts)
        start = self.total_layers - offloaded
        shares = []
        for index, count in zip(order, counts, strict=True):
            layers = range(start, start + count)
            start += count
            shares.append(
                DevicePlan(
                    device=self.devices[index],
                    layer_count=count,
                    first_layer=layers[0] if count else None,
                    last_layer=layers[-1] if count else None,
                    holds_output=self.layout.block_count in layers,
                    weights_bytes=sum(self.weights[i] for i in layers),
                    kv_cache_bytes=sum(kv[i] for i in layers),
                    compute_bytes=compute(layers.start, layers.stop),
                    reserve_bytes=self.reserves[index],
                )
            )
        on_host = range(self.total_layers - offloaded)
        host = HostPlan(
            host=self.host,
            layer_count=len(on_host),
            weights_bytes=memory.host_weights(self.layout)
            + sum(self.weights[i] for i in on_host)
            - (self._shared_embedding() if not offloaded else 0),
            kv_cache_bytes=sum(kv[i] for i in on_host),
            compute_bytes=compute(0, on_host.stop) if on_host else 16 * units.MIB,
            reserve_bytes=memory.HOST_RESERVE,
        )
        return self._judge(context, counts, tuple(shares), host)

    def _shared_embedding(self) -> int:
        """On the host a tied output needs no copy of the token embedding."""
        return memory.host_weights(self.layout) if self.layout.tied else 0

    def _counts(
        self, kv: Sequence[int], compute: memory.ComputeBuffer
    ) -> tuple[Sequence[int], tuple[int, ...]]:
        """The order of devices (indices), and layers for each in that order."""
        request, as_given = self.request, range(len(self.devices))
        if request.layer_counts is not None:
            return as_given, self._by_hand(request.layer_counts)
        if not self.devices or request.gpu_layers == 0:
            return as_given, (0,) * len(self.devices)
        fixed = request.gpu_layers
        wanted = self.total_layers if fixed is None else max(0, min(fixed, self.total_layers))
        sums_w, sums_kv = _sums(self.weights), _sums(kv)

        def cost(_device: int, first: int, end: int) -> int:
            held = sums_w[end] - sums_w[first] + sums_kv[end] - sums_kv[first]
            return held + compute(first, end)

        budgets = [d.free_bytes - r for d, r in zip(self.devices, self.reserves, strict=True)]
        differ = max(budgets) - min(budgets) > DIFFERENT * max(budgets)

        def place(layers: int) -> tuple[Sequence[int], tuple[int, ...]] | None:
            first = self.total_layers - layers
            found = placement.balanced(self.total_layers, first, budgets, cost)
            if request.any_order and len(set(budgets)) > 1 and (differ or found is None):
                return placement.balanced_any_order(self.total_layers, first, budgets, cost)
            return None if found is None else (as_given, found)

        placed = place(wanted)
        if placed is not None:
            return placed
        if fixed is not None:
            return as_given, placement.by_memory(wanted, [max(0, b) for b in budgets])
        low, high = 0, wanted  # `low` layers fit, `high` do not
        best: tuple[Sequence[int], tuple[int, ...]] = as_given, (0,) * len(self.devices)
        while high - low > 1:
            middle = (low + high) // 2
            found = place(middle)
            if found is None:
                high = middle
            else:
                low, best = middle, found
        return best

    def _by_hand(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        wrong = len(counts) != len(self.devices) or any(count < 0 for count in counts)
        if wrong or sum(counts) > self.total_layers:
            raise AppError(
                f"The split {', '.join(map(str, counts))} does not suit {len(self.devices)} devices "
                f"and {self.total_layers} layers (output included).",
                hint="Reset the split to automatic.",
                kind=ErrorKind.USAGE,
            )
        return counts

    def _judge(
        self, context: int, counts: tuple[int, ...], shares: tuple[DevicePlan, ...], host: HostPlan
    ) -> LoadPlan:
        left = {s.device.id: s.left_bytes for s in shares if s.layer_count}
        lent = sum(s.model_bytes for s in shares if s.device.shares_host_memory)
        left_host = host.left_bytes - lent
        shortfall = max(0, -min([*left.values(), left_host]))
        offloaded = sum(counts)
        places = left if offloaded == self.total_layers or (left and left_host >= 0) else {}
        worst = min(places, key=lambda key: places[key]) if places else "host"
        if left_host < 0 and (not left or left_host < min(left.values())):
            worst = "host"
        if shortfall:
            verdict = Verdict.TOO_LARGE
        elif not offloaded:
            verdict = Verdict.CPU_ONLY
        else:
            verdict = Verdict.FITS if offloaded == self.total_layers else Verdict.PARTLY
        plan = LoadPlan(
            request=self.request,
            verdict=verdict,
            devices=shares,
            host=host,
            block_count=self.layout.block_count,
            gpu_layers=offloaded,
            tensor_split=counts,
            context=context,
            max_context=0,
            bottleneck=worst,
            shortfall_bytes=shortfall,
            basis=Basis.COMPUTED
            if self.layout.architecture in KNOWN_ARCHITECTURES
            else Basis.ESTIMATED,
            layer_sizes=self.weights,
            sentence="",
        )
        return dataclasses.replace(plan, sentence=_sentence(self.layout, plan))

    def _max_context(self, plan: LoadPlan) -> int:
        """Most tokens, in steps of 256, with which the verdict stays as good."""
        good: tuple[Verdict, ...] = (
            (Verdict.CPU_ONLY,) if not self.devices else (Verdict.FITS, plan.verdict)
        )
        if plan.verdict is Verdict.TOO_LARGE:
            good = (Verdict.FITS, Verdict.PARTLY, Verdict.CPU_ONLY)
        step = memory.CONTEXT_STEP
        low, high = 0, self.layout.context_length // step + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.place(middle * step).verdict in good:
                low = middle
            else:
                high = middle
        return low * step

    def _way_out(self, plan: LoadPlan) -> str:
        """The first change that really makes it fit."""
        if self.request.layer_counts is not None:
            automatic = dataclasses.replace(self.request, layer_counts=None)
            if _Planner(self.layout, automatic, self.devices, self.host).place(plan.context).fits:
                return "Reset the split to automatic: then it fits."
        for kind in (KvCacheType.Q8_0, KvCacheType.Q4_0):
            smaller = dataclasses.replace(self.request, kv_type_k=kind, kv_type_v=kind)
            if _Planner(self.layout, smaller, self.devices, self.host).place(plan.context).fits:
                return f"With a KV cache of {kind} it fits."
        if plan.max_context:
            return f"With a context of up to {plan.max_context:,} tokens it fits."
        return "Choose a smaller quantization or a smaller model."


def _is_here(endpoint: str | None) -> bool:
    """True for an RPC server on this machine, whose devices are its main memory."""
    host = (endpoint or "").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def _sums(values: Sequence[int]) -> list[int]:
    result = [0]
    for value in values:
        result.append(result[-1] + value)
    return result


def _sentence(layout: ModelLayout, plan: LoadPlan) -> str:
    if plan.shortfall_bytes:
        labels = {share.device.id: share.device.label for share in plan.devices}
        place = labels.get(plan.bottleneck or "", "Main memory")
        return f"{place} lacks {units.format_memory(plan.shortfall_bytes)}."
    head = f"{layout.quantization}, " if layout.quantization else ""
    head += f"{plan.context:,} tokens, "
    used = [share.device.label for share in plan.devices if share.layer_count]
    where = used[0] if len(used) == 1 else f"{len(used)} devices"
    if plan.verdict is Verdict.CPU_ONLY:
        return f"{head}all {layout.block_count} layers on the CPU, in main memory."
    if plan.verdict is Verdict.FITS:
        return f"{head}all {layout.block_count} layers on {where}."
    return f"{head}{plan.gpu_layers} of {layout.block_count + 1} layers on {where}, the rest on the CPU."
