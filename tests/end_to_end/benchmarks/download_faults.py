"""Every fault of a network or server in life size: survived, in what time, with what sent twice?

Run: `python -m tests.end_to_end.benchmarks.download_faults`

60 MB (the outage 300 MB) from a Hub and a storage on loopback, waiting as long as the app waits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants

from app.download.model import DownloadError, DownloadRequest
from app.download.records import Records
from app.download.set_run import SetRun
from app.errors import Cancelled
from tests.helpers.faulty_hub import Fault, FaultyHub, faulty_hub
from tests.helpers.hub_process import MB, REPO, random_file, request

BUSY = (("Retry-After", "2"),)
FAULTS: dict[str, Sequence[Fault | None]] = {
    "none": [],
    "FIN in the body": [Fault(cut_after=7 * MB), None, Fault(cut_after=MB)],
    "RST in the body": [Fault(cut_after=7 * MB, reset=True)],
    "500 on the GET": [Fault(status=500)],
    "503 on the GET": [Fault(status=503)],
    "429, Retry-After 2, twice": [Fault(status=429, headers=BUSY)] * 2,
    "no bytes any more": [Fault(stall_after=3 * MB)],
    "wrong byte": [Fault(flip_at=5 * MB)] * 4,
    "bytes from elsewhere": [Fault(shift=4096)],
    "range ignored once": [None, Fault(whole=True)],
    "range ignored always": [Fault(whole=True)] * 50,
    "short but consistent": [Fault(short=MB)],
    "another range": [Fault(moved=1)],
    "gzip": [Fault(squeezed=True)],
    "another ETag": [None, Fault(etag='"other"')],
    "484 reconnects": [Fault(cut_after=100_000)] * 484,
}


def run(hub: FaultyHub, wanted: DownloadRequest, state: Path, name: str) -> None:
    """One download, and its line of the table."""
    before, begun = hub.sent_bytes, time.monotonic()
    made = SetRun(wanted, Records(state))
    try:
        made.run()
        end = "ok"
    except (DownloadError, Cancelled) as error:
        end = getattr(error, "reason", "stopped")
    again = (hub.sent_bytes - before - made.progress().written_bytes) / MB
    print(
        f"| {name:26} | {end:8} | {time.monotonic() - begun:6.1f} s | {again:8.2f} MB |", flush=True
    )


def later(seconds: float, act: Callable[[], None]) -> threading.Timer:
    """Do something after a while."""
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


def main() -> None:
    """Print the table."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as name, faulty_hub() as hub:
        place = Path(name)
        constants.ENDPOINT = hub.endpoint
        constants.HUGGINGFACE_CO_URL_TEMPLATE = (
            hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        small = random_file(place / "hub" / "small.bin", 60 * MB)
        large = random_file(place / "hub" / "large.bin", 300 * MB)
        for file in (small, large):
            hub.add(f"{REPO}/{file.path}", place / "hub" / file.path)

        def fresh(file: object) -> tuple[DownloadRequest, Path]:
            shutil.rmtree(place / "work", ignore_errors=True)
            assert file in (small, large)
            chosen = small if file is small else large
            return request(place / "work" / "models", chosen), place / "work" / "state"

        for words, faults in FAULTS.items():
            hub.storage_faults = list(faults)
            run(hub, *fresh(small), words)
        hub.storage_faults = []
        for status in (500, 429):
            hub.resolve_faults = [Fault(status=status)] * 2
            run(hub, *fresh(small), f"resolve {status}, twice")
        hub.rate = 5 * MB
        timer = later(1.5, lambda: setattr(hub, "generation", 1))
        hub.storage_faults = [None] * 4 + [Fault(cut_after=MB)] * 4
        run(hub, *fresh(small), "signed address expired")
        timer.join()
        hub.storage_faults = []
        hub.rate = 25 * MB
        timers = [later(1.5, hub.outage.set), later(31.5, hub.outage.clear)]
        run(hub, *fresh(large), "all dead for 30 s")
        for timer in timers:
            timer.join()
        wanted, state = fresh(large)
        made = SetRun(wanted, Records(state))
        timers = [later(1.5, hub.outage.set), later(20, made.halt)]
        with contextlib.suppress(Cancelled):
            made.run()
        for timer in timers:
            timer.join()
        hub.outage.clear()
        kept = SetRun(wanted, Records(state)).progress().written_bytes
        print(f"| dead for good              | kept {kept / MB:.1f} MB until it was stopped |")


if __name__ == "__main__":
    main()
