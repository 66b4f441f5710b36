"""Ollama's store: manifests name the blobs, whose names are their digests."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pydantic

MODEL_LAYER = "application/vnd.ollama.image.model"
MAX_MANIFEST_BYTES = 1024 * 1024
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """A model that a manifest names.

    Attributes:
        name: As `ollama run` takes it: `llama3.1:8b`, `hf.co/owner/repo:Q4_K_M`.
        blob: Its GGUF file, there or not.
        size_bytes: What the manifest says the blob has.
        begun: True if parts of a download lie beside where it belongs.
    """

    name: str
    blob: Path
    size_bytes: int
    begun: bool


class _Layer(pydantic.BaseModel):
    mediaType: str  # noqa: N815 - the manifest's name
    digest: str
    size: int = 0


class _Manifest(pydantic.BaseModel):
    layers: list[_Layer] = []


def models(folder: Path, manifests: list[Path]) -> Iterator[OllamaModel]:
    """The models of the store in `folder`; manifests that make no sense are passed over."""
    blobs = folder / "blobs"
    for file in manifests:
        layer = _model_layer(file)
        digest = _DIGEST.fullmatch(layer.digest) if layer else None
        if layer is None or digest is None:
            continue
        blob = blobs / f"sha256-{digest[1]}"
        yield OllamaModel(
            name=_name(PurePosixPath(file.relative_to(folder / "manifests").as_posix())),
            blob=blob,
            size_bytes=max(0, layer.size),
            begun=any(blobs.glob(f"{blob.name}-partial*")),
        )


def _model_layer(file: Path) -> _Layer | None:
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        manifest = _Manifest.model_validate(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
    return next((layer for layer in manifest.layers if layer.mediaType == MODEL_LAYER), None)


def _name(path: PurePosixPath) -> str:
    """`registry.ollama.ai/library/llama3.1/8b` is `llama3.1:8b` to a person."""
    *parts, tag = path.parts
    if parts[:1] == ["registry.ollama.ai"]:
        parts = parts[1:]
        if parts[:1] == ["library"]:
            parts = parts[1:]
    return f"{'/'.join(parts)}:{tag}"
