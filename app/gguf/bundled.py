"""Layouts that come with the app, so that its flagship can be planned before anything is downloaded.

A file of `resources/layouts` holds a model's hyper-parameters, and for each quantization the
types of its tensors as llama.cpp's quantizer chooses them (packaging/make_layouts.py). Names,
shapes and sizes follow: `load_arch_tensors` in llama.cpp's src/models/deci.cpp, whose layers
have any number of heads and any FFN width, or nothing at all.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.errors import AppError, ErrorKind
from app.gguf.model import LayerLayout, MetadataValue, ModelLayout, TensorInfo
from app.gguf.types import FILE_TYPES, TENSOR_TYPES
from app.gguf.writer import ALIGNMENT

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "layouts"
VECTORS = ("attn_norm", "ffn_norm", "output_norm", "rope_freqs")
"""Tensors that stay F32 in every quantization."""

_SIZES = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}


def names() -> tuple[str, ...]:
    """The models, for example `nemotron-ultra-253b`."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def quantizations(name: str) -> tuple[str, ...]:
    """A model's quantizations, the smallest first."""
    return tuple(_table(name)["quantizations"])


def is_name(text: str) -> bool:
    """True if `text` names a bundled model, with or without a quantization."""
    return text.partition(":")[0].lower() in names()


def layout(text: str) -> ModelLayout:
    """The layout of `name:quantization`; Q4_K_M if no quantization is named.

    It is what `read_layout` finds in such a file, except that there is no vocabulary; the
    file's size counts no header.

    Raises:
        AppError: There is no such quantization.
    """
    name, _, kind = text.lower().partition(":")
    return _layout(name, (kind or "q4_k_m").upper())


def relatives(model: ModelLayout) -> tuple[ModelLayout, ...]:
    """All quantizations of a model that is bundled, then smaller models at Q4_K_M, the nearest first."""
    found = [layout(name) for name in names()]
    smaller = [each for each in found if each.parameter_count < model.parameter_count]
    same = name_of(model)
    if same is None:
        return ()
    kinds = [layout(f"{same}:{kind}") for kind in quantizations(same)]
    nearest = sorted(
        (each for each in smaller if not _is_same(each, model)),
        key=lambda each: -each.parameter_count,
    )
    return (*(dataclasses.replace(each, name=model.name) for each in kinds), *nearest)


def name_of(model: ModelLayout) -> str | None:
    """The bundled model that a file holds, whatever it calls itself; None if it is none."""
    return next((name for name in names() if _is_same(layout(name), model)), None)


def _is_same(one: ModelLayout, other: ModelLayout) -> bool:
    """True for two files of one model, whatever they call it."""
    return (one.architecture, one.block_count, one.parameter_count) == (
        other.architecture,
        other.block_count,
        other.parameter_count,
    )


@functools.cache
def _layout(name: str, kind: str) -> ModelLayout:
    table = _table(name)
    types = table["quantizations"].get(kind)
    if types is None:
        raise AppError(
            f"There is no {kind} of {table['name']}.",
            hint=f"Choose one of {', '.join(quantizations(name))}.",
            kind=ErrorKind.USAGE,
        )
    return build(table, kind, types, Path(f"{name}-{kind}.gguf"))


def build(table: Mapping[str, Any], kind: str, types: Mapping[str, str], file: Path) -> ModelLayout:
    """The layout of one quantization.

    Args:
        table: Hyper-parameters, as a file of `resources/layouts` has them; an FFN without gate,
            norms with bias and no RoPE factors are said, too.
        kind: The quantization's name.
        types: For each sort of tensor (`attn_v`, `ffn_down`, ...), its types in the order of the
            layers that have one, as runs: `Q6_K*8 Q4_K*56`.
        file: The path that the layout names.
    """
    tensors = _Tensors(types)
    outside = tensors("", _shapes_outside(table))
    layers = tuple(
        LayerLayout(
            index=index,
            tensors=tensors(f"blk.{index}.", _shapes(table, heads, kv_heads, width)),
            head_count=heads,
            head_count_kv=kv_heads,
            key_length=table["key_length"],
            value_length=table["value_length"],
        )
        for index, (heads, kv_heads, width) in enumerate(_layer_columns(table))
    )
    return ModelLayout(
        files=(file,),
        name=table["name"],
        architecture=table["architecture"],
        quantization=kind,
        parameter_count=tensors.parameter_count,
        block_count=len(layers),
        context_length=table["context_length"],
        embedding_length=table["embedding_length"],
        vocabulary_size=table["vocabulary_size"],
        key_length=table["key_length"],
        value_length=table["value_length"],
        layers=layers,
        token_embedding=tuple(t for t in outside if t.name.startswith("token_embd")),
        output=tuple(t for t in outside if t.name.startswith("output")),
        other=tuple(t for t in outside if t.name.startswith("rope_freqs")),
        tied=False,
        chat_template="",
        metadata=_metadata(table, kind),
        file_size_bytes=tensors.end,
    )


class _Tensors:
    """Lays tensors down one after the other, as the quantizer does."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = {sort: _runs(text) for sort, text in types.items()}
        self.end = 0
        self.parameter_count = 0

    def __call__(
        self, prefix: str, shapes: Iterable[tuple[str, tuple[int, ...]]]
    ) -> tuple[TensorInfo, ...]:
        return tuple(self._next(prefix, sort, shape) for sort, shape in shapes)

    def _next(self, prefix: str, sort: str, shape: tuple[int, ...]) -> TensorInfo:
        kind, _, part = sort.partition(".")
        type_name = "F32" if kind in VECTORS else next(self._types[kind])
        block, block_bytes = _SIZES[type_name]
        elements = math.prod(shape)
        size, offset = elements // block * block_bytes, self.end
        self.end += size + -size % ALIGNMENT
        self.parameter_count += elements
        name = f"{prefix}{kind}.{part or 'weight'}"
        return TensorInfo(name=name, shape=shape, type=type_name, size_bytes=size, offset=offset)


def _layer_columns(table: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Heads, KV heads and FFN width of each layer."""
    columns = (table["head_count"], table["head_count_kv"], table["feed_forward_length"])
    return zip(*columns, strict=True)


def _shapes_outside(table: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of no layer, in the quantizer's order (llama-model-loader.h: by name)."""
    hidden, vocabulary = table["embedding_length"], table["vocabulary_size"]
    yield "output", (hidden, vocabulary)
    yield from _norm(table, "output_norm")
    if table.get("rope_factors", True):
        yield "rope_freqs", (table["key_length"] // 2,)
    yield "token_embd", (hidden, vocabulary)


def _shapes(
    table: Mapping[str, Any], heads: int, kv_heads: int, width: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """One layer's tensors, in the quantizer's order."""
    hidden, key, value = table["embedding_length"], table["key_length"], table["value_length"]
    if heads:
        yield "attn_k", (hidden, kv_heads * key)
        yield from _norm(table, "attn_norm")
        yield "attn_output", (heads * key, hidden)
        yield "attn_q", (hidden, heads * key)
        yield "attn_v", (hidden, kv_heads * value)
    if width:
        yield "ffn_down", (width, hidden)
        if table.get("ffn_gate", True):
            yield "ffn_gate", (hidden, width)
        yield from _norm(table, "ffn_norm")
        yield "ffn_up", (hidden, width)


def _norm(table: Mapping[str, Any], sort: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if table.get("norm_bias", False):
        yield f"{sort}.bias", (table["embedding_length"],)
    yield sort, (table["embedding_length"],)


def _runs(text: str) -> Iterator[str]:
    for run in text.split():
        name, _, count = run.partition("*")
        yield from (name for _ in range(int(count)))


def _metadata(table: Mapping[str, Any], kind: str) -> dict[str, MetadataValue]:
    """The keys that llama.cpp asks for (`load_hparams` in llama-model.cpp)."""
    fields: dict[str, MetadataValue] = {
        "block_count": len(table["head_count"]),
        "context_length": table["context_length"],
        "embedding_length": table["embedding_length"],
        "feed_forward_length": tuple(table["feed_forward_length"]),
        "attention.head_count": tuple(table["head_count"]),
        "attention.head_count_kv": tuple(table["head_count_kv"]),
        "attention.key_length": table["key_length"],
        "attention.value_length": table["value_length"],
        # A header holds single precision, and so does what is read back from it.
        **{
            f"attention.{key}": _single(table[key])
            for key in ("layer_norm_rms_epsilon", "layer_norm_epsilon")
            if key in table
        },
        "rope.freq_base": _single(table["rope_frequency_base"]),
        "rope.dimension_count": table.get("rope_dimension_count", table["key_length"]),
        "vocab_size": table["vocabulary_size"],
    }
    architecture = table["architecture"]
    return {
        "general.architecture": architecture,
        "general.name": table["name"],
        "general.file_type": _FILE_TYPE_NUMBERS[kind],
        "general.quantization_version": 2,
        "tokenizer.ggml.model": "no_vocab",
    } | {f"{architecture}.{key}": value for key, value in fields.items()}


def _single(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


@functools.cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table
