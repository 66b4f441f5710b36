"""A server on loopback that plays the Hub's file addresses, with faults to order.

`127.0.0.1` is the Hub and redirects, with `X-Repo-Commit` and `X-Linked-Size`, to `localhost`, which
plays the storage: two hosts, as with the real one, so that a token that strays is seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import huggingface_hub

COMMIT = "c" * 40
PIECE_BYTES = 64 * 1024
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclasses.dataclass(slots=True)
class Faults:
    """What goes wrong from now on.

    Attributes:
        status: The Hub answers this instead of a redirect.
        headers: Sent with `status`.
        storage_status: The storage answers this instead of bytes.
        cuts: One per reply of the storage: it breaks off after so many bytes.
        short: The storage sends at most so many bytes, and says so.
        ignore_range: The storage sends the whole file whatever is asked.
        stall_after: The storage says nothing more after so many bytes.
        drip_s: The storage waits so many seconds after each byte.
        no_commit: What answers is no Hub.
        etags: One per reply of the storage, instead of the file's own.
        size: The storage's idea of the file's size.
    """

    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    storage_status: int | None = None
    cuts: list[int] = dataclasses.field(default_factory=list)
    short: int | None = None
    ignore_range: bool = False
    stall_after: int | None = None
    drip_s: float | None = None
    no_commit: bool = False
    etags: list[str] = dataclasses.field(default_factory=list)
    size: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived."""

    method: str
    host: str
    path: str
    range: str | None
    token: str | None


class Hub(http.server.ThreadingHTTPServer):
    """The server: files by `owner/repo/path`, what was asked, and what goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Path] = {}
        self.revisions = {"main": COMMIT}
        self.token: str | None = None
        self.faults = Faults()
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up; that is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        host = self.headers["Host"].partition(":")[0]
        self.server.requests.append(
            Request(
                self.command,
                host,
                unquote(self.path),
                self.headers["Range"],
                self.headers["Authorization"],
            )
        )
        if host == "localhost":
            self._storage()
        else:
            self._hub()

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _hub(self) -> None:
        faults, match = self.server.faults, _RESOLVE.fullmatch(urlsplit(self.path).path)
        if faults.status is not None:
            return self._refuse(faults.status, faults.headers)
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._refuse(401, {"X-Error-Code": "GatedRepo"})
        if match is None:
            return self._refuse(404, {"X-Error-Code": "RepoNotFound"})
        revision = unquote(match["revision"])
        revision = self.server.revisions.get(revision, revision)
        if revision not in self.server.revisions.values():
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        file = self.server.files.get(f"{match['repo']}/{unquote(match['path'])}")
        if file is None:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        headers = {
            "Location": f"http://localhost:{self.server.server_port}/{match['repo']}/{match['path']}",
            "X-Linked-Size": str(file.stat().st_size),
            "X-Linked-ETag": f'"{_etag(file)}"',
            "X-Repo-Commit": revision,
        }
        if faults.no_commit:
            del headers["X-Repo-Commit"]
        return self._refuse(302, headers)

    def _storage(self) -> None:
        faults = self.server.faults
        file = self.server.files[unquote(self.path).removeprefix("/")]
        if faults.storage_status is not None:
            return self._refuse(faults.storage_status, faults.headers)
        size = faults.size if faults.size is not None else file.stat().st_size
        first, last = 0, size - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked and not faults.ignore_range:
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            if first >= size:
                return self._refuse(416, {"Content-Range": f"bytes */{size}"})
            if faults.short is not None:
                last = min(last, first + faults.short - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("ETag", faults.etags.pop(0) if faults.etags else f'"{_etag(file)}"')
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command != "HEAD":
            with file.open("rb") as stream:
                stream.seek(first)
                self._send(stream, last - first + 1)
        return None

    def _send(self, stream: BinaryIO, count: int) -> None:
        faults = self.server.faults
        limit = faults.cuts.pop(0) if faults.cuts else faults.stall_after
        left = count if limit is None else min(count, limit)
        cut = left < count
        piece_bytes = PIECE_BYTES if faults.drip_s is None else 1
        while left > 0 and (piece := stream.read(min(piece_bytes, left))):
            self.wfile.write(piece)
            if faults.drip_s is not None and self.server.closing.wait(faults.drip_s):
                return
            self.server.sent_bytes += len(piece)
            left -= len(piece)
        if cut:
            if faults.stall_after is not None:
                self.server.closing.wait()
            self.close_connection = True


def _etag(file: Path) -> str:
    return hashlib.sha256(f"{file}{file.stat().st_size}".encode()).hexdigest()


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """The server, running; huggingface_hub's connections to it are closed at the end."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            huggingface_hub.close_session()
            server.shutdown()
            thread.join()
