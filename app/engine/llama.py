"""llama.cpp through its low-level bindings: one model, one context. Only the worker imports this."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import psutil
from pydantic import JsonValue

from app.engine import breakdown, load_devices, protocol, shortage
from app.engine.load_devices import HOST, LoadFailedError
from app.engine.load_log import LogReader
from app.engine.load_watch import LoadWatch, Report
from app.engine.parts import TAGS
from app.engine.sampler import Sampler
from app.engine.sequence import DecodeError, Sequence
from app.engine.stop import StopFlag
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
SPLIT_MODES = {"layer": 1, "tensor": 3}
MOST_THREADS = 512
"""ggml.h, GGML_MAX_N_THREADS; with more it writes behind its arrays."""
FLASH = {"auto": -1, "off": 0, "on": 1}


class Model:
    """A loaded model with its context; `stop` ends what runs."""

    def __init__(
        self,
        command: protocol.Load,
        report: Report,
        stop: StopFlag,
    ) -> None:
        self._stop = stop
        self._command = command
        started = time.monotonic()
        self._devices = load_devices.find(command)
        watch = LoadWatch(command, report, self._devices.name_of, stop.is_set)
        self._log = LogReader(watch.heard, self._devices)
        with watch:
            self._model = self._load_model(command, watch)
            watch.enter("allocating")
            self._context = self._make_context(command)
        self.vocabulary = lib.llama_model_get_vocab(self._model)
        self.sequence = Sequence(self._model, self._context, command.micro_batch, stop)
        self.end_tokens = EndTokens(self.vocabulary)
        self._pieces: dict[int, bytes] = {}
        template = lib.llama_model_chat_template(self._model, None)
        self.template: str = template.decode(errors="replace") if template else ""
        if command.self_test and not command.dry_run:
            watch.enter("warming_up")
            self._self_test()
        self._log.last_errors.clear()
        self.duration_s = time.monotonic() - started

    def _load_model(self, command: protocol.Load, watch: LoadWatch) -> int:
        handles = self._devices.handles
        # An array that holds only its end means: no device at all; NULL would mean all of them.
        chosen = (ctypes.c_void_p * (len(command.devices) + 1))(
            *(handles[name] for name in command.devices), None
        )
        split = (ctypes.c_float * int(lib.llama_max_devices()))(*command.tensor_split)
        self._progress = lib.llama_progress_callback(watch.progressed)
        params = lib.llama_model_default_params()
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        params.n_gpu_layers = command.gpu_layers
        params.split_mode = SPLIT_MODES[command.split_mode]
        params.tensor_split = split
        self._overrides = overrides_array(command.tensor_overrides, handles)
        if command.tensor_overrides:
            params.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)
        params.use_extra_bufts = command.use_extra_buffers
        params.no_alloc = command.dry_run
        # llama.cpp aborts on a dry run of a mapped file (llama-model.cpp, load_tensors).
        if command.load_mode == "read" or command.dry_run:
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        params.progress_callback = self._progress
        model: int | None = lib.llama_model_load_from_file(os.fsencode(command.model_path), params)
        if not model:
            if self._stop.is_set():
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
        self.threads = min(command.threads or psutil.cpu_count(logical=False) or 1, MOST_THREADS)
        params.n_threads = params.n_threads_batch = self.threads
        params.abort_callback, params.abort_callback_data = self._stop.callback, self._stop.data
        context: int | None = lib.llama_init_from_model(self._model, params)
        if not context:
            lib.llama_model_free(self._model)
            raise self._failure()
        return context

    def _failure(self) -> LoadFailedError:
        text = " ".join(self._log.last_errors) or "llama.cpp gave no reason"
        if "SPLIT_MODE_TENSOR" in text:
            return LoadFailedError("split", text)
        if "unknown model architecture" in text:
            return LoadFailedError("architecture", text)
        if shortage.refusal(text):
            return LoadFailedError("memory", text)
        if re.search(r"failed to (open|load) |not within the file|invalid magic|gguf", text):
            return LoadFailedError("file", text)
        return LoadFailedError("other", text)

    def why(self, error: DecodeError) -> tuple[str, str]:
        """Reason and detail of what went wrong in a turn, as in `protocol.Failed`."""
        text = " ".join((*self._log.last_errors, str(error)))
        return ("memory", text) if shortage.refusal(text) else ("other", f"{error}")

    def _self_test(self) -> None:
        """Decode a few tokens: a kernel that crashes here must not crash in the first answer."""
        bos = max(0, lib.llama_vocab_bos(self.vocabulary))
        try:
            for length in (4, 5, 6):
                for _ in self.sequence.prefill([bos] * length):
                    pass
        except DecodeError as error:
            raise LoadFailedError(*self.why(error)) from error
        self.sequence.clear()

    def loaded(self) -> protocol.Loaded:
        """What to say once all is ready."""
        names = ("CPU", *self._command.devices)
        exact = breakdown.read(self._context)
        memory = tuple(self._device_memory(name, exact) for name in names)
        return protocol.Loaded(
            context=self.sequence.size,
            train_context=lib.llama_model_n_ctx_train(self._model),
            memory=memory,
            duration_s=self.duration_s,
            has_chat_template=bool(self.template),
            threads=self.threads,
        )

    def _device_memory(
        self, name: str, exact: tuple[breakdown.BufferMemory, ...] | None
    ) -> protocol.DeviceMemory:
        # Main memory's buffers belong to no device.
        handle = None if name == HOST else self._devices.handles[name]
        if exact is None:
            weights, kv_cache, compute = self._logged(name)
        else:
            mine = [buffer for buffer in exact if self._is_of(buffer.device, handle)]
            weights = sum(buffer.weights_bytes for buffer in mine)
            kv_cache = sum(buffer.kv_cache_bytes for buffer in mine)
            compute = sum(buffer.compute_bytes for buffer in mine)
        layers = sorted(set(self._log.layers.get(self._devices.local_names[name], [])))
        return protocol.DeviceMemory(
            device=name,
            weights_bytes=weights,
            kv_cache_bytes=kv_cache,
            compute_bytes=compute,
            layer_count=len(layers),
            first_layer=layers[0] if layers else None,
            last_layer=layers[-1] if layers else None,
        )

    def _is_of(self, owner: int | None, handle: int | None) -> bool:
        """True if a buffer of `owner` lies on the device `handle` (None for main memory).

        Split tensors are owned by a device that stands for all of them, and tells what the one
        with most of them holds.
        """
        if handle is None or self._command.split_mode == "layer":
            return owner == handle
        return owner is not None

    def _logged(self, name: str) -> tuple[int, int, int]:
        """Weights, KV cache and compute as the log has them: MiB with two decimals."""
        found = dict.fromkeys(("weights", "kv_cache", "compute"), 0.0)
        for (buffer, part), value in self._log.megabytes.items():
            if self._devices.name_of(buffer) == name:
                found[part] += value
        weights, kv_cache, compute = (round(value * 1024**2) for value in found.values())
        return weights, kv_cache, compute

    # --- text ---------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Tokens of `text`, special ones recognised, none added."""
        data = text.encode(errors="replace")
        size = len(data) + 8
        while True:
            array = (lib.llama_token * size)()
            count: int = lib.llama_tokenize(
                self.vocabulary, data, len(data), array, size, False, True
            )
            if count >= 0:
                return array[:count]
            # A vocabulary of bytes writes a space as three of them.
            size = -count

    def piece(self, token: int) -> bytes:
        """The bytes of one token; empty for special ones, but tags that `parts` knows are kept."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._to_bytes(token, special=False)
            if not piece:
                tag = self._to_bytes(token, special=True)
                piece = tag if tag.decode(errors="replace") in TAGS else b""
            self._pieces[token] = piece
        return piece

    def detokenize(self, tokens: list[int]) -> str:
        """Their text, special ones included."""
        data = b"".join(self._to_bytes(token, special=True) for token in tokens)
        return data.decode(errors="replace")

    def _to_bytes(self, token: int, *, special: bool) -> bytes:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_token_to_piece(self.vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def make_sampler(self, sampling: protocol.Sampling) -> Sampler:
        """A sampler chain, to be closed.

        Raises:
            SamplingError: Grammar or JSON schema are broken.
        """
        return Sampler(sampling, self._context, self.tokenize, self.end_tokens)

    def prompt(
        self,
        messages: tuple[protocol.ChatMessage, ...],
        *,
        tools: tuple[dict[str, JsonValue], ...] = (),
        continue_last: bool = False,
    ) -> list[int]:
        """Tokens of the conversation in the model's own template.

        Raises:
            TemplateError: The template cannot be rendered.
        """
        bos, eos = lib.llama_vocab_bos(self.vocabulary), lib.llama_vocab_eos(self.vocabulary)
        text = render(
            self.template,
            messages,
            bos=self._to_bytes(bos, special=True).decode() if bos >= 0 else "",
            eos=self._to_bytes(eos, special=True).decode() if eos >= 0 else "",
            tools=tools,
            continue_last=continue_last,
        )
        tokens = self.tokenize(text)
        if bos >= 0 and lib.llama_vocab_get_add_bos(self.vocabulary) and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        if not tokens:
            raise TemplateError("the chat template writes nothing")
        return tokens


class EndTokens:
    """The tokens that end an answer: asked one by one, since to look for them all takes a while."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __contains__(self, token: int) -> bool:
        """True if `token` is one of them."""
        return bool(lib.llama_vocab_is_eog(self._vocabulary, token))

    def __iter__(self) -> Iterator[int]:
        """All of them."""
        return filter(self.__contains__, range(lib.llama_vocab_n_tokens(self._vocabulary)))


def overrides_array(
    overrides: tuple[tuple[str, str], ...], handles: dict[str, int]
) -> ctypes.Array[Any]:
    """An array of llama.h's `llama_model_tensor_buft_override`, ended by an empty one."""
    from llama_cpp import _ggml

    function = _ggml.libggml.ggml_backend_dev_buffer_type
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    rows = [_Override(pattern.encode(), function(handles[device])) for pattern, device in overrides]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


class _Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


__all__ = ["LoadFailedError", "Model", "TemplateError"]
