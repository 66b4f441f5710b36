"""What is handed out to connections, and the checksum that follows them."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from pathlib import Path

import pytest

from app import units
from app.download.hashing import READ_BYTES, Hasher
from app.download.model import DownloadFile
from app.download.segments import AHEAD_BYTES, MAX_RUN_BYTES, Segments
from app.errors import Cancelled

SEGMENT = 512 * units.KIB


@pytest.mark.parametrize("connections", [1, 4, 8, 16])
def test_no_more_is_on_its_way_than_the_hash_can_catch_up_with(connections: int) -> None:
    segments = Segments(60_000_000_001, SEGMENT, {})
    taken = [segments.take(connections) for _ in range(connections)]
    sizes = [run[1] - run[0] for run in taken if run is not None]
    assert len(sizes) == connections
    assert sum(sizes) <= AHEAD_BYTES
    assert max(sizes) <= MAX_RUN_BYTES


def test_all_is_handed_out_once_in_order() -> None:
    size = 300 * units.MIB + 5
    segments, position = Segments(size, SEGMENT, {}), 0
    while (run := segments.take(8)) is not None:
        assert run[0] == position
        position = run[1]
    assert position == size


def test_how_many_segments_are_there_in_a_row() -> None:
    segments = Segments(10 * SEGMENT - 1, SEGMENT, {0: 1, 1: 1, 3: 1, 9: 1})
    assert segments.wait_written(0, 8) == 2
    assert segments.wait_written(0, 1) == 1
    assert segments.wait_written(3, 8) == 1
    assert segments.wait_written(9, 8) == 1, "the last one, shorter than the others"
    segments.lose([1, 2])
    assert segments.wait_written(0, 8) == 1
    assert segments.lost_bytes == SEGMENT
    segments.stop()
    assert segments.wait_written(0, 8) == 0


class Part:
    """A part of random bytes, all of it there, known to `segments` as far as it was received."""

    def __init__(self, path: Path, size_bytes: int, segment_bytes: int, earlier: set[int]) -> None:
        self.data = random.Random(7).randbytes(size_bytes)
        self.path = path
        path.write_bytes(self.data)
        self.step = segment_bytes
        self.digests = [
            zlib.crc32(self.data[at : at + segment_bytes])
            for at in range(0, size_bytes, segment_bytes)
        ]
        kept = {index: self.digests[index] for index in earlier}
        self.segments = Segments(size_bytes, segment_bytes, kept)
        file = DownloadFile(path="m.bin", size_bytes=size_bytes, sha256="0" * 64)
        self.hasher = Hasher(file, path, self.segments, threading.Event())
        self.found: list[str] = []
        self.thread = threading.Thread(target=self._hash)

    def _hash(self) -> None:
        try:
            self.found.append(self.hasher.digest())
        except Cancelled:
            self.found.append("cancelled")

    def flip(self, index: int) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(index * self.step)
            stream.write(bytes([self.data[index * self.step] ^ 1]))

    def receive(self, index: int) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(index * self.step)
            stream.write(self.data[index * self.step : (index + 1) * self.step])
        self.segments.written(index, self.digests[index])


@pytest.mark.parametrize("segment_bytes", [32 * units.KIB, SEGMENT, 2 * READ_BYTES])
def test_the_checksum_of_what_arrives_in_any_order(tmp_path: Path, segment_bytes: int) -> None:
    """Also of larger segments than are read at once, as earlier versions may have had."""
    count = 3 if segment_bytes > READ_BYTES else 20
    earlier = {1, 2, count - 1}
    part = Part(tmp_path / "m.part", count * segment_bytes - 77, segment_bytes, earlier)
    order = [index for index in range(count) if index not in earlier]
    random.Random(1).shuffle(order)
    part.thread.start()
    for index in order:
        part.receive(index)
    part.thread.join()
    assert part.found == [hashlib.sha256(part.data).hexdigest()]
    assert part.hasher.hashed_bytes == len(part.data)
    assert part.hasher.damaged() == []
    part.flip(2)
    assert part.hasher.damaged() == [2]


def test_a_damaged_segment_of_an_earlier_run_is_waited_for(tmp_path: Path) -> None:
    part = Part(tmp_path / "m.part", 20 * SEGMENT, SEGMENT, set(range(12)))
    part.flip(3)
    for index in range(12, 20):
        part.receive(index)
    part.thread.start()
    part.segments.wait_missing()
    assert part.segments.take(1) == (3 * SEGMENT, 4 * SEGMENT)
    assert part.segments.lost_bytes == SEGMENT
    assert part.hasher.hashed_bytes == 3 * SEGMENT
    part.receive(3)
    part.thread.join()
    assert part.found == [hashlib.sha256(part.data).hexdigest()]


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    part = Part(tmp_path / "m.part", 4 * SEGMENT, SEGMENT, {0})
    part.thread.start()
    part.segments.stop()
    part.thread.join()
    assert part.found == ["cancelled"]


def test_a_part_that_was_cut_off_is_an_error_of_the_disk(tmp_path: Path) -> None:
    part = Part(tmp_path / "m.part", 2 * SEGMENT, SEGMENT, {0, 1})
    with part.path.open("r+b") as stream:
        stream.truncate(SEGMENT)
    with pytest.raises(OSError, match="shorter"):
        part.hasher.digest()
