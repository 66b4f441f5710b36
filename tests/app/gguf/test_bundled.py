"""Bundled layouts against what others have published of the same files."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time

import pytest

from app.errors import AppError
from app.gguf import bundled
from app.gguf.model import ModelLayout, TensorInfo
from app.units import MIB

ULTRA, SUPER = "nemotron-ultra-253b", "nemotron-super-49b"
METADATA_GB = 0.008
"""Of a header with the vocabulary, which a bundled layout lacks."""


def tensors(layout: ModelLayout) -> list[TensorInfo]:
    inside = [tensor for layer in layout.layers for tensor in layer.tensors]
    return [*layout.token_embedding, *layout.output, *layout.other, *inside]


def test_sizes_are_those_of_published_files() -> None:
    # llama.cpp's own log of this file (pull request 12843).
    q4 = bundled.layout(f"{ULTRA}:Q4_K_M")
    assert q4.size_bytes / MIB == pytest.approx(143_937.13, abs=0.005)
    published_gb = {
        "BF16": 99.74, "Q8_0": 52.99, "Q6_K": 40.92, "Q5_K_M": 35.39, "Q5_K_S": 34.43,
        "Q4_1": 31.38, "Q4_K_M": 30.22,
    }  # fmt: skip
    for kind, size in published_gb.items():
        found = bundled.layout(f"{SUPER}:{kind}").size_bytes / 1e9 + METADATA_GB
        assert found == pytest.approx(size, abs=0.01), kind


def test_tensors_are_those_of_a_published_file() -> None:
    # Log of a converted Ultra: 648 tensors, 147 of them F32; 249.199 B weights in its layers.
    layout = bundled.layout(f"{ULTRA}:Q8_0")
    everything = tensors(layout)
    assert len(everything) == len({tensor.name for tensor in everything}) == 648
    assert sum(tensor.type == "F32" for tensor in everything) == 147
    inside = sum(math.prod(t.shape) for layer in layout.layers for t in layer.tensors)
    assert inside / 1e9 == pytest.approx(249.199, abs=0.0005)
    # NVIDIA's own count; a file holds 64 rope factors more.
    assert layout.parameter_count - 64 == 253_401_268_224
    assert bundled.layout(SUPER).parameter_count - 64 == 49_867_145_216


def test_the_largest_tensor_of_the_flagship() -> None:
    layout = bundled.layout(f"{ULTRA}:Q4_K_M")
    down = next(t for t in layout.layers[134].tensors if "ffn_down" in t.name)
    assert (down.shape, down.type) == ((425_984, 16_384), "Q6_K")
    assert down.size_bytes == max(t.size_bytes for t in tensors(layout))
    assert down.size_bytes / 2**30 == pytest.approx(5.33, abs=0.005)
    assert sum(not layer.tensors for layer in layout.layers) == 81


@pytest.mark.parametrize("name", [ULTRA, SUPER])
def test_every_quantization_is_whole(name: str) -> None:
    kinds = bundled.quantizations(name)
    layouts = [bundled.layout(f"{name}:{kind}") for kind in kinds]
    assert len(kinds) == 26
    sizes = [layout.size_bytes for layout in layouts]
    assert sizes == sorted(sizes)
    for layout in layouts:
        ordered = sorted(tensors(layout), key=lambda tensor: tensor.offset)
        for tensor, following in itertools.pairwise(ordered):
            end = tensor.offset + tensor.size_bytes
            assert following.offset == end + -end % 32
        assert layout.file_size_bytes - layout.size_bytes < 32 * len(ordered)


def test_all_quantizations_take_no_time() -> None:
    started = time.perf_counter()
    for kind in bundled.quantizations(SUPER):
        bundled.layout(f"{SUPER}:{kind}")
    assert time.perf_counter() - started < 2


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(AppError, match="no Q9_X") as caught:
        bundled.layout(f"{ULTRA}:Q9_X")
    assert "Q4_K_M" in caught.value.hint


def test_a_downloaded_flagship_finds_its_quantizations_and_relatives_by_what_it_is() -> None:
    ultra = bundled.layout("nemotron-ultra-253b:Q4_K_M")
    renamed = dataclasses.replace(ultra, name="Ultra, as somebody called it")
    found = bundled.relatives(renamed)
    same = [each for each in found if each.name == renamed.name]
    assert [each.quantization for each in same] == list(
        bundled.quantizations("nemotron-ultra-253b")
    )
    assert [each.name for each in found[len(same) :]] == ["Llama-3.3-Nemotron-Super-49B-v1"]
    other = dataclasses.replace(ultra, block_count=ultra.block_count + 1)
    assert bundled.relatives(other) == ()
