"""llama.cpp's own figures for many loads in one process: dry runs on RPC devices, some ms each."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as lib

from app import ggml
from app.engine import breakdown
from app.engine.llama import FLASH, KV_TYPES, overrides_array

if TYPE_CHECKING:
    from app.plan.model import LoadPlan

Figures = dict[str, tuple[int, int, int]]
"""Weights, KV cache and compute buffer in bytes by device, `CPU` for main memory."""


class DryRuns:
    """Devices of one RPC server, and loads on them that allocate nothing."""

    def __init__(self, endpoint: str) -> None:
        self._silent = lib.llama_log_callback(lambda *_arguments: None)
        lib.llama_log_set(self._silent, ctypes.c_void_p(0))
        ggml.devices()
        if not ggml.add_rpc_server(endpoint):
            raise RuntimeError(f"no RPC server answers at {endpoint}")
        self.devices = [device for device in ggml.devices() if device.backend == "rpc"]

    def run(self, path: Path, plan: LoadPlan) -> Figures | None:
        """What each device would hold; None if llama.cpp refuses the model or the context."""
        used = [share for share in plan.devices if share.used]
        by_name = {device.name: device for device in self.devices}
        chosen = [by_name[share.device.engine_name] for share in used]
        counts = [share.layer_count for share in used]
        model = self._model(path, plan, chosen, counts)
        if not model:
            return None
        try:
            context = lib.llama_init_from_model(model, _context_params(plan))
            if not context:
                return None
            try:
                found = breakdown.read(context)
            finally:
                lib.llama_free(context)
        finally:
            lib.llama_model_free(model)
        assert found is not None
        names = {device.handle: device.name for device in chosen}
        figures: Figures = {}
        for buffer in found:
            name = names.get(buffer.device or 0, "CPU")
            before = figures.get(name, (0, 0, 0))
            more = (buffer.weights_bytes, buffer.kv_cache_bytes, buffer.compute_bytes)
            figures[name] = (before[0] + more[0], before[1] + more[1], before[2] + more[2])
        return figures

    def _model(
        self,
        path: Path,
        plan: LoadPlan,
        chosen: list[ggml.RegisteredDevice],
        counts: list[int],
    ) -> int | None:
        handles = (ctypes.c_void_p * (len(chosen) + 1))(*(d.handle for d in chosen), None)
        split = (ctypes.c_float * int(lib.llama_max_devices()))(*counts)
        params = lib.llama_model_default_params()
        params.devices = ctypes.cast(handles, ctypes.c_void_p)
        params.n_gpu_layers = plan.gpu_layers
        params.split_mode = lib.LLAMA_SPLIT_MODE_LAYER
        params.tensor_split = split
        params.use_extra_bufts = False
        params.no_alloc = True
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        overrides = _overrides(plan, {device.name: device.handle for device in ggml.devices()})
        if overrides is not None:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        model: int | None = lib.llama_model_load_from_file(str(path).encode(), params)
        return model


def _overrides(plan: LoadPlan, handles: dict[str, int]) -> ctypes.Array[Any] | None:
    if not plan.tensor_overrides:
        return None
    return overrides_array(tuple((o.pattern, o.device) for o in plan.tensor_overrides), handles)


def _context_params(plan: LoadPlan) -> Any:  # noqa: ANN401 - a structure of the binding
    request = plan.request
    params = lib.llama_context_default_params()
    params.n_ctx = plan.context
    params.n_batch = max(request.batch, request.micro_batch)
    params.n_ubatch = request.micro_batch
    params.type_k = KV_TYPES[request.kv_type_k]
    params.type_v = KV_TYPES[request.kv_type_v]
    params.flash_attn_type = FLASH[request.flash_attention]
    params.swa_full = False
    params.op_offload = False
    return params
