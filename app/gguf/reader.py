"""Reads a GGUF header into a `ModelLayout`: bounded in memory and time, whatever the file holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.errors import Action, AppError, ErrorKind
from app.gguf.header import BadHeaderError as _BadHeaderError
from app.gguf.header import Header as _Header
from app.gguf.header import parse, shard_names, unusable
from app.gguf.model import LayerLayout, MetadataValue, ModelLayout, TensorInfo
from app.gguf.remote import MAX_HEADER_BYTES, Source, SourceStream
from app.gguf.types import FILE_TYPES

MAX_LAYERS = 1_024
DEFAULT_WINDOWS = {"gemma2": 4096}
"""Sliding window where the header names none (models/gemma2.cpp)."""
WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4}
"""The last layer of each period sees everything, the others their window (`load_swa_pattern`)."""

_LAYER = re.compile(r"^blk\.(\d{1,9})\.", re.ASCII)
_OUTPUTS = ("output", "cls")
_INPUTS = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")


def read_layout(path: Path) -> ModelLayout:
    """Read the header of a GGUF file, or of all shards of a split one, whichever shard is named.

    Raises:
        AppError: The file, or one of its shards, cannot be read or is no whole GGUF model.
    """
    return _joined([_read_header(shard, index) for index, shard in enumerate(_shards(path))], path)


def read_layout_from(sources: Sequence[Source]) -> ModelLayout:
    """Read the headers of a file, or of all shards of a split one, from wherever they are.

    Args:
        sources: The whole file, or its shards in their order.

    Raises:
        AppError: A source fails, or they are no whole GGUF model.
    """
    left = MAX_HEADER_BYTES
    headers = []
    for index, source in enumerate(sources):
        stream = SourceStream(source, limit_bytes=left, shard=index)
        headers.append(parse(Path(source.name), stream, source.size_bytes, index))
        left -= stream.fetched_bytes
    return _joined(headers, Path(sources[0].name))


def _joined(headers: list[_Header], path: Path) -> ModelLayout:
    try:
        _check_shards(headers)
        return _layout(headers)
    except _BadHeaderError as error:
        raise unusable(path, str(error)) from None


def _shards(path: Path) -> list[Path]:
    if not path.name or path.is_dir():
        raise unusable(path, "it is a folder", hint="Choose a GGUF file in it.")
    shards = [path.with_name(name) for name in shard_names(path.name)]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing and path.exists():
        listed = ", ".join(missing[:3]) + (
            f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        )
        raise AppError(
            f"The model {path.name} is incomplete: {listed} {'is' if len(missing) == 1 else 'are'} missing.",
            hint=f"Put all {len(shards)} shards into {path.parent}.",
            action=Action.CHOOSE_MODEL,
            kind=ErrorKind.MODEL_FILE,
        )
    return shards


def _read_header(path: Path, shard: int) -> _Header:
    try:
        if path.exists() and not path.is_file():
            raise unusable(path, "it is no regular file", hint="Choose a GGUF file.")
        with path.open("rb") as stream:
            return parse(path, stream, path.stat().st_size, shard)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AppError(
            f"The file {path} cannot be read.",
            detail=f"{reason}.",
            hint="Check the path and its permissions, or choose another file.",
            action=Action.CHOOSE_MODEL,
            kind=ErrorKind.MODEL_FILE,
        ) from error


def _check_shards(headers: list[_Header]) -> None:
    if len(headers) == 1:
        count, number = (headers[0].metadata.get(f"split.{key}") for key in ("count", "no"))
        if isinstance(count, int) and count > 1 and isinstance(number, int):
            # llama.cpp finds the others by the name alone.
            end = f"-{number + 1:05d}-of-{count:05d}.gguf"
            raise _BadHeaderError(
                f"it is shard {number + 1} of {count}, and its name does not end in {end}"
            )
        return
    for index, header in enumerate(headers):
        count, number = header.metadata.get("split.count"), header.metadata.get("split.no")
        if count != len(headers) or number != index:
            raise _BadHeaderError(
                f"{header.path.name} calls itself shard {number} of {count} in its header"
            )
    total = headers[0].metadata.get("split.tensors.count")
    found = sum(len(header.tensors) for header in headers)
    if total is not None and total != found:
        raise _BadHeaderError(f"its shards hold {found} of {total} tensors")


def _layout(headers: list[_Header]) -> ModelLayout:
    first = headers[0]
    metadata = first.metadata
    tensors = [tensor for header in headers for tensor in header.tensors]
    if len({t.name for t in tensors}) != len(tensors):
        raise _BadHeaderError("it holds two tensors of the same name")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not tensors:
        raise _BadHeaderError("it names no architecture or holds no tensors")
    fields = _Fields(metadata, architecture)
    every = fields.integer("block_count", maximum=MAX_LAYERS)
    # Layers that guess further tokens; llama.cpp leaves them out unless it is asked for them.
    blocks = every - min(every, fields.integer("nextn_predict_layers", default=0))
    embedding = fields.integer("embedding_length")
    heads = fields.per_layer("attention.head_count", every, 0)
    kv_heads = fields.per_layer("attention.head_count_kv", every, None) or heads
    most_heads = max(heads, default=0)
    default_head = embedding // most_heads if most_heads else 0
    by_layer, outside = _group(tensors, every)
    lengths = (
        fields.integer("attention.key_length", default=default_head),
        fields.integer("attention.value_length", default=default_head),
    )
    layers = _layers(fields, by_layer[:blocks], (heads, kv_heads), lengths)
    inputs = tuple(t for t in outside if t.name.startswith(_INPUTS))
    output = tuple(t for t in outside if t.name.startswith(_OUTPUTS))
    file_type = metadata.get("general.file_type")
    name, template = metadata.get("general.name"), metadata.get("tokenizer.chat_template")
    return ModelLayout(
        files=tuple(header.path for header in headers),
        name=name if isinstance(name, str) and name else first.path.stem,
        architecture=architecture,
        quantization=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        parameter_count=sum(math.prod(t.shape) for t in tensors),
        block_count=blocks,
        context_length=fields.integer("context_length"),
        embedding_length=embedding,
        vocabulary_size=first.array_lengths.get("tokenizer.ggml.tokens", 0)
        or fields.integer("vocab_size", default=0),
        key_length=lengths[0],
        value_length=lengths[1],
        layers=layers,
        token_embedding=inputs,
        output=output,
        other=tuple(t for t in outside if not t.name.startswith((*_INPUTS, *_OUTPUTS))),
        tied=bool(inputs) and not any(t.name == "output.weight" for t in output),
        chat_template=template if isinstance(template, str) else "",
        metadata=metadata,
        file_size_bytes=sum(header.size for header in headers),
    )


def _group(
    tensors: list[TensorInfo], blocks: int
) -> tuple[list[list[TensorInfo]], list[TensorInfo]]:
    by_layer: list[list[TensorInfo]] = [[] for _ in range(blocks)]
    outside = []
    for tensor in tensors:
        match = _LAYER.match(tensor.name)
        if match is None:
            outside.append(tensor)
        elif int(match[1]) < blocks:
            by_layer[int(match[1])].append(tensor)
        else:
            raise _BadHeaderError(f"it has a tensor of layer {match[1][:12]}, but {blocks} layers")
    return by_layer, outside


def _layers(
    fields: _Fields,
    by_layer: list[list[TensorInfo]],
    heads: tuple[list[int], list[int]],
    lengths: tuple[int, int],
) -> tuple[LayerLayout, ...]:
    """The layers; `heads` are query and key/value heads of each, `lengths` of one key and value."""
    blocks = len(by_layer)
    widths = fields.per_layer("feed_forward_length", blocks, 0)
    window = fields.integer(
        "attention.sliding_window", default=DEFAULT_WINDOWS.get(fields.architecture, 0)
    )
    local = _local_layers(fields, blocks) if window else [False] * blocks
    latent = fields.integer("attention.key_length_mla", default=0)
    recurrent = [any(".ssm_" in t.name for t in tensors) for tensors in by_layer]
    state = _state_bytes(fields) if any(recurrent) else 0
    attends = [
        not r and (not any(recurrent) or not w) for r, w in zip(recurrent, widths, strict=True)
    ]
    return tuple(
        LayerLayout(
            index=index,
            tensors=tuple(by_layer[index]),
            head_count=heads[0][index] if attends[index] else 0,
            head_count_kv=heads[1][index] if attends[index] else 0,
            key_length=lengths[0],
            value_length=0 if latent else lengths[1],
            recurrent=recurrent[index],
            state_bytes=state if recurrent[index] else 0,
            sliding_window=window if local[index] else 0,
        )
        for index in range(blocks)
    )


def _state_bytes(fields: _Fields) -> int:
    """The state of one layer and sequence in f32 (`n_embd_r`, `n_embd_s` in llama-hparams.cpp)."""
    kernel = fields.integer("ssm.conv_kernel", default=1)
    inner, size = (
        fields.integer("ssm.inner_size", default=0),
        fields.integer("ssm.state_size", default=0),
    )
    groups = fields.integer("ssm.group_count", default=0)
    return 4 * (max(0, kernel - 1) * (inner + 2 * groups * size) + inner * size)


def _local_layers(fields: _Fields, blocks: int) -> list[bool]:
    """Which layers have local attention: the header's own pattern, else the architecture's.

    Architectures of which neither is known count as global, which never takes less memory; many
    carry a window in the header that llama.cpp does not use.
    """
    pattern = fields.raw("attention.sliding_window_pattern")
    if fields.architecture not in WINDOW_PERIODS:
        return [False] * blocks
    if isinstance(pattern, tuple) and len(pattern) == blocks:
        return [bool(value) for value in pattern]
    period = pattern if isinstance(pattern, int) else WINDOW_PERIODS[fields.architecture]
    return [not period or index % period < period - 1 for index in range(blocks)]


class _Fields:
    """Typed access to the hyper-parameters of one architecture."""

    def __init__(self, metadata: Mapping[str, MetadataValue], architecture: str) -> None:
        self._metadata = metadata
        self.architecture = architecture

    def raw(self, key: str) -> MetadataValue | None:
        return self._metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, *, default: int | None = None, maximum: int = 2**31) -> int:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if isinstance(value, tuple) and value:
            value = max(value, key=lambda entry: entry if isinstance(entry, int) else -1)
        if not isinstance(value, int) or not 0 <= value <= maximum:
            raise _BadHeaderError(f"its {self.architecture[:40]}.{key} is {str(value)[:40]}")
        return value

    def per_layer(self, key: str, blocks: int, default: int | None) -> list[int]:
        """One value per layer, empty if the key is absent and there is no default."""
        value = self.raw(key)
        if value is None:
            return [] if default is None else [default] * blocks
        values = list(value) if isinstance(value, tuple) else [value] * blocks
        usable: Callable[[object], bool] = lambda v: isinstance(v, int) and 0 <= v < 2**31  # noqa: E731
        if len(values) < blocks or not all(usable(v) for v in values):
            raise _BadHeaderError(
                f"its {self.architecture[:40]}.{key} is not a value for each layer"
            )
        return [int(v) for v in values[:blocks]]
