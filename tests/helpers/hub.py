"""A server on loopback that plays the Hub: its API and file addresses, with faults to order.

`127.0.0.1` is the Hub and redirects, with `X-Repo-Commit` and `X-Linked-Size`, to `localhost`, which
plays the storage: two hosts, as with the real one, so that a token that strays is seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import huggingface_hub

COMMIT = "c" * 40
PIECE_BYTES = 64 * 1024
LFS_BYTES = 1024
"""Files from this size on are kept by LFS, smaller ones by git itself."""
MAX_HASHED_BYTES = 512 * 1024 * 1024
"""Larger files are sparse ones of a benchmark; their digest is made up."""
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<kind>revision|tree|paths-info)/(?P<revision>[^/]+)/?)?"
)
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclasses.dataclass(slots=True)
class Faults:
    """What goes wrong from now on.

    Attributes:
        status: The Hub answers this instead of a redirect or list.
        headers: Sent with `status` and `statuses`.
        statuses: One per reply of the Hub, before `status`; 0 for none, -1 to hang up.
        body: The API's answers, instead of true ones.
        next_link: Where the next page of a list is said to be.
        storage_status: The storage answers this instead of bytes.
        cuts: One per reply of the storage: it breaks off after so many bytes.
        short: The storage sends at most so many bytes, and says so.
        ignore_range: The storage sends the whole file whatever is asked.
        stall_after: The storage says nothing more after so many bytes.
        drip_s: Storage and API wait so many seconds after each byte.
        no_commit: What answers is no Hub.
        etags: One per reply of the storage, instead of the file's own.
        of: Etags and cuts are for files alone whose path ends so.
        size: The storage's idea of the file's size.
        linked_etag: The Hub's ETag, instead of the content's SHA-256.
    """

    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    statuses: list[int] = dataclasses.field(default_factory=list)
    body: bytes | None = None
    next_link: str | None = None
    storage_status: int | None = None
    cuts: list[int] = dataclasses.field(default_factory=list)
    short: int | None = None
    ignore_range: bool = False
    stall_after: int | None = None
    drip_s: float | None = None
    no_commit: bool = False
    etags: list[str] = dataclasses.field(default_factory=list)
    of: str = ""
    size: int | None = None
    linked_etag: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived."""

    method: str
    host: str
    path: str
    range: str | None
    token: str | None


@dataclasses.dataclass(slots=True)
class Repo:
    """What the Hub says of a repository beside its files.

    Attributes:
        gated: Its files need the server's token; its lists do not.
        private: Without the server's token it does not exist.
        extra: Entries of its tree that are no files here, hostile ones for example.
        moved_to: Its new name; the API redirects there.
    """

    gated: bool = False
    private: bool = False
    downloads: int = 0
    likes: int = 0
    last_modified: str = "2026-01-31T12:00:00.000Z"
    gguf: dict[str, object] | None = None
    extra: list[dict[str, object]] = dataclasses.field(default_factory=list)
    moved_to: str = ""


class Hub(http.server.ThreadingHTTPServer):
    """The server: files by `owner/repo/path`, what was asked, and what goes wrong.

    Attributes:
        token: Opens what is gated or private; while no repository is either, all files need it.
        page_size: Entries on a page of a list.
        latency_s: From a request to its answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Path] = {}
        self.repos: dict[str, Repo] = {}
        self.revisions = {"main": COMMIT}
        self.page_size = 1000
        self.latency_s = 0.0
        self.token: str | None = None
        self.faults = Faults()
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def names(self) -> list[str]:
        """The repositories."""
        return sorted({"/".join(name.split("/")[:2]) for name in self.files} | set(self.repos))

    def repo(self, name: str) -> Repo:
        """What it says of a repository."""
        return self.repos.get(name, Repo())

    def tree(self, name: str) -> list[dict[str, object]]:
        """A repository's files, as the API lists them."""
        paths = sorted(p for p in self.files if p.startswith(name + "/"))
        return [_entry(p[len(name) + 1 :], self.files[p]) for p in paths] + self.repo(name).extra

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up; that is no error here."""


_Server = TypeVar("_Server", bound=Hub)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.server.latency_s and self.server.closing.wait(self.server.latency_s):
            return
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

    def _send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        body = self.server.faults.body
        body = json.dumps(value).encode() if body is None else body
        self.send_response(200)
        for key, content in (headers or {}).items():
            self.send_header(key, content)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        drip_s = self.server.faults.drip_s
        if drip_s is not None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.server.closing.wait(drip_s):
                    return
        elif self.command != "HEAD":
            self.wfile.write(body)
            self.server.sent_bytes += len(body)

    def _let_in(self) -> bool:
        token = self.server.token
        return token is not None and self.headers["Authorization"] == f"Bearer {token}"

    def _api(self) -> None:
        parts = urlsplit(self.path)
        match, query = _API.fullmatch(parts.path), parse_qs(parts.query)
        if parts.path == "/api/whoami-v2":
            return self._send_json({"name": "person"}) if self._let_in() else self._refuse(401)
        if parts.path == "/api/models":
            return self._page(self._found(query), query)
        if match is None or match["repo"] not in self.server.names():
            return self._refuse(404, {"X-Error-Code": "RepoNotFound"})
        name = match["repo"]
        repo = self.server.repo(name)
        if repo.moved_to:
            target = parts.path.replace(name, repo.moved_to)
            return self._refuse(307, {"Location": f"{target}?{parts.query}"})
        if repo.private and not self._let_in():
            return self._refuse(401, {"X-Error-Code": "RepoNotFound"})
        revision = unquote(match["revision"] or "main")
        commit = self.server.revisions.get(revision, revision)
        if commit not in self.server.revisions.values():
            return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        if match["kind"] == "paths-info":
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            return self._send_json([e for e in self.server.tree(name) if e["path"] in asked])
        if match["kind"] == "tree":
            return self._page(self.server.tree(name), query)
        return self._send_json(self._card(name) | {"sha": commit})

    def _found(self, query: dict[str, list[str]]) -> list[dict[str, object]]:
        words = query.get("search", [""])[0].lower().split()
        holds = [n for n in self.server.names() if all(word in n.lower() for word in words)]
        seen = [n for n in holds if self._let_in() or not self.server.repo(n).private]
        seen.sort(key=lambda n: -self.server.repo(n).downloads)
        return [self._card(name) for name in seen]

    def _card(self, name: str) -> dict[str, object]:
        repo = self.server.repo(name)
        card: dict[str, object] = {
            "id": name,
            "gated": "manual" if repo.gated else False,
            "private": repo.private,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "lastModified": repo.last_modified,
            "tags": ["gguf"],
        }
        return card | ({"gguf": repo.gguf} if repo.gguf else {})

    def _page(self, items: list[dict[str, object]], query: dict[str, list[str]]) -> None:
        start = int(query.get("cursor", ["0"])[0])
        end = start + min(int(query.get("limit", ["100000"])[0]), self.server.page_size)
        link = self.server.faults.next_link
        if link is None and end < len(items):
            query = query | {"cursor": [str(end)]}
            link = (
                f"{self.server.endpoint}{urlsplit(self.path).path}?{urlencode(query, doseq=True)}"
            )
        self._send_json(items[start:end], {"Link": f'<{link}>; rel="next"'} if link else {})

    def _hub(self) -> None:
        faults, match = self.server.faults, _RESOLVE.fullmatch(urlsplit(self.path).path)
        if faults.statuses and (status := faults.statuses.pop(0)):
            self.close_connection = status < 0
            return None if status < 0 else self._refuse(status, faults.headers)
        if faults.status is not None:
            return self._refuse(faults.status, faults.headers)
        if self.path.startswith(("/api/models", "/api/whoami")):
            return self._api()
        repos = self.server.repos.values()
        closed = not any(repo.gated or repo.private for repo in repos)
        if match is not None:
            repo = self.server.repo(match["repo"])
            closed = closed or repo.gated or repo.private
        if self.server.token and closed and not self._let_in():
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
            "X-Linked-ETag": f'"{faults.linked_etag or _etag(file)}"',
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
        self.send_header(
            "ETag",
            faults.etags.pop(0)
            if faults.etags and self.path.endswith(faults.of)
            else f'"{_etag(file)}"',
        )
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command != "HEAD":
            with file.open("rb") as stream:
                stream.seek(first)
                self._send(stream, last - first + 1)
        return None

    def _send(self, stream: BinaryIO, count: int) -> None:
        faults = self.server.faults
        limit = (
            faults.cuts.pop(0)
            if faults.cuts and self.path.endswith(faults.of)
            else faults.stall_after
        )
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


def _entry(path: str, file: Path) -> dict[str, object]:
    size, digest = file.stat().st_size, _etag(file)
    oid = hashlib.sha1(digest.encode()).hexdigest()
    if size < LFS_BYTES:
        content = file.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": oid}
    if size >= LFS_BYTES:
        entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    return entry


def _etag(file: Path) -> str:
    """The content's SHA-256, as the Hub's own ETag is."""
    return _digest(file, file.stat().st_size, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(file: Path, size: int, _changed: int) -> str:
    if size > MAX_HASHED_BYTES:
        return hashlib.sha256(f"{file}{size}".encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def serving(server: _Server) -> Iterator[_Server]:
    """The server, running; huggingface_hub's connections to it are closed at the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            huggingface_hub.close_session()
            server.shutdown()
            thread.join()


def hub() -> contextlib.AbstractContextManager[Hub]:
    """The server, running."""
    return serving(Hub())
