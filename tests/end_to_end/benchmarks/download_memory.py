"""Peak memory of a download with as many segments as one of 60 GB has, and how soon a pause acts.

Run: `python -m tests.end_to_end.benchmarks.download_memory [--size-gb 3.75] [--segment-kib 32]`

What a transfer holds in memory depends on the number of segments and connections, not on their size.
So by default a file of 3.75 GB is cut into segments of 32 KiB: as many as 60 GB at 512 KiB have.
`--size-gb 60 --segment-kib 512` is the same in full size, on a disk that has the space.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.helpers.hub_process import MB, ROOT, hub_process

CHILD = "--child"
PAUSES = 30


def child(folder: Path, digest: str, size_bytes: int, segment_bytes: int) -> None:
    """Bring the file by the queue, pausing now and then; print peak memory and pauses."""
    from app.download import journal
    from app.download.manager import DownloadManager
    from app.download.model import (
        DownloadEvent,
        DownloadFile,
        DownloadState,
        DownloadStateChanged,
    )
    from tests.helpers.hub_process import request

    journal.SEGMENT_BYTES = segment_bytes
    states: list[DownloadState] = []
    changed = threading.Condition()

    def listen(event: DownloadEvent) -> None:
        if isinstance(event, DownloadStateChanged):
            with changed:
                states.append(event.download.state)
                changed.notify_all()

    def reach(*wanted: DownloadState) -> DownloadState:
        with changed:
            assert changed.wait_for(lambda: states and states[-1] in wanted, timeout=600)
            return states[-1]

    manager = DownloadManager(folder / "state", listen)
    file = DownloadFile(path="m.bin", size_bytes=size_bytes, sha256=digest)
    id_ = manager.add(request(folder / "models", file))
    pauses = []
    for _ in range(PAUSES):
        if reach(DownloadState.DOWNLOADING, DownloadState.DONE) is DownloadState.DONE:
            break
        time.sleep(0.1)
        begun = time.monotonic()
        manager.pause(id_)
        while any(thread.name.startswith("download-fetch") for thread in threading.enumerate()):
            time.sleep(0.001)
        pauses.append(time.monotonic() - begun)
        reach(DownloadState.PAUSED, DownloadState.DONE)
        manager.resume(id_)
    reach(DownloadState.DONE)
    segments = -(-size_bytes // segment_bytes)
    manager.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{segments:,} segments, {size_bytes / 1e9:.2f} GB: peak {peak / MB:.0f} MB; "
        f"{len(pauses)} pauses act in {statistics.median(pauses):.3f} s, 9 of 10 in "
        f"{statistics.quantiles(pauses, n=10)[-1]:.3f} s, all in {max(pauses):.3f} s"
    )


def main() -> None:
    """Serve zeros from a sparse file, and let a child download them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size-gb", type=float, default=3.75)
    parser.add_argument("--segment-kib", type=int, default=32)
    parser.add_argument(CHILD, nargs=4)
    options = parser.parse_args()
    if options.child:
        folder, digest, size, segment = options.child
        child(Path(folder), digest, int(size), int(segment))
        return
    import hashlib

    size = round(options.size_gb * 1e9)
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        source = Path(name) / "zeros"
        with source.open("wb") as stream:
            stream.truncate(size)
        with source.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with hub_process({"m.bin": source}) as hub:
            command = [sys.executable, "-m", "tests.end_to_end.benchmarks.download_memory", CHILD]
            command += [name, digest, str(size), str(options.segment_kib * 1024)]
            subprocess.run(command, check=True, env=hub.environment(), cwd=ROOT)


if __name__ == "__main__":
    main()
