"""The program's entry."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import builtins, signal, sys
plain = builtins.__import__
def slow(name, *rest, **more):
    if name == "app.cli":
        signal.raise_signal(signal.SIGINT)
    return plain(name, *rest, **more)
builtins.__import__ = slow
sys.argv = ["ultra-launcher", "detect"]
from ui.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_while_modules_are_read_ends_it_without_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
