"""One load in a worker of its own, waited for: a self-test, or a dry run."""

from __future__ import annotations

import contextlib
import queue
import tempfile
from pathlib import Path

from app.engine import imagined, protocol
from app.engine.model import EngineEvent, EngineState, EngineStateChanged, ModelLoaded
from app.engine.safety import SafetyStore, engine_version
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.gguf.writer import write_sparse
from app.plan.planner import MOST_DEVICES


def load_once(command: protocol.Load, data: Path) -> protocol.Loaded:
    """What the worker says once the model is loaded; it is unloaded again.

    Args:
        command: With `dry_run`, nothing is allocated, and a model larger than the machine will do.
        data: The folder in which safer settings are remembered.

    Raises:
        AppError: The load failed.
    """
    ended: queue.Queue[ModelLoaded | AppError] = queue.Queue()

    def listen(event: EngineEvent) -> None:
        if isinstance(event, ModelLoaded):
            ended.put(event)
        elif isinstance(event, EngineStateChanged):
            stopped = event.state in (EngineState.STOPPED, EngineState.CRASHED)
            if stopped and event.error is not None:
                ended.put(event.error)
            elif stopped:
                ended.put(
                    AppError("The engine ended before it said anything.", kind=ErrorKind.ENGINE)
                )

    supervisor = EngineSupervisor(listen, store=SafetyStore(data / "safety.json", engine_version()))
    try:
        supervisor.load(command)
        outcome = ended.get()
    finally:
        supervisor.close()
    if isinstance(outcome, AppError):
        raise outcome
    return outcome.loaded


def dry_run(
    command: protocol.Load, layout: ModelLayout, data: Path, *, stand_ins: bool = False
) -> dict[str, tuple[int, int, int]]:
    """What llama.cpp says that each device would hold; nothing is loaded or allocated.

    Where there is no model file, one without weights is written for the moment.

    Args:
        command: What would be loaded.
        layout: The model that it names.
        data: The folder in which safer settings are remembered.
        stand_ins: The devices are not this machine's: RPC devices on its CPU stand in for them.

    Returns:
        Weights, KV cache and compute buffers in bytes by the device's name in `command`; `CPU`
        for main memory.

    Raises:
        AppError: The dry run failed.
    """
    if len(command.devices) > MOST_DEVICES:
        raise AppError(
            f"llama.cpp takes at most {MOST_DEVICES} devices; this plan uses {len(command.devices)}.",
            hint="Plan with fewer, larger ones.",
            kind=ErrorKind.USAGE,
        )
    changes: dict[str, object] = {"dry_run": True}
    names = ("CPU", *command.devices)
    with contextlib.ExitStack() as stack:
        if not Path(command.model_path).is_file():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ultra-launcher-"))
            path = Path(folder, Path(command.model_path).name)
            write_sparse(layout, path)
            changes["model_path"] = str(path)
        if stand_ins:
            count = len(command.devices)
            servers = [stack.enter_context(imagined.rpc_devices(count))] if count else []
            changes["rpc_servers"] = tuple(servers)
            stand_in = {name: f"RPC{index}" for index, name in enumerate(command.devices)}
            changes["devices"] = tuple(stand_in.values())
            changes["tensor_overrides"] = tuple(
                (pattern, stand_in.get(device, device))
                for pattern, device in command.tensor_overrides
            )
            # The buffers for this processor's special kernels say nothing of another machine.
            changes["use_extra_buffers"] = False
        loaded = load_once(command.model_copy(update=changes), data)
    return {
        name: (memory.weights_bytes, memory.kv_cache_bytes, memory.compute_bytes)
        for name, memory in zip(names, loaded.memory, strict=True)
    }
