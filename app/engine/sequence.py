"""The one sequence of a context: what its KV cache holds, and what is added to it.

Only the worker imports this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from app.engine.stop import StopFlag

ABORTED = 2
"""What `llama_decode` answers once the abort callback has said so (llama.h)."""


WORTH_MOVING = 32
"""Fewer tokens are computed as fast."""


class DecodeError(RuntimeError):
    """`llama_decode` failed; what was cached before is still valid."""


class StateError(RuntimeError):
    """A saved KV cache could not be written or read."""


class Sequence:
    """Tokens in the KV cache. After a stop or a failure it holds what it says that it holds.

    Attributes:
        size: Tokens that fit.
        tokens: What is cached, in order.
    """

    def __init__(self, model: int, context: int, micro_batch: int, stop: StopFlag) -> None:
        self._context, self._stop = context, stop
        self._memory = lib.llama_get_memory(context)
        self._window: int = lib.llama_model_n_swa(model)
        # Prepared once: the loop below then allocates nothing for a token.
        self._many: Any = (lib.llama_token * micro_batch)()
        self._one = (lib.llama_token * 1)()
        self._batch_of_one = lib.llama_batch_get_one(self._one, 1)
        self.size: int = lib.llama_n_ctx(context)
        self.tokens: list[int] = []

    def clear(self) -> None:
        """Forget all."""
        lib.llama_memory_clear(self._memory, True)
        self.tokens = []

    def keep(self, count: int) -> None:
        """Forget all but the first `count` tokens, or really all where the model cannot go back.

        A recurrent state holds its last token only, and layers with a sliding window the last
        tokens up to the window.
        """
        lost = count == 0 or self._forgotten(count)
        if lost or not lib.llama_memory_seq_rm(self._memory, 0, count, -1):
            self.clear()
        else:
            del self.tokens[count:]

    def _forgotten(self, count: int) -> bool:
        """True if a layer no longer has all that token `count` attends to (llama-hparams.h, is_masked_swa)."""
        first: int = lib.llama_memory_seq_pos_min(self._memory, 0)
        return first > max(0, count + 1 - self._window)

    def state_bytes(self) -> int:
        """What `save` would write, without the tokens."""
        return int(lib.llama_state_seq_get_size(self._context, 0))

    def save(self, path: Path) -> int:
        """Write tokens and cache; returns the size in bytes.

        Raises:
            StateError: It was not written, or not all of it; nothing is left behind.
        """
        count = len(self.tokens)
        array = (lib.llama_token * count)(*self.tokens)
        written: int = lib.llama_state_seq_save_file(self._context, bytes(path), 0, array, count)
        # The file's last part is written when it is closed, of which llama.cpp says nothing.
        if not written or path.stat().st_size != written:
            path.unlink(missing_ok=True)
            raise StateError("the KV cache could not be written")
        return written

    def restore(self, path: Path) -> int:
        """Read what `save` wrote; returns the size in bytes. What was cached before is gone.

        Raises:
            StateError: The file is damaged, or of another model; the cache is empty then.
        """
        self.clear()
        array, count = (lib.llama_token * self.size)(), ctypes.c_size_t()
        found: int = lib.llama_state_seq_load_file(
            self._context, bytes(path), 0, array, self.size, ctypes.byref(count)
        )
        last: int = lib.llama_memory_seq_pos_max(self._memory, 0)
        if not found or last != count.value - 1:
            self.clear()
            raise StateError("the saved KV cache cannot be used")
        self.tokens = array[: count.value]
        return found

    def common_prefix(self, tokens: list[int]) -> int:
        """How many of `tokens` are cached, the last one excluded: its logits are needed."""
        limit = min(len(self.tokens), len(tokens) - 1)
        if self.tokens[:limit] == tokens[:limit]:
            return limit
        return next(i for i in range(limit) if self.tokens[i] != tokens[i])

    def _close_gap(self, tokens: list[int], gap: int) -> None:
        """Take out `gap` tokens in the middle that `tokens` lacks, and move up what follows them.

        What follows was computed in sight of what goes; that is the bargain of every context shift.
        Not where a layer has a window or a state: it holds too little of what stays.
        """
        start = self.common_prefix(tokens)
        moved = self.tokens[start + gap :]
        count = next(
            (i for i, (a, b) in enumerate(zip(moved, tokens[start:-1], strict=False)) if a != b),
            min(len(moved), len(tokens) - 1 - start),
        )
        memory = self._memory
        if self._window or count < WORTH_MOVING or lib.llama_memory_seq_pos_min(memory, 0) != 0:
            return
        if not lib.llama_memory_can_shift(memory):
            return
        self.keep(start + gap + count)
        if lib.llama_memory_seq_rm(memory, 0, start, start + gap):
            lib.llama_memory_seq_add(memory, 0, start + gap, -1, -gap)
            del self.tokens[start : start + gap]

    def prefill(self, tokens: list[int], *, shorter: int = 0) -> Iterator[int]:
        """Bring `tokens` into the KV cache; yields how many are there, first those from before.

        Ends early once the flag is set. Where so many tokens were left out in the middle since the
        last time, `shorter` is their number.

        Raises:
            DecodeError: llama.cpp could not.
        """
        if shorter:
            self._close_gap(tokens, shorter)
        self.keep(self.common_prefix(tokens))
        done = len(self.tokens)
        yield done
        while done < len(tokens) and not self._stop.is_set():
            count = min(len(self._many), len(tokens) - done)
            self._many[:count] = tokens[done : done + count]
            status: int = lib.llama_decode(
                self._context, lib.llama_batch_get_one(self._many, count)
            )
            if status != 0:
                self._failed(status)
                return
            done += count
            self.tokens += tokens[len(self.tokens) : done]
            if done == len(tokens):
                # Devices compute on their own; the prompt is read when they are done.
                lib.llama_synchronize(self._context)
            yield done

    def generate(self, sample: Callable[[], int]) -> Iterator[int]:
        """Yields tokens, each not yet cached; ends when the context is full or the flag is set.

        Raises:
            DecodeError: llama.cpp could not.
        """
        decode, stopped = lib.llama_decode, self._stop.is_set
        context, batch, one, size = self._context, self._batch_of_one, self._one, self.size
        tokens = self.tokens
        while True:
            token = sample()
            yield token
            if len(tokens) >= size or stopped():
                return
            one[0] = token
            status: int = decode(context, batch)
            if status != 0:
                self._failed(status)
                return
            tokens.append(token)

    def _failed(self, status: int) -> None:
        # Part of the batch may be cached by now.
        self.keep(len(self.tokens))
        if status != ABORTED:
            raise DecodeError(f"llama_decode answered {status} after {len(self.tokens)} tokens")
