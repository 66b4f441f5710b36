"""What llama.cpp and its libraries really print when memory runs out, and what a person reads."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app import processes
from app.engine import diagnose, protocol
from app.engine.shortage import Part
from app.errors import ErrorKind


@pytest.mark.parametrize(
    "line",
    [
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "allocating 8192.00 MiB on device 2: cudaMalloc failed: out of memory",
        "instance of 'vk::OutOfDeviceMemoryError'\n  what():  ErrorOutOfDeviceMemory",
    ],
)
def test_a_crash_for_want_of_memory_is_one(line: str) -> None:
    error = diagnose.crashed(1, line)
    assert error.kind is ErrorKind.MEMORY
    assert "memory" in error.title
    assert error.hint


def test_the_device_and_the_size_are_named() -> None:
    line = "allocating 8192.00 MiB on device 2: cudaMalloc failed: out of memory"
    error = diagnose.crashed(-6, line)
    assert error.title == "There was not enough memory on GPU 2."
    assert "8.0 GiB" in error.detail


def test_a_worker_that_gets_no_memory_says_so_and_lives(starter_model: Path) -> None:
    """A KV cache of a million tokens, under a limit that lets the worker start."""

    def limit() -> None:
        size = 6 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    command = protocol.Load(model_path=str(starter_model), context=1_048_576, self_test=False)
    child = subprocess.Popen(
        [sys.executable, "-m", "app.engine.worker"],
        env=processes.child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=limit,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(command.model_dump_json() + "\n")
        child.stdin.flush()
        for line in child.stdout:
            message = protocol.message_adapter.validate_json(line)
            if isinstance(message, protocol.Loaded | protocol.Failed):
                break
        else:
            pytest.fail("the worker died")
        assert isinstance(message, protocol.Failed)
        assert message.reason == "memory"
        error = diagnose.load_failed(message, str(starter_model))
        assert isinstance(error, diagnose.ShortOfMemoryError)
        assert error.kind is ErrorKind.MEMORY
        assert error.refusal.device == "CPU"
        assert error.refusal.part is Part.KV_CACHE
        assert error.refusal.size_bytes == 30 * 2 * 3 * 64 * 2 * 1_048_576, (
            "as planned, to the byte"
        )
        assert error.refusal.free_bytes
        child.stdin.close()
        assert child.wait(30) == 0


def test_a_server_that_is_lost_is_named_and_is_no_want_of_memory() -> None:
    words = "alloc_tensor_range: failed to allocate CUDA0 buffer of size 5\n"
    abort = "ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response\n"
    error = diagnose.crashed(-6, words + abort)
    assert isinstance(error, diagnose.ServerLostError)
    assert not error.endpoint
    error = diagnose.crashed(-6, "ggml-rpc.cpp:547: Failed to connect to 10.0.0.5:50052\n")
    assert isinstance(error, diagnose.ServerLostError)
    assert error.endpoint == "10.0.0.5:50052"
    failed = protocol.Failed(
        stage="load", reason="device", detail="no RPC server answers at 10.0.0.5:50052"
    )
    error = diagnose.load_failed(failed, "m.gguf")
    assert isinstance(error, diagnose.ServerLostError)
    assert error.endpoint == "10.0.0.5:50052"
    assert "10.0.0.5:50052" in error.title
