"""Frozen values of a plan: what is asked for, and what will run where, in bytes.

A *layer* counts as in llama.cpp: the repeating layers 0 to `block_count - 1`, and the
output layer (norm and projection) as number `block_count`. All counts include it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping


class KvCacheType(enum.StrEnum):
    """Type of the K or V cache, as llama.cpp names it."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"

    @property
    def quantized(self) -> bool:
        """True for the types of blocks with scales; as V cache they need flash attention."""
        return "q" in self.value


class FlashAttention(enum.StrEnum):
    """Flash attention; `auto` is on wherever it can run beside its layer's cache."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Objective(enum.StrEnum):
    """What a split shall be best at, among those that fit."""

    BALANCED = "balanced"
    """The fullest device as empty as can be."""
    FEWEST = "fewest"
    """As few devices as can be."""
    FASTEST = "fastest"
    """Most bytes where the bandwidth is highest."""
    LONGEST = "longest"
    """The longest context."""


class Basis(enum.StrEnum):
    """How far the numbers can be trusted."""

    ESTIMATED = "estimated"
    COMPUTED = "computed"
    CONFIRMED = "confirmed"


class Verdict(enum.StrEnum):
    """The answer in one word."""

    FITS = "fits"
    PARTLY = "partly"
    """Runs, some layers in main memory beside GPUs."""
    CPU_ONLY = "cpu_only"
    """Runs in main memory; there is no GPU in use."""
    TOO_LARGE = "too_large"

    @property
    def on_host(self) -> bool:
        """True if main memory works along, so that its bandwidth counts."""
        return self in (Verdict.PARTLY, Verdict.CPU_ONLY)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanDevice:
    """A device as the planner sees it.

    Attributes:
        id: `hardware.Device.id`.
        engine_name: Name in llama.cpp (`CUDA0`).
        backend: Whose alignment and reserve rules hold: `cuda`, `vulkan`, `metal`, `rpc`.
        free_bytes: Free now, before the model is loaded (memory of this app's own engine counts as free).
        others_bytes: Held by other programs.
        shares_host_memory: True if its memory is this machine's main memory (an RPC server that
            runs here), so that what it holds is missing there.
        bandwidth_bytes_per_s: Of its memory; None if it is not known.
        prompt_flops_per_s: Measured rate at which llama.cpp processes prompts; None if unknown.
        learned_reserve_bytes: What a load took here beyond llama.cpp's own account; None before any.
    """

    id: str
    label: str
    name: str
    engine_name: str
    backend: str
    total_bytes: int
    free_bytes: int
    others_bytes: int = 0
    shares_host_memory: bool = False
    bandwidth_bytes_per_s: float | None = None
    prompt_flops_per_s: float | None = None
    learned_reserve_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanHost:
    """Main memory as the planner sees it. `available_bytes` excludes this app's own engine."""

    total_bytes: int
    available_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What the person wants; None means: choose for me.

    Attributes:
        context: Tokens, or None for the most useful that fits.
        gpu_layers: Number of layers on devices, counted from the end, output included; None for as many as fit.
        layer_counts: Layers for each device in device order, fixed by hand; the sum is `gpu_layers`.
        reserves: Bytes to keep free, by device id; others get the default.
        objective: Which of the splits that fit.
        tensor_parallel: Not layers but each layer's tensors are divided (`app.plan.tensor_parallel`).
        any_order: Devices may be put into another order where that leaves more room.
        force: What was fixed by hand is wanted, fit or not; nothing else is proposed.
    """

    context: int | None = None
    kv_type_k: KvCacheType = KvCacheType.F16
    kv_type_v: KvCacheType = KvCacheType.F16
    flash_attention: FlashAttention = FlashAttention.AUTO
    batch: int = 2048
    micro_batch: int = 512
    gpu_layers: int | None = None
    layer_counts: tuple[int, ...] | None = None
    reserves: Mapping[str, int] = dataclasses.field(default_factory=dict)
    objective: Objective = Objective.BALANCED
    tensor_parallel: bool = False
    any_order: bool = False
    force: bool = False

    @property
    def by_hand(self) -> bool:
        """True if a person fixed the number of layers, or the split."""
        return self.layer_counts is not None or self.gpu_layers is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device's share.

    Attributes:
        first_layer: First layer on the device, or None if it holds none.
        last_layer: Last layer, inclusive; may be the output layer (`block_count`).
        layer_count: Number of layers, output included.
        holds_output: True if the output layer is among them.
        reserve_bytes: Kept free for the driver's context and scratch.
    """

    device: PlanDevice
    layer_count: int
    first_layer: int | None
    last_layer: int | None
    holds_output: bool
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    reserve_bytes: int

    @property
    def used(self) -> bool:
        """True if it holds anything: layers, or a tensor of another device's layer."""
        return self.layer_count > 0 or self.weights_bytes > 0

    @property
    def model_bytes(self) -> int:
        """Weights, KV cache and compute buffer."""
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes

    @property
    def left_bytes(self) -> int:
        """What is left after model and reserve; negative is the shortfall."""
        return self.device.free_bytes - self.model_bytes - self.reserve_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorOverride:
    """One tensor that lies elsewhere than its layer (llama.cpp's `--override-tensor`).

    Attributes:
        device: The device's name in llama.cpp, or `CPU`.
        reason: Why, where it is not for want of memory; a sentence, or empty.
    """

    tensor: str
    device: str
    size_bytes: int
    reason: str = ""

    @property
    def pattern(self) -> str:
        """A regular expression that matches this tensor alone."""
        return "^" + self.tensor.replace(".", r"\.") + "$"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """Main memory's share: token embedding, layers not offloaded, their KV cache, host buffers.

    Its weights are mapped from the file, unless the engine is told to read them: the system may drop
    and read them again, but an answer is only fast while all of them stay.
    """

    host: PlanHost
    layer_count: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    reserve_bytes: int

    @property
    def model_bytes(self) -> int:
        """Weights, KV cache and compute buffer."""
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes

    @property
    def left_bytes(self) -> int:
        """What is left after model and reserve; negative is the shortfall."""
        return self.host.available_bytes - self.model_bytes - self.reserve_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One thing that helps where a model does not fit, or a fact about what is missing.

    Attributes:
        changes: Fields of `PlanRequest` and the values with which it fits; empty where no setting helps.
        layers: Of a split by hand with which it fits: layers by device id; empty if the remedy is another.
        quantization: Of another file with which it fits, instead of `changes`; of a relative, with its name.
        missing: True if it names what a place lacks, and no way out.
    """

    sentence: str
    changes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    quantization: str = ""
    missing: bool = False

    def __str__(self) -> str:
        """The sentence."""
        return self.sentence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A whole plan; everything that the engine needs to load the model so.

    Attributes:
        devices: In device order, as passed to llama.cpp; includes devices without layers.
        gpu_layers: llama.cpp's `n_gpu_layers`.
        tensor_split: Layers for each device: integers that sum to `gpu_layers`, so
            that llama.cpp's float arithmetic cuts exactly there (llama-model.cpp, `get_layer_buft_list`).
            With `tensor_parallel`, parts of each tensor for each device.
        context: Tokens.
        max_context: Most tokens that fit with the same KV types, at most the trained context; 0 if none.
        bottleneck: Id of the device with the least left, `host` for main memory.
        shortfall_bytes: How much the worst place lacks; 0 if all fits.
        sentence: The verdict for a person, without the verdict's own word ("30 layers on ...").
        hint: What would help most if it does not fit, else empty.
        remedies: All that would help, in the order of what it costs.
        missing_bytes: Where not all lies on devices: how much more each would need, in the split that
            needs least, to hold it all; 0 if all does, or if the split was fixed by hand.
        missing_on: Id of the device that lacks most there.
        missing_devices: How many devices lack something there.
        missing_total_bytes: What they lack together.
        tensor_overrides: Tensors of layers that are too large for one device.
        warnings: What else to know, a sentence each.
        quantization: Of the model, as the field writes it, or empty.
        note: Where the split comes from, a sentence; empty where it was worked out.
    """

    request: PlanRequest
    verdict: Verdict
    devices: tuple[DevicePlan, ...]
    host: HostPlan
    block_count: int
    gpu_layers: int
    tensor_split: tuple[int, ...]
    context: int
    max_context: int
    bottleneck: str | None
    shortfall_bytes: int
    basis: Basis
    layer_sizes: tuple[int, ...]
    sentence: str
    hint: str = ""
    remedies: tuple[Remedy, ...] = ()
    tensor_overrides: tuple[TensorOverride, ...] = ()
    quantization: str = ""
    missing_bytes: int = 0
    missing_on: str | None = None
    missing_devices: int = 0
    missing_total_bytes: int = 0
    warnings: tuple[str, ...] = ()
    note: str = ""

    @property
    def runs(self) -> bool:
        """True if nothing lacks memory, whatever lies in main memory."""
        return self.shortfall_bytes == 0

    @property
    def fits(self) -> bool:
        """True if all lies where it was asked for: on devices, where there are any."""
        wanted = self.verdict is Verdict.FITS or self.request.by_hand or not self.devices
        return self.runs and wanted
