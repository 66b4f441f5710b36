"""Writes a model file without its weights: a true header, then nothing up to the true size."""

from __future__ import annotations

import os
from pathlib import Path

from app.errors import AppError, ErrorKind
from app.gguf.model import MetadataValue, ModelLayout, TensorInfo
from app.gguf.types import TENSOR_TYPES

ALIGNMENT = 32
"""Of tensor data, in bytes (GGUF_DEFAULT_ALIGNMENT)."""

_TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_REPLACED = ("tokenizer.", "split.", "general.alignment", "general.architecture")
"""Beginnings of keys not taken over: a layout keeps no vocabulary, and one plain file is written."""


def write_sparse(layout: ModelLayout, path: Path) -> None:
    """Write a file that llama.cpp takes for the whole model in a dry run.

    The header holds all tensors and `layout.metadata`, but of the vocabulary only its size. The
    file has the model's full size and takes some ten kilobytes of disk, where the file system
    knows sparse files; weights read as zeros.

    Args:
        layout: Shards are joined into one file.
        path: Overwritten if it exists.

    Raises:
        AppError: The file cannot be written; some file systems take none so large.
    """
    tensors = _tensors(layout)
    try:
        _write_header(layout, tensors, path)
        with path.open("r+b") as file:
            start = _padded(file.seek(0, os.SEEK_END))
            file.truncate(start + sum(_padded(tensor.size_bytes) for tensor in tensors))
    except OSError as error:
        raise AppError(
            f"The header of {layout.name} cannot be written to {path.parent}.",
            detail=f"{error.strerror or error}.",
            hint="Let the variable TMPDIR name a folder on another file system.",
            kind=ErrorKind.DISK,
        ) from error


def _write_header(layout: ModelLayout, tensors: list[TensorInfo], path: Path) -> None:
    # Not at the top: NumPy comes with it, and few need this.
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, layout.architecture)
    kept = {k: v for k, v in layout.metadata.items() if not k.startswith(_REPLACED)}
    kept["tokenizer.ggml.model"] = "no_vocab"
    kept[f"{layout.architecture}.vocab_size"] = layout.vocabulary_size
    for key, value in kept.items():
        writer.add_key_value(key, value, gguf.GGUFValueType[_value_type(value)])
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name,
            tensor.shape[::-1],
            numpy.dtype(numpy.float32),  # not looked at, since the type is given
            tensor.size_bytes,
            raw_dtype=gguf.GGMLQuantizationType(_TYPE_NUMBERS[tensor.type]),
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _value_type(value: MetadataValue) -> str:
    """The type that llama.cpp expects; of integers it takes both signs where they fit."""
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        if value < 0:
            return "INT32" if value >= -(2**31) else "INT64"
        return "UINT32" if value < 2**32 else "UINT64"
    return (
        "FLOAT32" if isinstance(value, float) else "STRING" if isinstance(value, str) else "ARRAY"
    )


def _tensors(layout: ModelLayout) -> list[TensorInfo]:
    """All tensors, in the order of their files."""
    inside = (tensor for layer in layout.layers for tensor in layer.tensors)
    tensors = (*layout.token_embedding, *layout.output, *layout.other, *inside)
    return sorted(tensors, key=lambda tensor: (tensor.shard, tensor.offset))


def _padded(size: int) -> int:
    return size + -size % ALIGNMENT
