"""The literal messages of llama.cpp's backends, and which allocation they say has failed."""

from __future__ import annotations

import pytest

from app.engine.shortage import Part, Refusal, device_id, named, place_line, refusal
from app.units import GIB, MIB

WEIGHTS = "llama_model_load: error loading model: unable to allocate {} buffer\n"
KV = (
    "llama_init_from_model: failed to initialize the context: "
    "failed to allocate buffer for kv cache\n"
)
TENSORS = "alloc_tensor_range: failed to allocate {} buffer of size {}\n"
GRAPH = (
    "ggml_gallocr_reserve_n_impl: failed to allocate {} buffer of size {}\n"
    "graph_reserve: failed to allocate compute buffers\n"
    "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers\n"
)
CUDA = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {:.2f} MiB on device {}: "
    "cudaMalloc failed: out of memory\n"
)
CPU = (
    "ggml_aligned_malloc: insufficient memory (attempted to allocate {:6.2f} MB)\n"
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size {}\n"
)
METAL = (
    "ggml_metal_buffer_init: error: failed to allocate buffer, size = {:8.2f} MiB\n"
    "ggml_backend_metal_buffer_type_alloc_buffer: failed to allocate Metal buffer of {} bytes (out of memory)\n"
)
CUDA_LATER = (
    "CUDA error: out of memory\n"
    "  current device: 3, in function alloc at ggml/src/ggml-cuda/ggml-cuda.cu:506\n"
    "  ggml_cuda_device_malloc(&ptr, look_ahead_size, device)\n"
    "ggml/src/ggml-cuda/ggml-cuda.cu:103: CUDA error\n"
)
VULKAN_LATER = (
    "terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'\n"
    "  what():  vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n"
)
RETRY = "sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism\n"


def refused(device: str, size: int | None, part: Part, free: int | None = None) -> Refusal:
    return Refusal(device=device, size_bytes=size, part=part, free_bytes=free)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            CUDA.format(18 * 1024, 2) + TENSORS.format("CUDA2", 18 * GIB) + WEIGHTS.format("CUDA2"),
            refused("CUDA2", 18 * GIB, Part.WEIGHTS),
        ),
        (
            CUDA.format(3 * 1024, 2) + TENSORS.format("CUDA2", 3 * GIB) + KV,
            refused("CUDA2", 3 * GIB, Part.KV_CACHE),
        ),
        (
            CUDA.format(600, 0) + GRAPH.format("CUDA0", 600 * MIB),
            refused("CUDA0", 600 * MIB, Part.COMPUTE),
        ),
        (CUDA.format(8192, 2), refused("CUDA2", 8 * GIB, Part.UNKNOWN)),
        (CUDA_LATER, refused("CUDA3", None, Part.SCRATCH)),
        (CUDA_LATER.replace("CUDA error", "ROCm error"), refused("ROCm3", None, Part.SCRATCH)),
        (
            TENSORS.format("Vulkan1", GIB) + WEIGHTS.format("Vulkan1"),
            refused("Vulkan1", GIB, Part.WEIGHTS),
        ),
        (VULKAN_LATER, refused("", None, Part.SCRATCH)),
        (
            METAL.format(2048, 2 * GIB) + TENSORS.format("MTL0_Private", 2 * GIB) + KV,
            refused("MTL0", 2 * GIB, Part.KV_CACHE),
        ),
        (WEIGHTS.format("MTL0_Mapped"), refused("MTL0", None, Part.WEIGHTS)),
        (
            "ggml_metal_synchronize: error: command buffer 0 failed with status 5\n"
            "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n",
            refused("", None, Part.SCRATCH),
        ),
        (
            TENSORS.format("RPC1[10.0.0.5:50052]", GIB) + KV,
            refused("RPC1[10.0.0.5:50052]", GIB, Part.KV_CACHE),
        ),
        (
            CPU.format(1024 * 1.048576, GIB) + TENSORS.format("CPU", GIB) + KV,
            refused("CPU", GIB, Part.KV_CACHE),
        ),
        (
            CPU.format(1.0, GIB) + TENSORS.format("CPU_REPACK", GIB) + WEIGHTS.format("CPU_REPACK"),
            refused("CPU", GIB, Part.WEIGHTS),
        ),
        (
            "output_reserve: failed to allocate output buffer of size 12.50 MiB\n",
            refused("CPU", 12 * MIB + MIB // 2, Part.COMPUTE),
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n",
            refused("CPU", None, Part.UNKNOWN),
        ),
        (
            "mmap failed: Cannot allocate memory llama_model_load: error loading model\n",
            refused("CPU", None, Part.UNKNOWN),
        ),
    ],
)
def test_device_size_and_part_are_read_from_what_llama_cpp_says(text: str, found: Refusal) -> None:
    assert refusal(text) == found
    assert refusal(text.replace("\n", " ")) == found, "as the worker passes it on"


def test_what_was_tried_again_with_less_counts_only_if_it_failed_again() -> None:
    first = GRAPH.format("CUDA1", GIB)
    again = GRAPH.format("CUDA1", 300 * MIB)
    found = refusal(first + RETRY + again)
    assert found is not None
    assert found.size_bytes == 300 * MIB
    assert refusal(first + RETRY + "CUDA error: an illegal memory access was encountered") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "llama_model_load: error loading model: tensor 'blk.0' data is not within the file bounds",
        "GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed",
        "CUDA error: an illegal memory access was encountered\n  current device: 2, in function f",
    ],
)
def test_other_failures_are_not_for_want_of_memory(text: str) -> None:
    assert refusal(text) is None


def test_the_worker_adds_whose_it_was_and_what_was_free() -> None:
    line = TENSORS.format("CUDA0", 3 * GIB)
    assert named(line) == ("CUDA0",)
    found = refusal(line + place_line("CUDA0", "CUDA2", 123) + KV)
    assert found == refused("CUDA2", 3 * GIB, Part.KV_CACHE, 123), "others are hidden from it"
    lines = CUDA_LATER.splitlines(keepends=True)
    assert "CUDA3" in named(lines[1])
    lines.insert(2, place_line("CUDA3", "CUDA5", None))
    assert refusal("".join(lines)) == refused("CUDA5", None, Part.SCRATCH)
    assert named("failed to allocate buffer of size 12") == ()


def test_devices_of_rpc_servers_are_known_by_their_address() -> None:
    assert device_id("RPC1[10.0.0.5:50052]") == "rpc:10.0.0.5:50052/1"
    assert device_id("CUDA0") is None
