"""llama.cpp through its low-level bindings: one model, one context. Only the worker imports this."""

from __future__ import annotations

import codecs
import ctypes
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import psutil

from app import ggml
from app.engine import breakdown, protocol
from app.engine.template import TemplateError, render

KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
FLASH = {"auto": -1, "off": 0, "on": 1}
_ASSIGNED = re.compile(r"layer +(\d+) assigned to device (\S+)")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute) buffer size = +([\d.]+) MiB")


class LoadFailedError(Exception):
    """A load did not work; `reason` as in `protocol.Failed`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class LogReader:
    """Listens to llama.cpp's log: passes it on to stderr, and keeps what it says of placement."""

    def __init__(self) -> None:
        self.layers: dict[str, list[int]] = {}
        self.megabytes: dict[tuple[str, str], float] = {}
        self.last_errors: list[str] = []
        self._callback = lib.llama_log_callback(self._line)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _line(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode(errors="replace")
        if assigned := _ASSIGNED.search(line):
            self.layers.setdefault(assigned[2].rstrip(","), []).append(int(assigned[1]))
            return
        if buffer := _BUFFER.search(line):
            key = (buffer[1], buffer[2])
            self.megabytes[key] = self.megabytes.get(key, 0.0) + float(buffer[3])
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            self.last_errors = [*self.last_errors[-7:], line.strip()]
        if level != 1:  # not GGML_LOG_LEVEL_DEBUG
            sys.stderr.write(line)


class Model:
    """A loaded model with its context.

    `cancelled` is asked during loading and prompt processing.
    """

    def __init__(
        self,
        command: protocol.Load,
        report: Callable[[protocol.LoadProgressed], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._log = LogReader()
        self._cancelled = cancelled
        self._command = command
        self._cached: list[int] = []
        started = time.monotonic()
        self._model = self._load_model(command, report)
        report(protocol.LoadProgressed(stage="allocating"))
        self._context = self._make_context(command)
        self.vocabulary = lib.llama_model_get_vocab(self._model)
        self.memory = lib.llama_get_memory(self._context)
        self.context_size: int = lib.llama_n_ctx(self._context)
        template = lib.llama_model_chat_template(self._model, None)
        self.template: str = template.decode(errors="replace") if template else ""
        if command.self_test and not command.dry_run:
            report(protocol.LoadProgressed(stage="warming_up"))
            self._self_test()
        self.duration_s = time.monotonic() - started

    def _load_model(
        self, command: protocol.Load, report: Callable[[protocol.LoadProgressed], None]
    ) -> int:
        for endpoint in command.rpc_servers:
            if not ggml.add_rpc_server(endpoint):
                raise LoadFailedError("device", f"no RPC server answers at {endpoint}")
        registered = ggml.devices()
        handles = {device.name: device.handle for device in registered}
        self._buffers = _buffer_names(registered)
        self._handles: dict[str, int | None] = {**handles, "CPU": None}
        missing = [name for name in command.devices if name not in handles]
        if missing:
            raise LoadFailedError("device", f"the engine does not see {', '.join(missing)}")
        # An array that holds only its end means: no device at all; NULL would mean all of them.
        chosen = (ctypes.c_void_p * (len(command.devices) + 1))(
            *(handles[name] for name in command.devices), None
        )
        split = (ctypes.c_float * int(lib.llama_max_devices()))(*command.tensor_split)
        last = -1.0

        def progressed(fraction: float, _data: object) -> bool:
            nonlocal last
            if fraction - last >= 0.01 or fraction >= 1:
                last = fraction
                report(protocol.LoadProgressed(stage="reading", fraction=min(fraction, 1.0)))
            return not self._cancelled()

        self._progress = lib.llama_progress_callback(progressed)
        params = lib.llama_model_default_params()
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        params.n_gpu_layers = command.gpu_layers
        params.split_mode = lib.LLAMA_SPLIT_MODE_LAYER
        params.tensor_split = split
        self._overrides = overrides_array(command.tensor_overrides, handles)
        if command.tensor_overrides:
            params.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)
        params.use_extra_bufts = command.use_extra_buffers
        params.no_alloc = command.dry_run
        # llama.cpp aborts on a dry run of a mapped file (llama-model.cpp, load_tensors).
        if not command.use_mmap or command.dry_run:
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        params.progress_callback = self._progress
        model: int | None = lib.llama_model_load_from_file(command.model_path.encode(), params)
        if not model:
            if self._cancelled():
                raise LoadFailedError("cancelled", "the load was cancelled")
            raise self._failure()
        return model

    def _make_context(self, command: protocol.Load) -> int:
        params = lib.llama_context_default_params()
        params.n_ctx = command.context
        params.n_batch = command.batch
        params.n_ubatch = command.micro_batch
        params.type_k = KV_TYPES[command.kv_type_k]
        params.type_v = KV_TYPES[command.kv_type_v]
        params.flash_attn_type = FLASH[command.flash_attention]
        params.op_offload = command.op_offload
        # Layers with a sliding window keep their window only; `prefill` reads again what has left it.
        params.swa_full = False
        self.threads = command.threads or psutil.cpu_count(logical=False) or 1
        params.n_threads = params.n_threads_batch = self.threads
        self._abort = lib.ggml_abort_callback(lambda _data: self._cancelled())
        params.abort_callback = self._abort
        context: int | None = lib.llama_init_from_model(self._model, params)
        if not context:
            lib.llama_model_free(self._model)
            raise self._failure()
        return context

    def _failure(self) -> LoadFailedError:
        text = " ".join(self._log.last_errors) or "llama.cpp gave no reason"
        if "unknown model architecture" in text:
            return LoadFailedError("architecture", text)
        if re.search(r"out of memory|failed to allocate|unable to allocate|alloc.*failed", text):
            return LoadFailedError("memory", text)
        if re.search(r"failed to (open|load) |not within the file|invalid magic|gguf", text):
            return LoadFailedError("file", text)
        return LoadFailedError("other", text)

    def _self_test(self) -> None:
        """Decode a few tokens: a kernel that crashes here must not crash in the first answer."""
        bos = max(0, lib.llama_vocab_bos(self.vocabulary))
        for length in (4, 1, 1):
            if self._decode([bos] * length) != 0 and not self._cancelled():
                raise LoadFailedError("other", "the self-test could not decode")
        lib.llama_memory_clear(self.memory, True)

    def _decode(self, tokens: list[int]) -> int:
        array = (lib.llama_token * len(tokens))(*tokens)
        return int(lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(tokens))))

    def loaded(self) -> protocol.Loaded:
        """What to say once all is ready."""
        names = ("CPU", *self._command.devices)
        exact = breakdown.read(self._context)
        memory = tuple(self._device_memory(name, exact) for name in names)
        return protocol.Loaded(
            context=self.context_size,
            train_context=lib.llama_model_n_ctx_train(self._model),
            memory=memory,
            duration_s=self.duration_s,
            has_chat_template=bool(self.template),
            threads=self.threads,
        )

    def _device_memory(
        self, name: str, exact: tuple[breakdown.BufferMemory, ...] | None
    ) -> protocol.DeviceMemory:
        handle = self._handles[name]
        if exact is None:
            weights, kv_cache, compute = self._logged(name)
        else:
            mine = [buffer for buffer in exact if buffer.device == handle]
            weights = sum(buffer.weights_bytes for buffer in mine)
            kv_cache = sum(buffer.kv_cache_bytes for buffer in mine)
            compute = sum(buffer.compute_bytes for buffer in mine)
        layers = sorted(set(self._log.layers.get(name, [])))
        return protocol.DeviceMemory(
            device=name,
            weights_bytes=weights,
            kv_cache_bytes=kv_cache,
            compute_bytes=compute,
            layer_count=len(layers),
            first_layer=layers[0] if layers else None,
            last_layer=layers[-1] if layers else None,
        )

    def _logged(self, name: str) -> tuple[int, int, int]:
        """Weights, KV cache and compute as the log has them: MiB with two decimals."""
        found = dict.fromkeys(("model", "KV", "compute"), 0.0)
        for (buffer, kind), value in self._log.megabytes.items():
            on_host = buffer.startswith("CPU") or buffer.endswith("_Host")
            if on_host if name == "CPU" else buffer == self._buffers[name]:
                found["KV" if kind == "RS" else kind] += value
        weights, kv_cache, compute = (round(value * 1024**2) for value in found.values())
        return weights, kv_cache, compute

    # --- text ---------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text`, special ones recognised, none added."""
        data = text.encode()
        array = (lib.llama_token * (len(data) + 8))()
        count = lib.llama_tokenize(self.vocabulary, data, len(data), array, len(array), False, True)
        return list(array[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token."""
        buffer = ctypes.create_string_buffer(256)
        count = lib.llama_token_to_piece(self.vocabulary, token, buffer, 256, 0, special)
        return buffer.raw[: max(0, count)]

    def prompt(
        self, messages: tuple[protocol.ChatMessage, ...], *, continue_last: bool
    ) -> list[int]:
        """Tokens of the conversation in the model's own template.

        Raises:
            TemplateError: The template cannot be rendered.
        """
        bos, eos = lib.llama_vocab_bos(self.vocabulary), lib.llama_vocab_eos(self.vocabulary)
        text = render(
            self.template,
            messages,
            bos=self.piece(bos, special=True).decode() if bos >= 0 else "",
            eos=self.piece(eos, special=True).decode() if eos >= 0 else "",
            continue_last=continue_last,
        )
        tokens = self.tokenize(text)
        if bos >= 0 and lib.llama_vocab_get_add_bos(self.vocabulary) and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    # --- generation ---------------------------------------------------------

    def prefill(self, tokens: list[int]) -> Iterator[tuple[int, int]]:
        """Bring the prompt into the KV cache; yields (done, reused) after each batch."""
        reused = 0
        for old, new in zip(self._cached, tokens[:-1], strict=False):
            if old != new:
                break
            reused += 1
        # A sliding window has let go of what it would need to go back that far.
        gone = 0 < reused < len(self._cached) and lib.llama_memory_seq_pos_min(self.memory, 0) > 0
        if gone or not lib.llama_memory_seq_rm(self.memory, 0, reused, -1):
            lib.llama_memory_clear(self.memory, True)
            reused = 0
        self._cached = tokens[:reused]
        done = reused
        yield done, reused
        while done < len(tokens):
            batch = tokens[done : done + self._command.micro_batch]
            status = self._decode(batch)
            if self._cancelled():
                # The abort may have come in mid-batch: what is cached after `done` is unknown.
                lib.llama_memory_seq_rm(self.memory, 0, done, -1)
                return
            if status != 0:
                raise RuntimeError(f"llama_decode answered {status} after {done} tokens")
            done += len(batch)
            self._cached = tokens[:done]
            yield done, reused

    def sample_loop(self, sampling: protocol.Sampling) -> Iterator[bytes | None]:
        """Generate: yields each token's bytes, None at an end-of-generation token; ends if full."""
        sampler = _sampler(sampling)
        try:
            while True:
                token = lib.llama_sampler_sample(sampler, self._context, -1)
                if lib.llama_vocab_is_eog(self.vocabulary, token):
                    yield None
                    return
                yield self.piece(token)
                if len(self._cached) >= self.context_size or self._cancelled():
                    return
                status = self._decode([token])
                if self._cancelled():
                    lib.llama_memory_seq_rm(self.memory, 0, len(self._cached), -1)
                    return
                if status != 0:
                    raise RuntimeError(f"llama_decode answered {status}")
                self._cached.append(token)
        finally:
            lib.llama_sampler_free(sampler)

    @property
    def context_used(self) -> int:
        """Tokens in the KV cache."""
        return len(self._cached)


def overrides_array(
    overrides: tuple[tuple[str, str], ...], handles: dict[str, int]
) -> ctypes.Array[Any]:
    """An array of llama.h's `llama_model_tensor_buft_override`, ended by an empty one.

    Raises:
        LoadFailedError: A device is not there.
    """
    from llama_cpp import _ggml

    function = _ggml.libggml.ggml_backend_dev_buffer_type
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    unknown = [device for _, device in overrides if device not in handles]
    if unknown:
        raise LoadFailedError("device", f"the engine does not see {', '.join(unknown)}")
    rows = [_Override(pattern.encode(), function(handles[device])) for pattern, device in overrides]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


class _Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def _buffer_names(devices: tuple[ggml.RegisteredDevice, ...]) -> dict[str, str]:
    """How llama.cpp's log names each device's buffers: RPC devices are counted per server there."""
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    for device in devices:
        names[device.name] = device.name
        if device.endpoint is not None:
            index = seen.get(device.endpoint, 0)
            seen[device.endpoint] = index + 1
            names[device.name] = f"RPC{index}[{device.endpoint}]"
    return names


def _sampler(sampling: protocol.Sampling) -> object:
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    add = lib.llama_sampler_chain_add
    if sampling.repeat_penalty != 1:
        add(chain, lib.llama_sampler_init_penalties(64, sampling.repeat_penalty, 0.0, 0.0))
    if sampling.temperature == 0:
        add(chain, lib.llama_sampler_init_greedy())
        return chain
    if sampling.top_k:
        add(chain, lib.llama_sampler_init_top_k(sampling.top_k))
    add(chain, lib.llama_sampler_init_top_p(sampling.top_p, 1))
    add(chain, lib.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, lib.llama_sampler_init_temp(sampling.temperature))
    seed = 0xFFFFFFFF if sampling.seed is None else sampling.seed & 0xFFFFFFFF
    add(chain, lib.llama_sampler_init_dist(seed))
    return chain


class TextDecoder:
    """Joins token bytes into whole characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The characters that are complete by now."""
        return self._decoder.decode(data, final)


__all__ = ["LoadFailedError", "Model", "TemplateError", "TextDecoder"]
