"""kill -9 at random moments of a download of 3 shards: is it right in the end, and what was sent twice?

Run: `python -m tests.end_to_end.benchmarks.download_kills [--kills 200] [--rate-mb 40]`

Each round is one download of 400 MB with 4 connections, killed once and started again. What was sent
twice is counted by the server: all bytes that it sent in the round, less the size of the files.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from app.download.model import DownloadRequest
from tests.helpers import puller
from tests.helpers.hub_process import MB, HubProcess, hub_process, random_file, request

SIZES = (134 * MB, 133 * MB, 133 * MB)


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def one_round(hub: HubProcess, wanted: DownloadRequest, work: Path, after_s: float) -> bool:
    """Download, kill after so many seconds, download the rest; False if it had ended before."""
    work.mkdir()
    puller.describe(work / "wanted", wanted, work / "state")
    with puller.start(work / "wanted", hub.endpoint) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        killed = process.wait() != 0
    puller.describe(work / "wanted", wanted, work / "state", restored=True)
    with puller.start(work / "wanted", hub.endpoint) as process:
        assert process.wait() == 0
    return killed


def main() -> None:
    """Kill as often as asked, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rate-mb", type=int, default=40, help="of each connection; 0: no limit")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance, wrong, orphans = random.Random(options.seed), 0, 0
    lost: list[int] = []
    whole_s = sum(SIZES) / (4 * options.rate_mb * MB) if options.rate_mb else 1.0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        files = [
            random_file(place / "hub" / f"m-{n + 1:05}-of-00003.bin", size)
            for n, size in enumerate(SIZES)
        ]
        served = {file.path: place / "hub" / file.path for file in files}
        with hub_process(served, rate=options.rate_mb * MB or None) as hub:
            while len(lost) < options.kills:
                work = place / "work"
                wanted = request(work / "models", *files)
                before = hub.sent_bytes()
                if one_round(hub, wanted, work, chance.random() * whole_s):
                    lost.append(hub.sent_bytes() - before - wanted.size_bytes)
                    wrong += any(sha256(wanted.target(f)) != f.sha256 for f in files)
                    left = {path for path in wanted.folder.rglob("*") if path.is_file()}
                    left |= set((work / "state" / "jobs").iterdir())
                    orphans += len(left - {wanted.target(f) for f in files})
                shutil.rmtree(work)
                if len(lost) % 20 == 0:
                    print(
                        f"{len(lost)} kills, worst {max(lost, default=0) / 2**20:.2f} MiB",
                        flush=True,
                    )
    mib = sorted(count / 2**20 for count in lost)
    print(
        f"{len(mib)} kills at {options.rate_mb or 'unlimited'} MB/s per connection: {wrong} wrong, "
        f"{orphans} orphans; sent twice per kill: median {statistics.median(mib):.2f}, "
        f"mean {statistics.mean(mib):.2f}, most {mib[-1]:.2f} MiB"
    )


if __name__ == "__main__":
    main()
