"""Bytes per layer and device: weights, KV cache, recurrent state. Pure functions, exact."""

from __future__ import annotations

from collections.abc import Sequence

from app.gguf.model import ModelLayout, TensorInfo
from app.gguf.types import TENSOR_TYPES
from app.plan.model import FlashAttention, KvCacheType, PlanRequest
from app.plan.rules import BackendRules

CONTEXT_STEP = 256
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}


def padded_context(context: int) -> int:
    """Context as llama.cpp allocates it: a multiple of 256 (llama-context.cpp)."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def local_cells(layout: ModelLayout, context: int, micro_batch: int) -> int:
    """Length of the KV cache of layers with a sliding window (llama-kv-cache-iswa.cpp)."""
    window = max((layer.sliding_window for layer in layout.layers), default=0)
    return min(padded_context(context), padded_context(window + micro_batch))


def kv_type_suits(layout: ModelLayout, kind: KvCacheType, *, keys: bool) -> bool:
    """False where heads do not divide into the type's blocks, which llama.cpp refuses."""
    block = _BLOCKS[kind.upper()][0]
    lengths = {
        layer.key_length if keys else layer.value_length
        for layer in layout.layers
        if layer.head_count_kv
    }
    return all(length % block == 0 for length in lengths)


def tensor_bytes(tensor: TensorInfo, rules: BackendRules) -> int:
    """What a tensor takes in a buffer of the backend."""
    return _allocated(tensor.size_bytes, tensor.type, tensor.shape[0], rules)


def _allocated(size: int, kind: str, row: int, rules: BackendRules) -> int:
    block, block_bytes = _BLOCKS[kind]
    if block > 1 and row % rules.row_padding:
        size += (rules.row_padding - row % rules.row_padding) // block * block_bytes
    return -(-size // rules.alignment) * rules.alignment


def tensors_bytes(tensors: Sequence[TensorInfo], rules: BackendRules) -> int:
    """Of several tensors."""
    return sum(tensor_bytes(tensor, rules) for tensor in tensors)


def layer_weights(layout: ModelLayout, rules: BackendRules) -> tuple[int, ...]:
    """Bytes of each layer's tensors, the output layer last.

    A tied model gets a second copy of the token embedding with the output layer
    (llama-model.cpp, `TENSOR_DUPLICATED`).
    """
    output = tensors_bytes(layout.output, rules)
    if layout.tied:
        shared = [t for t in layout.token_embedding if t.name == "token_embd.weight"]
        output += tensors_bytes(shared, rules)
    return (*(tensors_bytes(layer.tensors, rules) for layer in layout.layers), output)


def shared_weights(layout: ModelLayout, rules: BackendRules) -> int:
    """Bytes that each place with a repeating layer holds once: rope factors and the like."""
    return tensors_bytes(layout.other, rules)


def layer_kv_cache(
    layout: ModelLayout, request: PlanRequest, context: int, rules: BackendRules
) -> tuple[int, ...]:
    """Bytes of K, V and recurrent state of each layer, 0 for the output layer.

    Local layers keep only their window and one micro-batch. With flash attention off, V lies
    transposed and is padded to the widest layer, also where a layer of a model without recurrent
    ones has no attention (llama-kv-cache.cpp, `TAG_V_CACHE_VARIABLE`).
    """
    cells, local = padded_context(context), local_cells(layout, context, request.micro_batch)
    widest = max((layer.head_count_kv * layer.value_length for layer in layout.layers), default=0)
    transposed = request.flash_attention is FlashAttention.OFF
    hybrid = any(layer.recurrent for layer in layout.layers)
    sizes = []
    for layer in layout.layers:
        if layer.recurrent:
            sizes.append(layer.state_bytes)
            continue
        kept = local if layer.sliding_window else cells
        k = layer.head_count_kv * layer.key_length
        v = layer.head_count_kv * layer.value_length
        if transposed and not (hybrid and not k):
            v = widest
        sizes.append(
            _cache(k, kept, request.kv_type_k, rules) + _cache(v, kept, request.kv_type_v, rules)
        )
    return (*sizes, 0)


def _cache(row: int, cells: int, kind: KvCacheType, rules: BackendRules) -> int:
    block, block_bytes = _BLOCKS[kind.upper()]
    size = row // block * block_bytes * cells
    return _allocated(size, kind.upper(), row, rules) if size else 0
