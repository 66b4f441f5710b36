"""The command that lends this machine's devices."""

from __future__ import annotations

import signal
import subprocess
import sys


def test_on_loopback_it_does_not_speak_of_another_machine() -> None:
    command = [sys.executable, "-m", "ui", "share-gpus", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as shared:
        assert shared.stdout is not None
        told = []
        for line in shared.stdout:
            told.append(line)
            if "Ctrl+C" in line:
                break
        shared.send_signal(signal.SIGINT)
        assert shared.wait(30) == 130
    text = "".join(told)
    assert "Only this machine reaches it" in text
    assert "In another terminal: ultra-launcher chat --rpc 127.0.0.1:" in text
    assert "other machine" not in text
