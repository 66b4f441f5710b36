"""How each backend lays tensors down, and what its driver takes beside them."""

from __future__ import annotations

import dataclasses

from app.units import MIB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BackendRules:
    """One backend's buffers.

    Attributes:
        alignment: Bytes to which each tensor is padded.
        row_padding: Quantized rows are read in steps of so many weights: a tensor whose rows are no
            multiple of it is larger by what its last row lacks; 1 for none.
        reserve_bytes: Kept free for the driver's context and scratch, which no figure of llama.cpp
            contains.
        unpacks_cache: See `layers.Builder`.
        most_tensor_bytes: The largest tensor that it computes with; llama.cpp leaves a larger one in
            main memory, without a word.
    """

    alignment: int
    row_padding: int
    reserve_bytes: int
    unpacks_cache: bool = False
    most_tensor_bytes: int | None = None


CPU = BackendRules(alignment=32, row_padding=1, reserve_bytes=512 * MIB)
"""TENSOR_ALIGNMENT in ggml-impl.h."""
_RULES = {
    # ggml-cuda.cu: `get_alignment`, MATRIX_ROW_PADDING. Context, cuBLAS and memory pool: some
    # 300 to 600 MB, measured with different drivers.
    "cuda": BackendRules(
        alignment=128, row_padding=512, reserve_bytes=640 * MIB, unpacks_cache=True
    ),
    # minStorageBufferOffsetAlignment is at most 256 by Vulkan's specification; 64 is the most seen.
    # maxStorageBufferRange is a number of 32 bits; only few drivers have VK_EXT_shader_64bit_indexing.
    "vulkan": BackendRules(
        alignment=64, row_padding=1, reserve_bytes=384 * MIB, most_tensor_bytes=2**32 - 1
    ),
    "metal": BackendRules(alignment=32, row_padding=1, reserve_bytes=256 * MIB),
    # The server's own backend rules; here a CPU's.
    "rpc": BackendRules(alignment=32, row_padding=1, reserve_bytes=64 * MIB),
    "cpu": CPU,
}


def rules(backend: str) -> BackendRules:
    """The rules of `cuda`, `vulkan`, `metal`, `rpc` or `cpu`; of any other, those that take most."""
    return _RULES.get(backend, _RULES["cuda"])
