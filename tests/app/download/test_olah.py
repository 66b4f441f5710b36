"""Against `olah`, a Hub that nobody here wrote: warmed once from ours, then offline."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import platformdirs
import pytest

from app import units
from app.catalog import repository
from app.download.model import DownloadFile, DownloadRequest
from app.download.records import Records
from app.download.set_run import SetRun
from tests.app.download.conftest import QUICK, Stage, make_file, point_at

VERSION = "0.5.4"
NAMES = ("m-00001-of-00002.bin", "m-00002-of-00002.bin")


@pytest.fixture(scope="session")
def olah_program() -> Path:
    """The program in an environment of its own, made once and kept in the user's cache."""
    place = Path(platformdirs.user_cache_dir("ultra-launcher")) / f"olah-{VERSION}"
    program = place / ("Scripts" if os.name == "nt" else "bin") / "olah-cli"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(program.with_name("python")), "-m", "pip", "install", "-q", f"olah=={VERSION}"]
        if subprocess.run(pip, check=False).returncode:
            pytest.skip("olah cannot be installed here")
    return program


@contextlib.contextmanager
def olah(program: Path, folder: Path, upstream: str, *, offline: bool) -> Iterator[str]:
    """The server; gives its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    netloc = upstream.removeprefix("http://")
    (folder / "config.toml").write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{folder / "repos"}"\n'
        f'hf-scheme = "http"\nhf-netloc = "{netloc}"\nhf-lfs-netloc = "{netloc}"\n'
        f"[accessibility]\noffline = {str(offline).lower()}\n"
    )
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(program), "--config", str(folder / "config.toml"), "--log-path", str(folder / "logs")],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def listed(folder: Path) -> DownloadRequest:
    """All that the Hub lists now."""
    snapshot = repository.read_snapshot("org/repo")
    files = tuple(
        DownloadFile(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256, git_oid=f.git_oid)
        for f in snapshot.files
    )
    return DownloadRequest(
        repo="org/repo", revision="main", commit=snapshot.commit, files=files, folder=folder
    )


@pytest.mark.slow
def test_olah_online_and_offline(
    stage: Stage, olah_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(NAMES):
        make_file(stage.source / name, 12 * units.MIB + number, seed=number)
        stage.hub.add(f"org/repo/{name}", stage.source / name)
    place = tmp_path / "olah"
    with olah(olah_program, place, stage.hub.endpoint, offline=False) as endpoint:
        point_at(monkeypatch, endpoint)
        request = listed(stage.folder)
        assert [file.path for file in request.files] == list(NAMES)
        SetRun(request, Records(stage.state), timing=QUICK).run()
        stage.assert_right(request)
        huggingface_hub.close_session()
    asked = len(stage.hub.requests)
    with olah(olah_program, place, stage.hub.endpoint, offline=True) as endpoint:
        point_at(monkeypatch, endpoint)
        again = listed(tmp_path / "again")
        assert again.files == request.files
        made = SetRun(again, Records(tmp_path / "again-state"), timing=QUICK)
        made.run()
        stage.assert_right(again)
        assert made.progress().refetched_bytes == 0
        huggingface_hub.close_session()
    assert len(stage.hub.requests) == asked
