"""One file of one commit on the Hub, by ranges.

The Hub is asked for the signed address once, and again when that has expired or is old; the ranges
come from there. A token goes to the Hub alone, and no redirect leads from https to http.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import httpx2
import huggingface_hub
import urllib3
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from app.catalog import hub_errors as told
from app.catalog import tokens
from app.download.connections import Connections, failure
from app.download.model import DownloadError, DownloadFile, Reason
from app.download.source import Reply, Timing, TransientError

MAX_REDIRECTS = 5
MAX_DENIALS = 4
"""Fresh addresses that are refused in a row, before it is the end."""
MAX_IGNORED = 3
"""Ranges ignored in a row, before only one connection goes on, which reads the whole file."""
_PASSING = (408, 425, 429)
_EXPIRED = (401, 403, 404, 410)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_OID = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)


class HubSource:
    """Gives ranges of one file; thread-safe.

    Attributes:
        git_oid: What the Hub's ETag says of a file that git itself keeps; None before it was asked.
    """

    blame = "The file on the server, or this machine's disk or memory, is damaged."

    def __init__(
        self, repo: str, commit: str, file: DownloadFile, *, timing: Timing | None = None
    ) -> None:
        """Nothing is asked before the first `open`."""
        self.ranged = True
        self._name = f"{repo}/{file.path}"
        self._home = huggingface_hub.hf_hub_url(repo, file.path, revision=commit)
        self._commit = commit
        self._file = file
        self._timing = timing or Timing()
        self._connections = Connections(self._timing)
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self._address: str | None = None
        self._resolved_at = 0.0
        self._sha256: str | None = None
        self.git_oid: str | None = None
        self._denials = 0
        self._whole = 0
        self._etags: dict[str, str] = {}
        self._not_before = 0.0

    def abort(self) -> None:
        """Let every read end at once, now and later."""
        self._aborted.set()
        self._connections.abort()

    def open(self, start: int, end: int) -> Reply:
        """The bytes from `start` to before `end`, and nothing else.

        Raises:
            TransientError: Not now.
            DownloadError: Not at all.
        """
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0:
            raise TransientError("asked to wait", reason=Reason.BUSY_SERVER, wait_s=wait_s)
        address = self._resolve()
        response, final = self._get(address, f"bytes={start}-{end - 1}")
        try:
            skip = self._check(response, final, start, end)
        except BaseException:
            response.close()
            raise
        with self._lock:
            self._denials = 0
        return _HubReply(response, skip, end - start, self._connections)

    def sha256(self) -> str | None:
        """What the Hub says of the content where its list says nothing."""
        self._resolve()
        return self._sha256

    # --- the address --------------------------------------------------------

    def _resolve(self) -> str:
        """The signed address; asked for by one thread, while the others wait for it."""
        self._go_on()
        with self._lock:
            self._go_on()  # it may have been aborted while another thread asked
            age_s = time.monotonic() - self._resolved_at
            if self._address is None or age_s > self._timing.url_age_s:
                self._address = self._ask()
                self._resolved_at = time.monotonic()
            return self._address

    def _go_on(self) -> None:
        if self._aborted.is_set():
            raise TransientError("stopped")

    def _ask(self) -> str:
        try:
            found = huggingface_hub.get_hf_file_metadata(
                self._home, token=tokens.get() or False, timeout=self._timing.stall_s
            )
        except hub_errors.HfHubHTTPError as error:
            raise self._refusal(error.response.status_code, error.response.headers) from error
        except hub_errors.OfflineModeIsEnabled as error:
            raise TransientError(f"resolve: {error!r}") from error
        except httpx2.TransportError as error:
            raise failure(error) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, hub_errors.FileMetadataError) as error:
            raise TransientError(f"resolve: {error!r}", strange=True) from error
        except ValueError as error:  # what httpx2 says of a proxy that it cannot use
            raise failure(urllib3.exceptions.LocationValueError(str(error))) from error
        if found.commit_hash is None or found.size is None:
            raise TransientError("what answers is no Hub", strange=True)
        if found.commit_hash != self._commit:
            raise self._changed(f"Its commit is {found.commit_hash}, not {self._commit}.")
        if found.size != self._file.size_bytes:
            raise self._changed(f"It has {found.size} bytes, not {self._file.size_bytes}.")
        etag, digest = found.etag or "", self._file.digest or ""
        # A mirror may have ETags of its own, in another form.
        if len(etag) == len(digest) and etag != digest:
            raise self._changed(f"Its ETag is {etag}, not {digest}.")
        self._sha256 = etag if _SHA256.fullmatch(etag) else None
        self.git_oid = etag if _GIT_OID.fullmatch(etag) else None
        self._check_redirect(self._home, found.location)
        return found.location

    def _expire(self, address: str) -> None:
        """`address` does not work any more."""
        with self._lock:
            if self._address == address:
                self._address = None
                self._denials += 1

    def _check_redirect(self, start: str, target: str) -> None:
        source, goal = urlsplit(start).scheme, urlsplit(target).scheme
        if goal not in ("http", "https") or (source, goal) == ("https", "http"):
            raise DownloadError(
                Reason.BAD_SERVER,
                f"{self._name} cannot be read safely.",
                detail=f"The server leads from {source} to {goal or 'nowhere'}.",
                hint="Check HF_ENDPOINT, the proxy, and whether the network wants a login first.",
            )

    # --- requests and answers -----------------------------------------------

    def _get(self, address: str, wanted: str) -> tuple[urllib3.BaseHTTPResponse, str]:
        """The answer and where it came from, after redirects."""
        url = address
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"Accept-Encoding": "identity", "Range": wanted}
            token = tokens.get() if self._at_home(url) else None
            if token:
                headers["Authorization"] = f"Bearer {token}"
            response = self._connections.get(url, headers)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response, address
            response.close()
            target = urljoin(url, location)
            self._check_redirect(url, target)
            url = target
        raise TransientError("too many redirects", reason=Reason.BAD_SERVER, strange=True)

    def _at_home(self, url: str) -> bool:
        """True if `url` is on the Hub's own host, as safe as HF_ENDPOINT at least."""
        return urlsplit(url)[:2] == urlsplit(constants.ENDPOINT)[:2]

    def _check(self, response: urllib3.BaseHTTPResponse, address: str, start: int, end: int) -> int:
        """Refuse all that is not the range; how many bytes come before it."""
        status, headers = response.status, response.headers
        if status not in (200, 206):
            raise self._no_bytes(status, headers, address)
        if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise TransientError("packed", reason=Reason.BAD_SERVER, strange=True)
        if status == 200:
            return self._check_whole(headers, start)
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None:
            raise TransientError("no Content-Range", reason=Reason.BAD_SERVER, strange=True)
        if int(match[3]) != self._file.size_bytes:
            raise self._changed(f"It has {match[3]} bytes, not {self._file.size_bytes}.")
        if (int(match[1]), int(match[2]) + 1) != (start, end):
            raise TransientError("another range", reason=Reason.BAD_SERVER, strange=True)
        etag, host = headers.get("ETag"), urlsplit(address).netloc
        with self._lock:
            self._whole, self.ranged = 0, True
            if etag and self._etags.setdefault(host, etag) != etag:
                raise self._changed("Its ETag is another one.")
        return 0

    def _no_bytes(self, status: int, headers: Mapping[str, str], address: str) -> Exception:
        """What an answer without bytes means; an address that expired is asked for again."""
        if status not in _EXPIRED:
            return self._refusal(status, headers)
        self._expire(address)
        if self._denials <= MAX_DENIALS:
            return TransientError(f"the address answers {status}", wait_s=0.0)
        return (
            self._refusal(status, headers) if self._at_home(address) else self._locked_out(status)
        )

    def _check_whole(self, headers: Mapping[str, str], start: int) -> int:
        """The Range was ignored: now and then is chance, always is how the server works."""
        length = headers.get("Content-Length")
        if length is not None and length != str(self._file.size_bytes):
            raise self._changed(f"It has {length} bytes, not {self._file.size_bytes}.")
        with self._lock:
            self._whole += 1
            if self._whole > MAX_IGNORED:
                self.ranged = False
        if self.ranged and start:
            raise TransientError("range ignored", reason=Reason.BAD_SERVER, wait_s=0.0)
        return start

    def _refusal(self, status: int, headers: Mapping[str, str]) -> Exception:
        """What an answer that is no success means."""
        if status in _PASSING or status >= 500:
            wait_s = told.retry_after_s(headers)
            if wait_s is not None:
                self._not_before = time.monotonic() + wait_s
            return TransientError(f"{status}", reason=Reason.BUSY_SERVER, wait_s=wait_s)
        code = headers.get("X-Error-Code", "")
        sent_token = tokens.get() is not None
        words = told.refusal(self._name, status, headers, sent_token=sent_token)
        if status in (401, 403) and code not in ("RepoNotFound", "EntryNotFound"):
            reason = Reason.NEEDS_LOGIN
        elif status in (401, 404, 410):
            reason = Reason.NOT_FOUND
        else:
            reason = Reason.BAD_SERVER
        return DownloadError(reason, words.title, detail=words.detail, hint=words.hint)

    def _locked_out(self, status: int) -> DownloadError:
        return DownloadError(
            Reason.BAD_SERVER,
            f"{self._name} cannot be read: the storage refuses every address that the Hub gives.",
            detail=f"It answers {status}.",
            hint="Check this machine's clock, the proxy, and HF_ENDPOINT, then resume.",
        )

    def _changed(self, detail: str) -> DownloadError:
        return DownloadError(
            Reason.CHANGED,
            f"{self._name} is not the file that it was when the download began.",
            detail=detail,
            hint="Discard the download and begin again, or check HF_ENDPOINT and the proxy.",
        )


class _HubReply:
    def __init__(
        self, response: urllib3.BaseHTTPResponse, skip: int, left: int, connections: Connections
    ) -> None:
        self.skipped_bytes = 0
        self._response = response
        self._skip = skip
        self._left = left
        self._connections = connections

    def read(self, most: int) -> bytes:
        """What has arrived."""
        while self._skip:
            gone = len(self._connections.read(self._response, min(most, self._skip)))
            self._skip -= gone
            self.skipped_bytes += gone
            if not gone:
                return b""
        if not self._left:
            return b""
        data = self._connections.read(self._response, min(most, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Back to the pool if all was read, else closed."""
        self._connections.give_back(self._response, whole=not self._left)
