"""A limit slows a download and changes nothing else about it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app import units
from app.download.limiter import Limiter
from app.download.source import Reply
from app.download.transfer import Transfer
from tests.app.download.conftest import make_file


@pytest.mark.parametrize("bytes_per_s", [None, 1024, 10_000, 20_000_000, 10**10])
def test_a_limit_never_reads_beyond_the_segment(bytes_per_s: int | None) -> None:
    limiter = Limiter(bytes_per_s)
    for most in (1, 100, 1023, 1024, 5_000, 256 * units.KIB):
        assert 0 < limiter.piece(most) <= most


class Odd:
    """A source whose reads leave less than 1 KiB at the end of each segment."""

    ranged = True
    git_oid: str | None = None
    blame = ""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, start: int, end: int) -> Reply:
        left = memoryview(self._data)[start:end]

        class Bytes:
            skipped_bytes = 0

            def read(self, most: int) -> bytes:
                nonlocal left
                piece, left = left[: min(most, 65_500)], left[min(most, 65_500) :]
                return bytes(piece)

            def close(self) -> None:
                pass

        return Bytes()

    def sha256(self) -> str | None:
        return None

    def abort(self) -> None:
        pass


def test_under_a_limit_reads_of_any_size_end_with_the_segment(tmp_path: Path) -> None:
    file = make_file(tmp_path / "source.bin", 16 * units.MIB + 7)
    source = Odd((tmp_path / "source.bin").read_bytes())
    part, record = tmp_path / "file.part", tmp_path / "record"
    transfer = Transfer(file, part, record, "c" * 40, source, limiter=Limiter(500_000_000))
    worker = threading.Thread(target=transfer.run)
    worker.start()
    worker.join(20)
    stuck = worker.is_alive()
    transfer.halt()
    worker.join()
    transfer.handle.close()
    assert not stuck, "no segment is passed over"
    assert part.read_bytes() == (tmp_path / "source.bin").read_bytes()
