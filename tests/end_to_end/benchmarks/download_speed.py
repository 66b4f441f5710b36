"""Throughput against aria2c in one run: loopback to disk, and a server that caps each connection.

Run: `python -m tests.end_to_end.benchmarks.download_speed [--runs 5] [--size-mb 2000]`; needs aria2c.

Ours hashes and lets the data reach the disk; aria2c does neither. Ours is timed from the start of the
transfer, as in the running app, which has read the list of files before: room on the disk and the
question for the address included. The runs take turns, so that the machine's moods hit both, and the
last column is the median over the rounds of the speed as a multiple of aria2c's.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.hub_process import MB, REPO, ROOT, HubProcess, hub_process, random_file

CHILD = "--child"
Run = Callable[[HubProcess, Path], tuple[float, float] | None]
"""Returns the seconds and CPU-seconds of the transfer where its program tells them."""


def child(description: list[str]) -> None:
    """Bring one file by a transfer alone, once the Hub has told of it."""
    from app.catalog import repository
    from app.download.hub_source import HubSource
    from app.download.model import DownloadFile
    from app.download.transfer import Transfer
    from tests.helpers.hub import COMMIT

    folder, sha256, size, connections = description
    file = DownloadFile(path="m.bin", size_bytes=int(size), sha256=sha256)
    assert file.path in [listed.path for listed in repository.read_snapshot(REPO).files]
    place = Path(folder)
    begun, before = time.monotonic(), time.process_time()
    source = HubSource(REPO, COMMIT, file)
    transfer = Transfer(
        file, place / "m.bin.part", place / "m.journal", COMMIT, source,
        connections=int(connections),
    )  # fmt: skip
    with transfer.handle:
        transfer.run()
    print(time.monotonic() - begun, time.process_time() - before)
    assert transfer.refetched_bytes == 0


def measured(run: Run, hub: HubProcess, size_bytes: int) -> tuple[float, float]:
    """MB/s and CPU-seconds per GB."""
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        told = run(hub, Path(name))
        took = time.monotonic() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took, spent = told or (took, spent)
    return size_bytes / took / MB, spent / size_bytes * 1e9


def ours(sha256: str, size_bytes: int, connections: int) -> Run:
    """A run of this app."""

    def run(hub: HubProcess, folder: Path) -> tuple[float, float]:
        command = [sys.executable, "-m", "tests.end_to_end.benchmarks.download_speed", CHILD]
        command += [str(folder), sha256, str(size_bytes), str(connections)]
        told = subprocess.run(
            command, check=True, env=hub.environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        took, spent = told.stdout.split()
        return float(took), float(spent)

    return run


def aria(connections: int) -> Run:
    """A run of aria2c."""

    def run(hub: HubProcess, folder: Path) -> None:
        n = str(connections)
        command = ["aria2c", "-q", "-x", n, "-s", n, "-k", "1M", "--file-allocation=falloc"]
        subprocess.run(
            [*command, "-d", str(folder), "-o", "m.bin", hub.storage(f"{REPO}/m.bin")], check=True
        )

    return run


def compare(
    title: str, runs: dict[str, Run], path: Path, size: int, repeat: int, rate: int | None
) -> None:
    """Let the runs take turns, and print their medians."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with hub_process({"m.bin": path}, rate=rate) as hub:
        for _ in range(repeat):
            for name, run in runs.items():
                results[name].append(measured(run, hub, size))
    print(title)
    others = [pair[0] for pair in results[next(n for n in runs if n.startswith("aria2c"))]]
    for name, pairs in results.items():
        speed = statistics.median(pair[0] for pair in pairs)
        cost = statistics.median(pair[1] for pair in pairs)
        ratio = statistics.median(p[0] / other for p, other in zip(pairs, others, strict=True))
        print(f"  {name:12} {speed:6.0f} MB/s {cost:5.2f} CPU-s/GB {ratio:5.2f}", flush=True)


def main() -> None:
    """Compare, without and with a cap."""
    if CHILD in sys.argv:
        child(sys.argv[sys.argv.index(CHILD) + 1 :])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size-mb", type=int, default=2000)
    options = parser.parse_args()
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    place = Path(tempfile.mkdtemp(dir=memory))
    try:
        file = random_file(place / "m.bin", options.size_mb * MB)
        sha256, size = file.sha256 or "", file.size_bytes
        runs = {f"ours x{n}": ours(sha256, size, n) for n in (4, 8)} | {"aria2c x8": aria(8)}
        compare("no cap", runs, place / "m.bin", size, options.runs, None)
        file = random_file(place / "m.bin", 400 * MB)
        sha256, size = file.sha256 or "", file.size_bytes
        runs = {f"ours x{n}": ours(sha256, size, n) for n in (1, 4, 8, 16)}
        runs |= {f"aria2c x{n}": aria(n) for n in (8, 16)}
        compare("20 MB/s each", runs, place / "m.bin", size, 1, 20 * MB)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
