"""`tests.helpers.faulty_hub` as a process of its own, for benchmarks: it takes no time of the client's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from app.download.model import DownloadFile, DownloadRequest
from tests.helpers.hub import COMMIT

REPO = "org/repo"
ROOT = Path(__file__).parent.parent.parent
MB = 1_000_000


class HubProcess:
    """The process; `endpoint` is what HF_ENDPOINT is to be."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.endpoint = self._line()

    def sent_bytes(self) -> int:
        """Of files, so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def storage(self, name: str) -> str:
        """The address that the Hub would lead to."""
        return f"http://localhost:{self.endpoint.rpartition(':')[2]}/{name}?sig=0"

    def environment(self) -> dict[str, str]:
        """That of a process that is to use it."""
        return {**os.environ, "HF_ENDPOINT": self.endpoint, "PYTHONPATH": str(ROOT)}

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def hub_process(files: Mapping[str, Path], *, rate: int | None = None) -> Iterator[HubProcess]:
    """Serve `files` by their paths in `org/repo`, each connection at `rate` bytes per second."""
    command = [sys.executable, "-m", "tests.helpers.faulty_hub"]
    command += [f"{REPO}/{name}={path}" for name, path in files.items()]
    command += ["--rate", str(rate)] if rate else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield HubProcess(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def random_file(path: Path, size_bytes: int) -> DownloadFile:
    """A file of random bytes, and what the Hub says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), size_bytes
    with path.open("wb") as stream:
        while left:
            data = os.urandom(min(8 * MB, left))
            digest.update(data)
            stream.write(data)
            left -= len(data)
    return DownloadFile(path=path.name, size_bytes=size_bytes, sha256=digest.hexdigest())


def request(folder: Path, *files: DownloadFile) -> DownloadRequest:
    """For files of `org/repo`."""
    return DownloadRequest(repo=REPO, revision="main", commit=COMMIT, files=files, folder=folder)
