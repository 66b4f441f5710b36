"""Addresses on the Hugging Face Hub, `hf:owner/repo[:QUANT|/path/file.gguf][@revision]`, and files read in parts.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and proxies hold as for huggingface_hub itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2
import huggingface_hub

from app import units
from app.catalog import hub_errors as told
from app.catalog import tokens
from app.errors import AppError, ErrorKind
from app.gguf.header import shard_names

PREFIX = "hf:"
TIMEOUT_S = 15.0
"""Longest silence of the server, in seconds."""

ATTEMPTS = 3
SLOWEST_BYTES_PER_S = 32 * 1024
CONNECTIONS = 8
"""Shards whose headers are fetched at the same time."""
LARGE_BYTES = 4 * units.GIB
"""A file from this size on has a large vocabulary, most likely."""
_HEAD_BYTES = 14 * units.MIB
"""What the header's reader asks for in its first three steps, and what it skips between them."""
_LATER_SHARD_BYTES = 128 * units.KIB
"""No vocabulary is in shards after the first."""
_LATER_SHARDS_BYTES = 16 * units.MIB
"""Of all of them together at most."""

MAX_SKIPPED_BYTES = 64 * units.MIB
"""Most bytes passed over in the reply of a server that always sends the whole file."""

_ADDRESS = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<path>[^@\\]+\.(?:gguf|GGUF))|:(?P<kind>[\w.-]+))?(?:@(?P<revision>.+))?",
    re.ASCII,
)
_PAGE = re.compile(
    r"https?://[^/\s]+/(?P<repo>[\w.-]+/[\w.-]+)/?(?:(?:resolve|blob)/(?P<revision>[^/\s]+)/(?P<path>[^?#\s]+))?"
    r"(?:[?#].*)?",
    re.ASCII,
)
"""The address of a repository's or a file's page, as a browser shows it."""
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A repository of the Hub, or one quantization or file in it.

    Attributes:
        repo: Owner and name, `owner/repo`.
        path: The file's path in the repository; empty if no file is named.
        quantization: As it was written, `q4_k_m` for example; empty if none is named.
        revision: A branch, tag or commit; None for the default branch.
    """

    repo: str
    path: str = ""
    quantization: str = ""
    revision: str | None = None

    @property
    def name(self) -> str:
        """Repository and path, as errors and layouts call the file."""
        return f"{self.repo}/{self.path}" if self.path else self.repo


def is_address(text: str) -> bool:
    """True if `text` means something on the Hub."""
    return text.startswith(PREFIX) or _PAGE.fullmatch(text) is not None


def parse(text: str) -> Address:
    """The address that `hf:owner/repo[:QUANT|/path/file.gguf][@revision]`, or a page's address, stands for.

    Raises:
        AppError: It is not of that form.
    """
    page = _PAGE.fullmatch(text)
    if page is not None:
        revision = page["revision"] if page["revision"] not in (None, "main") else ""
        rest = (f"/{page['path']}" if page["path"] else "") + (f"@{revision}" if revision else "")
        text = f"{PREFIX}{page['repo']}{rest}"
    match = _ADDRESS.fullmatch(text)
    path = (match["path"] or "") if match else ""
    if match is None or not text.isprintable() or (path and {"", ".", ".."} & set(path.split("/"))):
        raise AppError(
            f"“{text}” is not the address of a model on the Hub.",
            hint="Write hf:owner/repo:Q4_K_M or hf:owner/repo/file.gguf, "
            "with @revision behind it for one that is not the newest.",
            kind=ErrorKind.USAGE,
        )
    return Address(
        repo=match["repo"],
        path=path,
        quantization=match["kind"] or "",
        revision=match["revision"],
    )


def open_files(address: Address, *, timeout_s: float = TIMEOUT_S) -> tuple[RemoteFile, ...]:
    """The file, or all shards of a split one in their order, whichever is named, of one commit.

    Of a large model the headers come along, all shards at once.

    Args:
        address: The file or any shard.
        timeout_s: Longest silence of the server, in seconds.

    Raises:
        AppError: The Hub cannot be reached, or does not have or give the file.
    """
    folder, _, name = address.path.rpartition("/")
    paths = [f"{folder}/{shard}".lstrip("/") for shard in shard_names(name)]
    later = min(_LATER_SHARD_BYTES, _LATER_SHARDS_BYTES // len(paths))
    if not _COMMIT.fullmatch(address.revision or ""):
        # A branch may move between two requests; a commit cannot.
        first = _resolve(address, timeout_s)
        address = dataclasses.replace(address, revision=first.commit)
        known = {address.path: first}
    else:
        known = {}

    def opened(index: int) -> RemoteFile:
        path = paths[index]
        file = known.get(path) or _resolve(dataclasses.replace(address, path=path), timeout_s)
        if len(paths) > 1 or file.size_bytes > LARGE_BYTES:
            file.fetch_head(later if index else _HEAD_BYTES)
        return file

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="headers") as pool:
        return tuple(pool.map(opened, range(len(paths))))


def _resolve(address: Address, timeout_s: float) -> RemoteFile:
    """Ask the Hub where the file is, how large, and of which commit."""
    with told.as_app_errors(address.name):
        token = tokens.get()
        url = huggingface_hub.hf_hub_url(address.repo, address.path, revision=address.revision)
        found = huggingface_hub.get_hf_file_metadata(url, token=token or False, timeout=timeout_s)
        if found.commit_hash is None or found.size is None:
            raise told.no_hub(address.name)
        if urlsplit(url).scheme == "https" != urlsplit(found.location).scheme:
            raise told.insecure(address.name)
        # What the Hub serves itself is at the branch's address; what it redirects to has a fixed one.
        own = urlsplit(found.location).netloc == urlsplit(url).netloc
        pinned = huggingface_hub.hf_hub_url(address.repo, address.path, revision=found.commit_hash)
        return RemoteFile(
            name=address.name,
            size_bytes=found.size,
            commit=found.commit_hash,
            url=pinned if own else found.location,
            token=token if own else None,  # it must not reach another host
            timeout_s=timeout_s,
        )


class RemoteFile:
    """One file at one commit; a `Source` for `read_layout_from`."""

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        commit: str,
        url: str,
        token: str | None,
        timeout_s: float,
    ) -> None:
        """A file of `size_bytes` at `url`, asked for with `token`."""
        self.name = name
        self.size_bytes = size_bytes
        self.commit = commit
        self._url = url
        self._headers = {"Accept-Encoding": "identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._etag: str | None = None
        self._head = b""

    def fetch_head(self, size: int) -> None:
        """Have the first `size` bytes ready, in one request.

        Raises:
            AppError: They cannot be had.
        """
        self._head = self._fetch(0, min(size, self.size_bytes))

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`; a connection that breaks off is taken up again.

        Raises:
            AppError: They cannot be had.
        """
        ready = self._head[start:end]
        start += len(ready)
        return ready + self._fetch(start, end) if start < end else ready

    def _fetch(self, start: int, end: int) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + 2 * self._timeout_s + (end - start) / SLOWEST_BYTES_PER_S
        for attempt in range(1, ATTEMPTS + 1):
            with told.as_app_errors(self.name):
                try:
                    with contextlib.closing(self._pieces(start + len(data), end)) as pieces:
                        for piece in pieces:
                            data += piece
                            if time.monotonic() > deadline:
                                raise told.slow(self.name)
                except httpx2.TransportError:
                    if attempt == ATTEMPTS:
                        raise
            if len(data) == end - start:
                return bytes(data)
        raise told.broken_off(self.name, f"{len(data):,} of {end - start:,} bytes came.")

    def _pieces(self, start: int, end: int) -> Generator[bytes, None, None]:
        """What one request gives of the range, and nothing beyond it."""
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        session = huggingface_hub.get_session()
        reply = session.stream(
            "GET", self._url, headers=headers, timeout=self._timeout_s, follow_redirects=True
        )
        with reply as response:
            skip = self._check(response, start)
            left = end - start
            for piece in response.iter_raw():
                useful = piece[skip : skip + left]
                skip -= min(skip, len(piece))
                left -= len(useful)
                yield useful
                if not left:
                    return

    def _check(self, response: httpx2.Response, start: int) -> int:
        """Refuse a reply that is not of this file; how many bytes come before `start` in it."""
        if urlsplit(self._url).scheme == "https" != response.url.scheme:
            raise told.insecure(self.name)
        if response.status_code == 416:
            raise told.changed(self.name, "It has become shorter.")
        if response.status_code not in (200, 206):
            raise told.refused(self.name, response)
        etag = response.headers.get("ETag")
        if self._etag not in (None, etag):
            raise told.changed(self.name, "Its ETag is another one.")
        self._etag = etag
        if response.status_code == 200:
            total, begin = response.headers.get("Content-Length", ""), 0
        else:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                raise told.no_ranges(self.name)
            total, begin = match[3], start
        if total.isdigit() and int(total) != self.size_bytes:
            there = units.format_file_size(int(total))
            promised = units.format_file_size(self.size_bytes)
            raise told.changed(self.name, f"It has {there}, not {promised}.")
        if start - begin > MAX_SKIPPED_BYTES:
            raise told.no_ranges(self.name)
        return start - begin
