"""Bytes per layer and device: weights, KV cache, compute buffer, reserve. Pure functions.

Weights and KV cache follow llama.cpp exactly, for buffers that ggml's CPU backend allocates
(also behind RPC); the compute buffer is an estimate that leans to the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.gguf.model import LayerLayout, ModelLayout
from app.plan.model import FlashAttention, KvCacheType, PlanRequest
from app.units import MIB

KV_BYTES_PER_32 = {KvCacheType.F16: 64, KvCacheType.Q8_0: 34, KvCacheType.Q4_0: 18}
"""Bytes of 32 elements (ggml-common.h: block_q8_0, block_q4_0)."""
RESERVES = {"cuda": 640 * MIB, "vulkan": 384 * MIB, "metal": 256 * MIB, "rpc": 64 * MIB}
"""Driver context and scratch that no figure of llama.cpp contains, by backend."""
DEFAULT_RESERVE = 512 * MIB
HOST_RESERVE = 512 * MIB
PIPELINE_COPIES = 4
"""Copies of cross-device inputs (GGML_SCHED_MAX_COPIES in ggml-backend.cpp)."""
CONTEXT_STEP = 256


def padded_context(context: int) -> int:
    """Context as llama.cpp allocates it: a multiple of 256 (llama-context.cpp)."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def layer_weights(layout: ModelLayout) -> tuple[int, ...]:
    """Bytes of each layer's tensors, the output layer last.

    A tied model gets a second copy of the token embedding with the output layer
    (llama-model.cpp, `TENSOR_DUPLICATED`).
    """
    output = sum(tensor.size_bytes for tensor in layout.output)
    if layout.tied:
        output += sum(t.size_bytes for t in layout.token_embedding if t.name == "token_embd.weight")
    return (*(layer.size_bytes for layer in layout.layers), output)


def host_weights(layout: ModelLayout) -> int:
    """Bytes that stay on the host whatever is offloaded: the input tensors."""
    return sum(tensor.size_bytes for tensor in layout.token_embedding)


def layer_kv_cache(layout: ModelLayout, request: PlanRequest, context: int) -> tuple[int, ...]:
    """Bytes of K and V of each layer, 0 for the output layer (llama-kv-cache.cpp).

    Local layers keep only their window and one micro-batch (llama-kv-cache-iswa.cpp). With
    flash attention off, V is padded to the widest layer.
    """
    cells = padded_context(context)
    widest_v = max((_kv_heads(layer) for layer in layout.layers), default=0) * layout.value_length
    off = request.flash_attention is FlashAttention.OFF
    sizes = []
    for layer in layout.layers:
        heads = _kv_heads(layer)
        local = layer.sliding_window
        kept = min(cells, padded_context(local + request.micro_batch)) if local else cells
        k = heads * layout.key_length * kept
        v = (widest_v if off else heads * layout.value_length) * kept
        if off and layer.recurrent:
            v = 0
        sizes.append(
            k * KV_BYTES_PER_32[request.kv_type_k] // 32
            + v * KV_BYTES_PER_32[request.kv_type_v] // 32
        )
    return (*sizes, 0)


def _kv_heads(layer: LayerLayout) -> int:
    return 0 if layer.recurrent else layer.head_count_kv


class SpanMaximum:
    """The greatest of `values[first:end]`, in constant time, 0 for none (a sparse table)."""

    def __init__(self, values: Sequence[int]) -> None:
        """Take n log n steps."""
        self._rows = [list(values)]
        width = 1
        while 2 * width <= len(values):
            row = self._rows[-1]
            self._rows.append([max(row[i], row[i + width]) for i in range(len(row) - width)])
            width *= 2

    def __call__(self, first: int, end: int) -> int:
        """Of indices `first` to `end - 1`."""
        if end <= first:
            return 0
        level = (end - first).bit_length() - 1
        row = self._rows[level]
        return max(row[first], row[end - (1 << level)])


class ComputeBuffer:
    """Estimated compute buffer of a device that holds certain layers.

    Three activations of the widest FFN for one micro-batch in f32 (measured on CUDA logs of
    Nemotron Ultra: 2,560 MiB for a width of 425,984), or the logits, or attention scores where
    flash attention is off; copies of the inputs where several devices form a pipeline.
    """

    def __init__(
        self, layout: ModelLayout, request: PlanRequest, context: int, *, device_count: int
    ) -> None:
        """Compute what holds for every span."""
        batch = min(request.micro_batch, context)
        self._widest = SpanMaximum([layer.feed_forward_length for layer in layout.layers])
        self._heads = SpanMaximum([layer.head_count for layer in layout.layers])
        self._batch, self._blocks = batch, layout.block_count
        self._hidden = layout.embedding_length * batch * 4
        self._logits = layout.vocabulary_size * batch * 4
        cells = padded_context(context)
        off = request.flash_attention is FlashAttention.OFF
        self._scores = 2 * cells * batch * 4 if off else 0
        copies = PIPELINE_COPIES if device_count > 1 else 1
        self._inputs = copies * (cells * batch * 4 + self._hidden) + 8 * MIB

    def __call__(self, first: int, end: int) -> int:
        """Bytes for layers `first` to `end - 1`, the output being layer `block_count`; 0 for none."""
        if end <= first:
            return 0
        inner = min(end, self._blocks)
        peak = 3 * self._widest(first, inner) * self._batch * 4 + 2 * self._hidden
        if end > self._blocks:
            peak = max(peak, self._logits + self._hidden)
        if self._scores:
            peak = max(peak, self._scores * self._heads(first, inner) + 2 * self._hidden)
        return peak + self._inputs


def reserve_bytes(backend: str) -> int:
    """Default reserve of a device."""
    return RESERVES.get(backend, DEFAULT_RESERVE)
