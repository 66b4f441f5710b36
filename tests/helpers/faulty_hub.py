"""The Hub of `tests.helpers.hub` with a storage as fast as a CDN, signed addresses, and every fault of one.

Also a process of its own: `python -m tests.helpers.faulty_hub owner/repo/path=FILE ...` prints the
endpoint and serves until its standard input ends; a line on it is answered with the bytes sent.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers import hub as helpers_hub
from tests.helpers.hub import Hub, _etag, _Handler, serving

_PATHS_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/paths-info/[^/]+")
SLICE_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one reply of the storage (or of the Hub, where that makes sense).

    Attributes:
        status: Answered instead of bytes.
        headers: Sent beside the usual ones, or with `status`.
        cut_after: The connection ends after so many bytes.
        reset: It ends with a reset.
        stall_after: Nothing more comes after so many bytes.
        flip_at: The byte at this offset of the file is another one.
        shift: The bytes come from so far behind, under the right Content-Range.
        moved: The Content-Range is another one than was asked for.
        whole: The range is ignored.
        short: A part of the range, told as such.
        squeezed: Packed with gzip, though nobody asked for it.
        etag: Another one.
        size: The size of the whole file that is claimed.
    """

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    flip_at: int | None = None
    shift: int = 0
    moved: int = 0
    whole: bool = False
    short: int | None = None
    squeezed: bool = False
    etag: str | None = None
    size: int | None = None


class FaultyHub(Hub):
    """The server.

    Attributes:
        storage_faults: One per GET of the storage, None for none.
        resolve_faults: One per question of the Hub for an address.
        always: For every GET of the storage when no other is left.
        outage: While set, connections are closed without an answer, running ones too.
        rate: Bytes per second of each connection, None for no limit.
        generation: Signed addresses of other generations have expired.
        location: Where the Hub leads to instead of the storage.
        storage_requests: GETs that the storage has had.
        pouring: Replies on their way; at 0 `sent_bytes` stays as it is.
    """

    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _FaultyHandler
        self.storage_faults: list[Fault | None] = []
        self.resolve_faults: list[Fault | None] = []
        self.always: Fault | None = None
        self.outage = threading.Event()
        self.rate: int | None = None
        self.generation = 0
        self.location: str | None = None
        self.storage_requests = 0
        self.resolves = 0
        self.pouring = 0
        self.lock = threading.Lock()

    def add(self, name: str, file: Path) -> None:
        """Serve `file` as `owner/repo/path`."""
        self.files[name] = file

    def verify_request(self, request: object, client_address: object) -> bool:
        """Hang up during an outage."""
        return not self.outage.is_set()

    def has_sent(self, count: float) -> bool:
        """True once so many bytes of files were sent."""
        return self.sent_bytes >= count

    def count(self, sent: int) -> None:
        """So many more bytes of files were sent."""
        with self.lock:
            self.sent_bytes += sent


class _FaultyHandler(_Handler):
    server: FaultyHub

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if self.server.outage.is_set():
            self.close_connection = True

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        """`paths-info`, which mirrors ask."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        match = _PATHS_INFO.fullmatch(urlsplit(self.path).path)
        if match is None:
            return self._refuse(404)
        try:
            wanted = json.loads(body)["paths"]
        except ValueError:
            wanted = parse_qs(body).get("paths", [])
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return self._send_json([e for e in self.server.tree(match[1]) if e["path"] in wanted])

    def _hub(self) -> None:
        if "/resolve/" not in self.path:
            if re.fullmatch(r"/api/models/[^/]+/[^/]+", self.path):
                self.path += "/revision/main"
            self.path = re.sub(r"/(?=\?|$)", "", self.path)
            self.close_connection = self.command == "HEAD"
            return super()._hub()
        server = self.server
        with server.lock:
            server.resolves += 1
            fault = server.resolve_faults.pop(0) if server.resolve_faults else None
        if server.outage.is_set():
            self.close_connection = True
            return None
        if fault is not None and fault.status is not None:
            return self._refuse(fault.status, dict(fault.headers))
        return super()._hub()

    def send_header(self, keyword: str, value: str) -> None:
        """Sign addresses of the storage, or lead elsewhere."""
        if keyword == "Location" and value.startswith("http://localhost") and "?" not in value:
            value = self.server.location or f"{value}?sig={self.server.generation}"
        super().send_header(keyword, value)

    def _storage(self) -> None:
        server, parts = self.server, urlsplit(self.path)
        file = server.files.get(unquote(parts.path).removeprefix("/"))
        if server.outage.is_set():
            self.close_connection = True
            return None
        with server.lock:
            server.storage_requests += 1
            fault = server.storage_faults.pop(0) if server.storage_faults else server.always
        fault = fault or Fault()
        if file is None:
            return self._refuse(404)
        if parse_qs(parts.query).get("sig") != [str(server.generation)]:
            return self._refuse(403)
        if fault.status is not None:
            return self._refuse(fault.status, dict(fault.headers))
        return self._answer_range(file, fault)

    def _answer_range(self, file: Path, fault: Fault) -> None:
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        first, last = 0, size - 1
        if asked and not fault.whole:
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            if fault.short is not None:
                last = min(last, first + fault.short - 1)
            self.send_response(206)
            moved = f"bytes {first + fault.moved}-{last + fault.moved}/{fault.size or size}"
            self.send_header("Content-Range", moved)
        else:
            self.send_response(200)
        self.send_header("ETag", fault.etag or f'"{_etag(file)}"')
        for key, value in fault.headers:
            self.send_header(key, value)
        count = last - first + 1
        if fault.squeezed:
            body = gzip.compress(bytes(count), 1)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Content-Length", str(count))
        self.end_headers()
        self.wfile.flush()
        with self.server.lock:
            self.server.pouring += 1
        try:
            self._pour(file, first, count, fault)
        finally:
            with self.server.lock:
                self.server.pouring -= 1

    def _pour(self, file: Path, first: int, count: int, fault: Fault) -> None:
        """Send bytes of the file as fast as the connection or the rate lets."""
        stop = min(n for n in (fault.cut_after, fault.stall_after, count) if n is not None)
        begun, sent, server = time.monotonic(), 0, self.server
        if server.rate:
            # What was sent is to be what has left this machine, or almost.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        with file.open("rb") as stream:
            while sent < stop and not server.outage.is_set():
                most = min(SLICE_BYTES, stop - sent)
                if server.rate:
                    most = min(most, max(4096, server.rate // 50))
                done = self._slice(stream.fileno(), first + sent, most, fault)
                if not done:
                    break
                sent += done
                server.count(done)
                if server.rate:
                    ahead_s = sent / server.rate - (time.monotonic() - begun)
                    if ahead_s > 0 and server.closing.wait(ahead_s):
                        break
        if sent < count:
            if fault.stall_after is not None:
                server.closing.wait()
            if fault.reset:
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.close_connection = True

    def _slice(self, source: int, offset: int, most: int, fault: Fault) -> int:
        if fault.flip_at is None and not fault.shift:
            return os.sendfile(self.connection.fileno(), source, offset, most)
        size = os.fstat(source).st_size
        data = bytearray(os.pread(source, most, (offset + fault.shift) % max(1, size - most)))
        if fault.flip_at is not None:
            data = bytearray(os.pread(source, most, offset))
            if offset <= fault.flip_at < offset + len(data):
                data[fault.flip_at - offset] ^= 0x40
        self.wfile.write(data)
        return len(data)


def faulty_hub() -> contextlib.AbstractContextManager[FaultyHub]:
    """The server, running."""
    return serving(FaultyHub())


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", metavar="OWNER/REPO/PATH=FILE")
    parser.add_argument("--rate", type=int, help="bytes per second of each connection")
    options = parser.parse_args()
    helpers_hub.MAX_HASHED_BYTES = 2**50
    with faulty_hub() as server:
        server.rate = options.rate
        for text in options.files:
            name, _, file = text.partition("=")
            server.add(name, Path(file))
            _etag(Path(file))  # now, not at the first question
        print(server.endpoint, flush=True)
        for _line in sys.stdin:
            print(server.sent_bytes, flush=True)


if __name__ == "__main__":
    main()
