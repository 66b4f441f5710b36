"""The crash record of one file: which segments are on disk, with a digest of each taken at receipt.

The first line says of what file it is; then one line for each segment, in the order of arrival,
appended after the segment was written. `synced N` says that the first N of them have also reached
the disk. So after a kill every segment counts; after a power cut those behind the last `synced`
count only if they still have their digest. A line that is not whole ends the record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from app import units
from app.download.disk import no_follow, records_error, write
from app.download.model import DownloadFile

VERSION = 1
"""Records of this and all earlier versions are taken on; those of later ones are not understood."""
SEGMENT_BYTES = 512 * units.KIB
"""Of new records; one with other segments is taken on as it is. A kill costs up to one for each connection."""

_MAX_SEGMENT_BYTES = 64 * units.MIB
_LINE = re.compile(rb"(\d+) ([0-9a-f]{8})|synced (\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a journal proves.

    Attributes:
        segment_bytes: Size of all segments but the last.
        digests: CRC-32 of each segment on disk, by index.
        unsynced: Those of which only the digest can tell whether they outlived a power cut.
    """

    segment_bytes: int
    digests: dict[int, int]
    unsynced: frozenset[int] = frozenset()

    def written_bytes(self, size_bytes: int) -> int:
        """Size of the segments, of a file of `size_bytes`."""
        return sum(
            min(self.segment_bytes, size_bytes - index * self.segment_bytes)
            for index in self.digests
        )


def read(path: Path, commit: str, file: DownloadFile) -> Record | None:
    """The record at `path`, or None if there is none, or one of another file."""
    try:
        lines = path.read_bytes().split(b"\n")
        first = json.loads(lines[0])
        segment_bytes, version = int(first["segment_bytes"]), int(first["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = _identity(commit, file)
    if (
        not 1 <= version <= VERSION
        or not 1 <= segment_bytes <= _MAX_SEGMENT_BYTES
        or {key: first.get(key) for key in known} != known
    ):
        return None
    count = -(-file.size_bytes // segment_bytes)
    digests: dict[int, int] = {}
    order: list[int] = []
    synced = 0
    for line in lines[1:-1]:  # what stands behind the last line break is torn
        match = _LINE.fullmatch(line)
        if match is None:
            break
        if match[3] is not None:
            synced = min(int(match[3]), len(order))
        elif int(match[1]) < count:
            order.append(int(match[1]))
            digests[order[-1]] = int(match[2], 16)
    unsynced = frozenset(order[synced:])
    return Record(segment_bytes=segment_bytes, digests=digests, unsynced=unsynced)


def _identity(commit: str, file: DownloadFile) -> dict[str, object]:
    """What must be the same for segments on disk to be of use."""
    known: dict[str, object] = {
        "path": file.path,
        "size_bytes": file.size_bytes,
        "digest": file.digest,
    }
    # A commit that changes other files alone costs nothing; only without a digest it has to tell.
    return known if file.digest is not None else known | {"commit": commit}


class Journal:
    """A record that is being written; thread-safe."""

    def __init__(
        self, path: Path, commit: str, file: DownloadFile, record: Record | None = None
    ) -> None:
        """Write `record`, or an empty one, anew to `path`, so that no torn line stays in it.

        Raises:
            DownloadError: It cannot be written; so for all methods.
        """
        self.segment_bytes = record.segment_bytes if record else SEGMENT_BYTES
        first = _identity(commit, file) | {"version": VERSION, "segment_bytes": self.segment_bytes}
        lines = [json.dumps(first)]
        if record:
            lines += [_line(index, crc) for index, crc in record.digests.items()]
            lines.append(f"synced {len(record.digests)}")
        self._count = len(record.digests) if record else 0
        self._lock = threading.Lock()
        self._path = path
        with self._written():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(path.name + ".new")
            with new.open("wb") as stream:
                stream.write(("\n".join(lines) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(path)
            self._file = path.open("ab", buffering=0)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """An error is told as one of the record: it may lie on another disk than the file."""
        try:
            yield
        except OSError as error:
            raise records_error(error, self._path) from error

    def add(self, index: int, crc: int) -> None:
        """Segment `index` was written."""
        with self._lock, self._written():
            write(self._file, f"{_line(index, crc)}\n".encode())
            self._count += 1

    @property
    def count(self) -> int:
        """Segments written down so far."""
        return self._count

    def mark_synced(self, count: int) -> None:
        """The first `count` segments have reached the disk."""
        with self._written():
            with self._lock:
                write(self._file, f"synced {count}\n".encode())
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing more comes."""
        with contextlib.suppress(OSError):
            self._file.close()


def _line(index: int, crc: int) -> str:
    return f"{index} {crc:08x}"


def proven(record: Record, part: Path, file: DownloadFile) -> Record:
    """The record without segments that `part` does not hold (any more).

    Only the unsynced ones are read here; all are compared when they are hashed.
    """
    try:
        size = part.stat().st_size
        with io.FileIO(part, "rb", opener=no_follow) as stream:
            kept = {
                index: crc
                for index, crc in record.digests.items()
                if min((index + 1) * record.segment_bytes, file.size_bytes) <= size
                and (index not in record.unsynced or _crc(stream, index, record) == crc)
            }
    except OSError:
        return Record(segment_bytes=SEGMENT_BYTES, digests={})
    return Record(segment_bytes=record.segment_bytes, digests=kept)


def _crc(stream: io.FileIO, index: int, record: Record) -> int:
    stream.seek(index * record.segment_bytes)
    return zlib.crc32(stream.read(record.segment_bytes))
