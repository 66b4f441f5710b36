"""llama.cpp's log while a model loads: passed on to stderr, and asked where everything goes."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from typing import Literal

import llama_cpp.llama_cpp as lib

from app import ggml
from app.engine import shortage
from app.engine.load_devices import Devices

Part = Literal["weights", "kv_cache", "compute"]
_PARTS: dict[str, Part] = {
    "model": "weights",
    "KV": "kv_cache",
    "RS": "kv_cache",
    "compute": "compute",
}
_ASSIGNED = re.compile(r"layer +(\d+) assigned to device (\S+)")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute) buffer size = +([\d.]+) MiB")
_FILLED = re.compile(
    r"load_all_data: (?:using async uploads for device (?P<fast>[^\s,]+)"
    r"|device (?P<slow>\S+) does not support"
    r"|buffer type \S+ is not the default buffer type for device (?P<other>\S+)"
    r"|no device found for buffer type)"
)
"""llama-model-loader.cpp, `load_all_data`: said once for each buffer of a file that is read, before
it is filled, and which of them depends on what its device can do. Of mapped files nothing is said."""

Heard = Callable[[Part, str], None]
"""What is being filled (`weights`) or was just allocated, and the device or buffer as llama.cpp names it."""


class LogReader:
    """Listens to the log; there is one at a time.

    Attributes:
        layers: Layers by the device that they were assigned to.
        megabytes: MiB by buffer and part.
        last_errors: The last lines of the level of errors.
    """

    def __init__(self, heard: Heard, devices: Devices) -> None:
        """Listen from now on; `heard` is called on the thread that loads."""
        self.layers: dict[str, list[int]] = {}
        self.megabytes: dict[tuple[str, Part], float] = {}
        self.last_errors: list[str] = []
        self._heard, self._devices = heard, devices
        self._callback = lib.llama_log_callback(self._line)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _line(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode(errors="replace")
        if assigned := _ASSIGNED.search(line):
            self.layers.setdefault(assigned[2].rstrip(","), []).append(int(assigned[1]))
            return
        if filled := _FILLED.search(line):
            device = filled["fast"] or filled["slow"] or filled["other"] or "CPU"
            self._heard("weights", device)
        if buffer := _BUFFER.search(line):
            key = (buffer[1], _PARTS[buffer[2]])
            self.megabytes[key] = self.megabytes.get(key, 0.0) + float(buffer[3])
            if key[1] != "weights":
                self._heard(key[1], key[0])
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            line += self._refused(line)
            self.last_errors = [*self.last_errors[-7:], line.strip()]
        if level != 1:  # not GGML_LOG_LEVEL_DEBUG
            sys.stderr.write(line)

    def _refused(self, line: str) -> str:
        """What llama.cpp does not say of an allocation that failed: whose it was, and what was free."""
        for word in shortage.named(line):
            name = self._devices.name_of(word)
            if name is not None:
                # In the middle of a CUDA error the driver is asked nothing more.
                allocating = shortage.failed_buffer(line) is not None
                free = ggml.free_bytes(self._devices.handles[name]) if allocating else None
                return shortage.place_line(word, name, free)
        return ""
