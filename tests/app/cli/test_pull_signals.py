"""Signals to `pull` from the command line, its terminal among them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.download.model import DownloadState, DownloadStateChanged
from app.service import AppService
from tests.app.download.conftest import QUICK, Stage, stage, wait_for
from tests.app.download.test_pull import MODEL, model, pull_process
from tests.app.service.test_models import Log

__all__ = ["model", "stage"]


def read_all(terminal: int, until: bytes = b"", timeout_s: float = 30.0) -> bytes:
    """What a process writes to its terminal, to the end or until it has written something."""
    got, deadline = b"", time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (until and until in got):
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65_536)
            except OSError:  # nobody has it open any more
                break
            if not data:
                break
            got += data
    return got


@contextlib.contextmanager
def in_terminal(stage: Stage, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`pull` as the leader of a session whose terminal is ours, once it shows how fast it is."""
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    command = f"exec {sys.executable} -m app pull {' '.join(arguments)} <{name} >{name} 2>&1"
    with subprocess.Popen(
        ["sh", "-c", command],
        env={**os.environ, "HF_ENDPOINT": stage.hub.endpoint, "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
    ) as process:
        try:
            shown = read_all(ours, until=b"MB/s")
            os.close(theirs)
            assert b"\x1b[?25l" in shown, "rich hides the cursor"
            yield process, ours
        finally:
            process.kill()
    with contextlib.suppress(OSError):  # hung up already
        os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was_and_keeps_the_state(
    stage: Stage, model: Path, number: signal.Signals
) -> None:
    stage.hub.rate = 4_000_000
    with in_terminal(stage, MODEL) as (process, terminal):
        wait_for(lambda: stage.hub.sent_bytes > 8_000_000)
        process.send_signal(number)
        shown = read_all(terminal)
        assert process.wait(30) == 128 + number
    text = shown.decode()
    assert "\x1b[?25h" in text, "the cursor is visible again"
    assert "\x1b[?25l" not in text
    assert "Traceback" not in text
    assert re.search(r"Paused at .*goes on from there\.\r\n$", text)
    stage.hub.rate, sent = None, stage.hub.sent_bytes
    size = sum(file.stat().st_size for file in (stage.source / "split").iterdir())
    with pull_process(stage, MODEL, "--json") as again:
        out, err = again.communicate()
    assert again.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["state"] == "done"
    assert stage.hub.sent_bytes - sent < size - 4_000_000


def test_a_terminal_that_hangs_up_pauses_the_download(stage: Stage, model: Path) -> None:
    stage.hub.rate = 4_000_000
    with in_terminal(stage, MODEL) as (process, terminal):
        wait_for(lambda: stage.hub.sent_bytes > 4_000_000)
        os.close(terminal)
        assert process.wait(30) == 128 + signal.SIGHUP
    stage.hub.rate = None
    with pull_process(stage, MODEL, "--json") as again:
        _, err = again.communicate()
    assert again.returncode == 0, err


def test_nohup_stays_in_force(stage: Stage, model: Path) -> None:
    stage.hub.rate = 30_000_000
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = pull_process(stage, MODEL, "--json")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        wait_for(lambda: stage.hub.sent_bytes > 1_000_000)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["state"] == "done"


def test_a_download_paused_by_a_signal_is_paused_in_the_window(stage: Stage, model: Path) -> None:
    stage.hub.rate = 4_000_000
    with pull_process(stage, MODEL) as process:
        wait_for(lambda: stage.hub.sent_bytes > 4_000_000)
        process.terminate()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    service, log = AppService(), Log()
    service.downloads._timing = QUICK
    service.subscribe(log)
    try:
        service.downloads.start()
        event = log.wait(DownloadStateChanged)
        assert event.download.state is DownloadState.PAUSED
        assert event.download.progress.written_bytes > 2_000_000
    finally:
        service.close()
