"""What llama.cpp's graph of a model depends on: shapes, hyper-parameters, and the work of one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from app.gguf.model import LayerLayout, MetadataValue, ModelLayout
from app.gguf.types import TENSOR_TYPES
from app.plan.model import KvCacheType

F32, I64 = 4, 8
MOST_EXPERTS = 512
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_ROTATED = 64
"""llama.cpp rotates quantized K and V where heads are a multiple of this (llama-kv-cache.cpp)."""

Signature = tuple[object, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is computed at once.

    Attributes:
        tokens: Of one micro-batch.
        cells: Length of the KV cache, in tokens.
        local_cells: Length of the KV cache of layers with a sliding window.
        flash_attention: True if the attention is one operation.
        kv_type_k: Type of the K cache.
        kv_type_v: Type of the V cache.
    """

    tokens: int
    cells: int
    local_cells: int
    flash_attention: bool
    kv_type_k: KvCacheType
    kv_type_v: KvCacheType


class Shape:
    """One layer's tensors by the part of the name between layer and ending, and its heads."""

    def __init__(self, layer: LayerLayout) -> None:
        self.heads = layer.head_count
        self.kv_heads = layer.head_count_kv
        self.key = layer.key_length
        self.value = layer.value_length
        self.recurrent = layer.recurrent
        self.local = bool(layer.sliding_window)
        self.shapes: Mapping[str, tuple[int, ...]] = {
            tensor.name.split(".", 2)[2]: tensor.shape for tensor in layer.tensors
        }
        self.signature: Signature = (
            self.heads, self.kv_heads, self.key, self.value, self.recurrent, self.local,
            *self.shapes.items(),
        )  # fmt: skip

    def has(self, name: str) -> bool:
        """True if there is such a matrix."""
        return f"{name}.weight" in self.shapes

    def bias(self, name: str) -> bool:
        """True if there is such a bias."""
        return f"{name}.bias" in self.shapes

    def rows(self, name: str) -> int:
        """Length of what multiplication with the matrix gives, for each token.

        If the layer has no such matrix, as in architectures that are not known, that of its widest.
        """
        return self._side(name, 1)

    def columns(self, name: str) -> int:
        """Length of what the matrix is multiplied with; as `rows` if there is none."""
        return self._side(name, 0)

    def _side(self, name: str, side: int) -> int:
        shape = self.shapes.get(f"{name}.weight", ())
        if len(shape) > 1:
            return shape[side]
        return max((max(s[:2]) for s in self.shapes.values() if len(s) > 1), default=0)

    @property
    def attends(self) -> bool:
        """True if the layer has attention with a KV cache."""
        return bool(self.heads and self.kv_heads) and not self.recurrent

    @property
    def empty(self) -> bool:
        """True if nothing is computed."""
        return not self.shapes


class Shapes:
    """The graph of a model, as far as it does not depend on the work: equal ones compare equal."""

    def __init__(self, layout: ModelLayout) -> None:
        self.architecture = layout.architecture
        self.layers = tuple(Shape(layer) for layer in layout.layers)
        self.embedding_length = layout.embedding_length
        self.vocabulary_size = layout.vocabulary_size
        self.lengths = layout.key_length, layout.value_length
        prefix = f"{layout.architecture}."
        self._numbers = {
            key.removeprefix(prefix): _number(value)
            for key, value in layout.metadata.items()
            if key.startswith(prefix)
        }
        self._key: Signature = (
            self.architecture, self.embedding_length, self.vocabulary_size, self.lengths,
            tuple(shape.signature for shape in self.layers), *self._numbers.items(),
        )  # fmt: skip
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        """Of all that the graph depends on."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Quantizations of one model are equal."""
        return isinstance(other, Shapes) and (self is other or self._key == other._key)

    def number(self, key: str) -> int:
        """A hyper-parameter, 0 if it is absent; of several, one for each layer, the greatest."""
        return self._numbers.get(key, 0)

    def has(self, key: str) -> bool:
        """True if the header has this hyper-parameter."""
        return key in self._numbers


def row_bytes(count: int, kind: KvCacheType) -> int:
    """Bytes of `count` numbers in a cache of this type."""
    block, size = _BLOCKS[kind.upper()]
    return -(-count // block) * size


def _number(value: MetadataValue) -> int:
    if isinstance(value, tuple):
        return max((v for v in value if isinstance(v, int)), default=0)
    return value if isinstance(value, int) else 0


class Model:
    """What the graph of a model needs to know of it for certain work."""

    def __init__(self, shapes: Shapes, work: Work) -> None:
        self.work = work
        self.architecture = shapes.architecture
        self.number = shapes.number
        self.shapes = shapes.layers
        self.hidden = shapes.embedding_length * work.tokens * F32
        self.logits = shapes.vocabulary_size * work.tokens * F32
        self.parallel = self.architecture == "phi2"
        # Layers of one kind of mixer each: attention, feed-forward or state space.
        self.single = self.architecture.startswith("nemotron_h")
        self.residual_first = self.architecture in ("phi3", "phimoe")
        self.layer_norm = not shapes.has("attention.layer_norm_rms_epsilon")
        self.rank = self.number("attention.kv_lora_rank")
        # No layer combines more experts than it has; llama.cpp takes at most 512 (LLAMA_MAX_EXPERTS).
        experts = min(self.number("expert_count") or MOST_EXPERTS, MOST_EXPERTS)
        self.experts_used = max(1, min(self.number("expert_used_count"), experts))
        self.weights_normed = self.number("expert_weights_norm") == 1
        self.latent = bool(self.number("attention.key_length_mla"))
        self.key_mla = self.number("attention.key_length_mla") or shapes.lengths[0]
        self.value_mla = self.number("attention.value_length_mla") or shapes.lengths[1]
        self.rope = self.number("rope.dimension_count")
        self.scaled_input = self.architecture in ("gemma", "gemma2", "gemma3")
        self.late_rows = self.architecture in ("gpt-oss", "nemotron_h", "nemotron_h_moe")
        self.windows = any(shape.local for shape in self.shapes)
        cached = [shape for shape in self.shapes if shape.attends]
        self.widest_v = max((s.kv_heads * s.value for s in cached), default=0)
        one = len({(s.key, s.value) for s in cached}) == 1 and not self.latent
        self.rotation_k = self.rotation_v = 0
        if one and work.kv_type_k.quantized and not cached[0].key % _ROTATED:
            self.rotation_k = cached[0].key & -cached[0].key
        if one and work.kv_type_v.quantized and not cached[0].value % _ROTATED:
            self.rotation_v = _ROTATED
