"""`ModelLayout`: what a model file holds, layer by layer, without its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

MetadataValue = str | int | float | bool | tuple[str | int | float | bool, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor.

    Attributes:
        shape: Dimensions in ggml's order, innermost (`ne[0]`) first.
        type: ggml's type name in upper case: `F32`, `Q4_K`, ...
        size_bytes: Exact size of the data, without padding.
        offset: Offset in bytes from the start of its shard's data section.
        shard: Index of the shard that holds it, from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int
    offset: int
    shard: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerLayout:
    """One repeating layer (block); empty layers have no tensors.

    Attributes:
        head_count: Attention (query) heads; 0 if the layer has no attention.
        head_count_kv: Key/value heads; 0 if the layer keeps no KV cache.
        key_length: Dimension of one key head in the cache.
        value_length: Dimension of one value head in the cache; 0 if it is a part of the key (MLA).
        recurrent: True if the layer keeps a recurrent state instead of a KV cache.
        state_bytes: Size of that state for one sequence.
        sliding_window: Window in tokens if attention is local, else 0.
    """

    index: int
    tensors: tuple[TensorInfo, ...]
    head_count: int
    head_count_kv: int
    key_length: int = 0
    value_length: int = 0
    recurrent: bool = False
    state_bytes: int = 0
    sliding_window: int = 0

    @property
    def size_bytes(self) -> int:
        """Exact bytes of the layer's tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelLayout:
    """A whole model, its shards joined into one.

    Attributes:
        files: The shards in order; the first is the one that llama.cpp opens.
        name: `general.name`, else the file's stem.
        quantization: File type as the field writes it (`Q4_K_M`), or empty if unknown.
        parameter_count: Number of weights.
        context_length: Context that the model was trained for, in tokens.
        key_length: Dimension of one key head.
        value_length: Dimension of one value head.
        token_embedding: `token_embd.*` and other input tensors: always on the host.
        output: `output.*`, `output_norm.*`: on the last layer's device. Where the model
            is tied it is empty except for the norm, and `tied` is True.
        other: Whatever belongs to no layer, input or output (rope factors, say).
        tied: True if the output projection reuses the token embedding, of which
            llama.cpp then puts a second copy on the output's device.
        metadata: All key/value pairs but long arrays (vocabulary, merges).
        file_size_bytes: Sum over the shards.
    """

    files: tuple[Path, ...]
    name: str
    architecture: str
    quantization: str
    parameter_count: int
    block_count: int
    context_length: int
    embedding_length: int
    vocabulary_size: int
    key_length: int
    value_length: int
    layers: tuple[LayerLayout, ...]
    token_embedding: tuple[TensorInfo, ...]
    output: tuple[TensorInfo, ...]
    other: tuple[TensorInfo, ...]
    tied: bool
    chat_template: str
    metadata: Mapping[str, MetadataValue]
    file_size_bytes: int

    @property
    def size_bytes(self) -> int:
        """Exact bytes of all tensors."""
        outside = (*self.token_embedding, *self.output, *self.other)
        return sum(layer.size_bytes for layer in self.layers) + sum(t.size_bytes for t in outside)
