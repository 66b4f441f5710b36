"""Faults inside a real worker, switched on by a file while it runs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

_CODE = """
import sys
if "app.engine.worker" in " ".join(sys.orig_argv):
    import os, resource
    if "TEST_MEMORY" in os.environ:
        size = int(os.environ["TEST_MEMORY"])
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    if "TEST_CGROUP" in os.environ:
        with open(os.environ["TEST_CGROUP"], "w") as members:
            members.write(str(os.getpid()))
if "app.engine.worker" in " ".join(sys.orig_argv):
    import builtins, ctypes, os, time
    real = builtins.__import__
    trigger = os.environ["TEST_FAULT"]

    def act():
        try:
            with open(trigger) as file:
                kind = file.read()
            if kind == "no_end":
                return
            os.remove(trigger)
        except OSError:
            return
        from llama_cpp import _ggml
        if kind == "abort":
            _ggml.libggml.ggml_abort(b"llama.cpp", 1, b"GGML_ASSERT(%s) failed", b"a fault of the test")
        elif kind == "segfault":
            ctypes.string_at(0)
        elif kind == "hang":
            ctypes.CDLL(None).pause()
        elif kind == "sleep":
            time.sleep(2)
        elif kind == "garbage":
            for fd in range(3, 10):
                try:
                    os.write(fd, b"\\xff\\x00 no message\\n{}\\n[1, 2\\n")
                    return
                except OSError:
                    pass
        elif kind == "half":
            # The line that comes next is glued to it, and lost.
            for fd in range(3, 10):
                try:
                    os.write(fd, b'{"type":"tokens_gen')
                    return
                except OSError:
                    pass

    write = os.write

    def cut(fd, data):
        if b'"turn_finished"' in data and os.path.exists(trigger):
            with open(trigger) as file:
                if file.read() == "no_end":
                    os.remove(trigger)
                    write(fd, data[:30])
                    return len(data)
        return write(fd, data)

    os.write = cut

    def patched(name, *args, **kwargs):
        module = real(name, *args, **kwargs)
        lib = sys.modules.get("llama_cpp.llama_cpp")
        if lib is not None and hasattr(lib, "llama_decode") and not hasattr(lib, "_armed"):
            lib._armed = True
            decode = lib.llama_decode

            def faulty(context, batch):
                act()
                return decode(context, batch)

            lib.llama_decode = faulty
        return module

    builtins.__import__ = patched
"""


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group whose processes the kernel kills once they have used so much; yields its list of members.

    Raises:
        OSError: Nobody may make one here.
    """
    first = Path("/sys/fs/cgroup/memory")
    root, name, swap = first, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    if not first.exists():
        root, name, swap = first.parent, "memory.max", "memory.swap.max"
    group = root / f"ultra-launcher-{uuid.uuid4().hex}"
    group.mkdir()
    try:
        (group / name).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # without swap there is no such limit
            (group / swap).write_text("0" if swap.endswith("max") else str(limit_bytes))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


class Faults:
    """Arms workers that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_CODE)
        self._trigger = folder / "fault"
        self.python_path = str(site)
        self.variables = {"TEST_FAULT": str(self._trigger)}

    def cause(self, kind: str) -> None:
        """The next call of `llama_decode` has the fault: abort, segfault, hang, sleep, garbage or half.

        With `no_end`, most of the next turn's last message is lost.
        """
        part = self._trigger.with_suffix(".part")
        part.write_text(kind)
        part.replace(self._trigger)
