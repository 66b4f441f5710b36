"""What a tensor takes in a buffer of each backend: alignment, and rows padded as ggml-cuda.cu does."""

from __future__ import annotations

import pytest

from app.gguf.model import TensorInfo
from app.plan.memory import tensor_bytes
from app.plan.rules import rules


@pytest.mark.parametrize(
    ("kind", "shape", "size", "backend", "expected"),
    [
        ("F32", (5,), 20, "cuda", 128),
        ("F32", (5,), 20, "vulkan", 64),
        ("F32", (5,), 20, "metal", 32),
        ("F32", (5,), 20, "cpu", 32),
        # 3 rows of 18 blocks of 34 bytes; CUDA pads the last row from 576 to 1,024 values.
        ("Q8_0", (576, 3), 1836, "cpu", 1856),
        ("Q8_0", (576, 3), 1836, "vulkan", 1856),
        ("Q8_0", (576, 3), 1836, "cuda", 2432),
        ("Q8_0", (1024, 2), 2176, "cuda", 2176),
    ],
)
def test_a_tensor_is_padded_as_its_backend_pads(
    kind: str, shape: tuple[int, ...], size: int, backend: str, expected: int
) -> None:
    tensor = TensorInfo(name="t", shape=shape, type=kind, size_bytes=size, offset=0)
    assert tensor_bytes(tensor, rules(backend)) == expected
