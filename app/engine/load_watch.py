"""What a load does right now: heard from llama.cpp where it says so, else seen from the system.

llama.cpp tells its progress before each tensor: by bytes, and in an order of its own (each device's
largest tensors first where a file is read, llama-model-loader.cpp). So a shard is never derived from
the fraction. Linux shows which file was read last, and how much of the mapped ones is in memory; a
mapped file is read as a whole before the first tensor, while llama.cpp says nothing for minutes.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from app.engine import protocol
from app.engine.files import shards
from app.engine.load_log import Part

Report = Callable[[protocol.LoadProgressed], None]
LOOK_S = 0.25
CALL_S = 0.05
"""llama.cpp's own progress is looked at no more often than this."""
SAME_S = 0.5
"""Bytes alone are told no more often than this."""
RATE_S = 3.0
"""The rate is that of so many seconds."""
LEAST_S = 0.5
"""A file that is there at once has no rate."""


class LoadWatch:
    """Reports a load's stages from llama.cpp's thread, and from one of its own while it is entered."""

    def __init__(
        self,
        command: protocol.Load,
        report: Report,
        device_of: Callable[[str], str | None],
        stopped: Callable[[], bool],
    ) -> None:
        """`device_of` gives the command's name of a device or buffer in the log, `CPU` for main memory."""
        self._numbers = {name: index for index, name in enumerate(command.devices, start=1)}
        self._numbers["CPU"] = 0
        self._report, self._device_of, self._stopped = report, device_of, stopped
        self._mapped = command.load_mode == "mapped"
        self._copies = self._mapped and bool(command.devices)
        self._files = Files(shards(Path(command.model_path)), mapped=self._mapped)
        self._state = protocol.LoadProgressed(
            stage="reading", devices=len(command.devices), shards=self._files.count,
            total_bytes=self._files.total_bytes,
        )  # fmt: skip
        self._tensors = False
        self._fraction = self._called_at = 0.0
        self._told_at = 0.0
        self._samples: collections.deque[tuple[float, int]] = collections.deque()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="load watch", daemon=True)

    def __enter__(self) -> Self:
        """Look at the files from now on."""
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Nothing more is told."""
        self._ended.set()
        self._thread.join()

    def progressed(self, fraction: float, _data: object) -> bool:
        """llama.cpp's progress callback; it goes on while the answer is true."""
        now, self._fraction = time.monotonic(), min(fraction, 1.0)
        # A model has a thousand tensors; to tell of each would hold up a fast load.
        if self._fraction == 1 or now - self._called_at >= CALL_S:
            self._called_at = now
            self._tell_fraction()
        return not self._stopped()

    def _tell_fraction(self) -> None:
        self._files.begin()
        self._tensors = True
        shard = None if self._mapped else self._state.shard  # mapped files are read by now
        if self._copies:
            self._tell(stage="copying", fraction=self._fraction, shard=shard, bytes_per_s=None)
            return
        moved, total = self._files.moved_bytes(), self._files.total_bytes
        done = round(self._fraction * total) if moved is None else moved
        fraction = max(self._fraction, self._state.fraction or 0.0)
        self._tell(done=total if fraction == 1 else done, fraction=fraction, shard=shard)

    def heard(self, part: Part, name: str) -> None:
        """The log says what is filled now, or was allocated."""
        device = self._numbers.get(self._device_of(name) or "")
        if part == "weights":
            self._tell_fraction()
            self._tell(device=device)
        else:
            self._tell(stage="allocating", part=part, device=device, fraction=None, shard=None)

    def enter(self, stage: protocol.LoadStage) -> None:
        """The next stage begins."""
        self._tell(stage=stage, part=None, device=None, fraction=None, shard=None)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            if self._mapped and self._tensors:
                return  # all is in memory: llama.cpp itself tells the rest
            shard, moved = self._files.current(), self._files.moved_bytes()
            if moved and self._mapped:  # llama.cpp says nothing meanwhile
                self._tell("reading", moved, shard=shard, fraction=moved / self._files.total_bytes)
            else:
                self._tell("reading", moved, shard=shard)

    def _tell(
        self, only: protocol.LoadStage | None = None, done: int | None = None, **changes: object
    ) -> None:
        """Report what changed, of the stage `only`; bytes only go up, and alone are told now and then."""
        with self._lock:
            old, now = self._state, time.monotonic()
            if only not in (None, old.stage):
                return
            if done:
                done = max(old.done_bytes, done)
                changes |= {"done_bytes": done, "bytes_per_s": self._rate(now, done)}
            new = old.model_copy(update=changes)
            if new == old:
                return
            self._state = new
            if _same(old, new) and now - self._told_at < SAME_S:
                return
            self._told_at = now
            self._report(new)

    def _rate(self, now: float, done: int) -> float | None:
        samples = self._samples
        samples.append((now, done))
        while samples[-1][0] - samples[0][0] > RATE_S:
            samples.popleft()
        seconds = now - samples[0][0]
        return (done - samples[0][1]) / seconds if seconds > LEAST_S else None


def _same(old: protocol.LoadProgressed, new: protocol.LoadProgressed) -> bool:
    """True if nobody would see the difference."""
    percent = [math.floor(100 * (state.fraction or 0)) for state in (old, new)]
    fields = ("stage", "shard", "device", "part")
    return percent[0] == percent[1] and all(getattr(old, f) == getattr(new, f) for f in fields)


class Files:
    """The model's files as the system sees them being read; elsewhere than on Linux it tells nothing."""

    def __init__(self, paths: Sequence[Path], *, mapped: bool) -> None:
        sizes = [path.stat().st_size for path in paths]
        self._paths = [os.path.realpath(path) for path in paths]
        self.total_bytes, self.count = sum(sizes), len(sizes)
        self._mapped = mapped
        self._linux = sys.platform == "linux"
        self._process = psutil.Process()
        self._positions: dict[str, int] = {}
        self._base = self._counter()
        self._begun = False

    def begin(self) -> None:
        """The first tensor: what was read until now was none."""
        if not self._begun and not self._mapped:
            self._base = self._counter()
        self._begun = True

    def moved_bytes(self) -> int | None:
        """Bytes that were read into memory; None where nothing can tell, or before any were."""
        if self._linux and self._mapped and not self._begun:
            before, self._base = self._base, self._counter()
            if self._last_mapped():
                self._base, self._begun = before, True
        if not self._linux or not self._begun:
            return None
        return max(0, min(self.total_bytes, self._counter() - self._base))

    def _counter(self) -> int:
        if not self._linux:
            return 0
        try:
            if self._mapped:
                return int(self._process.memory_info().shared)
            return int(self._process.io_counters().read_chars)
        except (psutil.Error, OSError):
            return 0

    def current(self) -> int | None:
        """Number of the shard that is read now, from 1; None if nothing can tell, or if it is several."""
        if not self._linux or self.count < 2:
            return None
        try:
            return self._last_mapped() if self._mapped else self._last_read()
        except OSError:
            return None

    def _last_mapped(self) -> int | None:
        """They are mapped in their order, and read whole one by one (llama-mmap.cpp, MAP_POPULATE)."""
        lines = Path("/proc/self/maps").read_bytes().split(b"\n")
        mapped = {os.fsdecode(line.split(maxsplit=5)[-1]) for line in lines if line}
        return sum(path in mapped for path in self._paths) or None

    def _last_read(self) -> int | None:
        """The one whose position changed since the last look."""
        moved = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                path = str(entry.readlink())
                if path in self._paths:
                    info = Path("/proc/self/fdinfo", entry.name).read_text()
                    position = int(info.split(maxsplit=2)[1])
                    if self._positions.get(path) not in (None, position):
                        moved.append(self._paths.index(path) + 1)
                    self._positions[path] = position
        return moved[0] if len(moved) == 1 else None
