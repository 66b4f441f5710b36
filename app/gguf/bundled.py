"""Layouts that come with the app, so that its flagship can be planned before anything is downloaded."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from app.errors import AppError, ErrorKind
from app.gguf.model import LayerLayout, ModelLayout, TensorInfo

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "layouts"


def names() -> tuple[str, ...]:
    """The models, for example `nemotron-ultra-253b`."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def quantizations(name: str) -> tuple[str, ...]:
    """A model's quantizations, the smallest first."""
    table: dict[str, Any] = _table(name)["quantizations"]
    return tuple(sorted(table, key=lambda kind: sum(table[kind]["layers"])))


def is_name(text: str) -> bool:
    """True if `text` names a bundled model, with or without a quantization."""
    return text.partition(":")[0].lower() in names()


def layout(text: str) -> ModelLayout:
    """The layout of `name:quantization`; Q4_K_M if no quantization is named.

    A layer's tensors stand together as one, of the layer's exact size.

    Raises:
        AppError: There is no such quantization.
    """
    name, _, kind = text.lower().partition(":")
    table = _table(name)
    kind = (kind or "q4_k_m").upper()
    sizes = table["quantizations"].get(kind)
    if sizes is None:
        raise AppError(
            f"There is no {kind} of {table['name']}.",
            hint=f"Choose one of {', '.join(quantizations(name))}.",
            kind=ErrorKind.USAGE,
        )
    columns = (table["head_count"], table["head_count_kv"], table["feed_forward_length"])
    layers = tuple(
        LayerLayout(
            index=index,
            tensors=_tensors(f"blk.{index}", kind, size),
            head_count=heads,
            head_count_kv=kv_heads,
            feed_forward_length=width,
        )
        for index, (size, heads, kv_heads, width) in enumerate(
            zip(sizes["layers"], *columns, strict=True)
        )
    )
    outside = sizes["token_embedding"] + sizes["output"] + sizes["other"]
    return ModelLayout(
        files=(Path(f"{name}-{kind}.gguf"),),
        name=table["name"],
        architecture=table["architecture"],
        quantization=kind,
        parameter_count=table["parameter_count"],
        block_count=len(layers),
        context_length=table["context_length"],
        embedding_length=table["embedding_length"],
        vocabulary_size=table["vocabulary_size"],
        key_length=table["key_length"],
        value_length=table["value_length"],
        layers=layers,
        token_embedding=_tensors("token_embd.weight", kind, sizes["token_embedding"]),
        output=_tensors("output.weight", kind, sizes["output"]),
        other=_tensors("rope_freqs.weight", "F32", sizes["other"]),
        tied=False,
        chat_template="",
        metadata={},
        file_size_bytes=sum(sizes["layers"]) + outside,
    )


def _tensors(name: str, kind: str, size: int) -> tuple[TensorInfo, ...]:
    if not size:
        return ()
    return (TensorInfo(name=name, shape=(size,), type=kind, size_bytes=size, offset=0, shard=0),)


@functools.cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table
