"""A process that downloads what a description says, until it is done: to be killed at any moment.

`python -m tests.helpers.puller DESCRIPTION`, a JSON file; prints `begun`, then `done`, and between
them what is told, where that is wanted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from app.download import text
from app.download.manager import DownloadManager
from app.download.model import (
    DownloadEvent,
    DownloadFile,
    DownloadRequest,
    DownloadState,
    DownloadStateChanged,
)
from app.download.source import Timing


def describe(
    path: Path,
    request: DownloadRequest,
    state: Path,
    *,
    restored: bool = False,
    stall_s: float = Timing().stall_s,
    tells: bool = False,
) -> None:
    """Write a description; where `restored` the queue's own record is to be enough."""
    files = [
        {"path": f.path, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in request.files
    ]
    value: dict[str, object] = {
        "repo": request.repo,
        "commit": request.commit,
        "folder": str(request.folder),
    }
    value |= {"files": files, "state": str(state), "restored": restored}
    path.write_text(json.dumps(value | {"stall_s": stall_s, "tells": tells}))


def start(description: Path, endpoint: str) -> subprocess.Popen[str]:
    """The process, downloading from the Hub at `endpoint`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.puller", str(description)],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )


def say(line: str) -> None:
    """Print a line in one piece, from whatever thread."""
    os.write(1, f"{line}\n".encode())


def main() -> None:
    """Download and say when it is done."""
    wanted = json.loads(Path(sys.argv[1]).read_text())
    ended = threading.Event()

    def listen(event: DownloadEvent) -> None:
        if wanted["tells"]:
            say(json.dumps(text.to_json(event)))
        if isinstance(event, DownloadStateChanged):
            if event.download.error is not None:
                print(event.download.error, file=sys.stderr, flush=True)
            if event.download.state in (DownloadState.DONE, DownloadState.FAILED):
                ended.set()

    timing = Timing(stall_s=wanted["stall_s"])
    manager = DownloadManager(Path(wanted["state"]), listen, timing=timing)
    request = DownloadRequest(
        repo=wanted["repo"],
        revision="main",
        commit=wanted["commit"],
        files=tuple(DownloadFile(**file) for file in wanted["files"]),
        folder=Path(wanted["folder"]),
    )
    if not wanted["restored"] or not manager.downloads():
        manager.add(request)
    say("begun")
    ended.wait()
    manager.close()
    say("done")


if __name__ == "__main__":
    main()
