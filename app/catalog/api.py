"""Questions to the Hub's API: bounded in time, bytes and pages, and never with a token to another host.

`HfApi` pages without a timeout, sleeps through any `Retry-After`, and sends the token to whatever
host the next page is said to be on; so only its client, headers and errors are used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping

import httpx2
from huggingface_hub import constants
from huggingface_hub.utils import (
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from app import units
from app.catalog import hub_errors as told
from app.catalog import names, tokens
from app.errors import AppError, ErrorKind

TIMEOUT_S = 15.0
"""Longest silence of the server, in seconds."""

ATTEMPTS = 3
BACK_OFF_S = 0.5
"""Before the second attempt, in seconds; twice as long before the third."""
LONGEST_WAIT_S = 10.0
"""A `Retry-After` up to this is waited for, a longer one is told."""
LONGEST_SILENCE_S = 600.0
"""How long a server is left alone at most, whatever it wants."""
MAX_REPLY_BYTES = 32 * units.MIB
MAX_PAGES = 500
MAX_REDIRECTS = 4
_PASSING = (408, 429, 500, 502, 503, 504)

_quiet_until: dict[str, float] = {}
"""By endpoint: before this moment it wants no more requests."""

Params = Mapping[str, str | int | bool | list[str]]


def get(path: str, params: Params, *, name: str) -> object:
    """The JSON at `path` (`/api/models/...`).

    Args:
        path: Begins with a slash; quoted.
        params: The query.
        name: What is asked about, for errors.

    Raises:
        AppError: There is no such thing, no access to it, no Hub, or no sense in the answer.
    """
    return _get(constants.ENDPOINT + path, params, name)[0]


def pages(path: str, params: Params, *, name: str) -> Iterator[object]:
    """The JSON of every page of the list at `path`, as it is needed.

    Raises:
        AppError: As `get`; the list never ends, or goes on at another host.
    """
    url: str | None = constants.ENDPOINT + path
    for _ in range(MAX_PAGES):
        if url is None:
            return
        page, url = _get(url, params, name)
        params = {}  # the link to the next page holds them
        yield page
    if url is not None:
        raise told.no_hub(name, f"Its list goes on after {MAX_PAGES} pages.")


def _get(url: str, params: Params, name: str) -> tuple[object, str | None]:
    """One page, and where the next one is."""
    quiet_s = _quiet_until.get(constants.ENDPOINT, 0.0) - time.monotonic()
    if quiet_s > 0:
        raise told.too_many(name, quiet_s)
    for attempt in range(1, ATTEMPTS + 1):
        back_off_s = BACK_OFF_S * 2 ** (attempt - 1)
        with told.as_app_errors(name):
            try:
                response = _send(url, params, name)
            except httpx2.TransportError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(back_off_s)
                continue
            wait_s = _wait_s(response, back_off_s)
            if wait_s is None or attempt == ATTEMPTS:
                return _answer(response, name)
        time.sleep(wait_s)
    raise AssertionError


def _wait_s(response: httpx2.Response, back_off_s: float) -> float | None:
    """How long to wait before the same question is worth another try; None if it is not."""
    if response.status_code not in _PASSING:
        return None
    wanted_s = told.retry_after_s(response.headers)
    limited = response.status_code == 429
    if wanted_s is None:
        return None if limited else back_off_s
    if wanted_s <= LONGEST_WAIT_S:
        return wanted_s
    if limited:
        until = time.monotonic() + min(wanted_s, LONGEST_SILENCE_S)
        _quiet_until[constants.ENDPOINT] = until
    return None


def _answer(response: httpx2.Response, name: str) -> tuple[object, str | None]:
    hf_raise_for_status(response)
    if not response.is_success:
        raise told.refused(name, response)
    try:
        return json.loads(response.content), response.links.get("next", {}).get("url")
    except (ValueError, RecursionError):
        raise told.no_hub(name, "Its answer is no JSON.") from None


def owner(token: str) -> str:
    """The name of the account that `token` is of.

    Raises:
        AppError: The Hub does not know the token, or cannot be asked.
    """
    name = "The token's account"
    with told.as_app_errors(name):
        response = _send(f"{constants.ENDPOINT}/api/whoami-v2", {}, name, token)
        if response.status_code == 401:
            raise AppError(
                "The Hub does not know this token.",
                hint="Copy it again from your settings on the Hub; it begins with hf_.",
                kind=ErrorKind.USAGE,
            )
        found, _ = _answer(response, name)
    known = found.get("name") if isinstance(found, dict) else None
    if not isinstance(known, str):
        raise told.no_hub(name)
    return names.printable(known)


def _send(url: str, params: Params, name: str, token: str | None = None) -> httpx2.Response:
    """One request, and those that redirects on the same host lead to; with the usual token or `token`."""
    headers = build_hf_headers(token=token or tokens.get() or False)
    target = httpx2.URL(url)
    if params:
        target = target.copy_merge_params(params)
    for _ in range(MAX_REDIRECTS + 1):
        if not _at_home(target):
            raise told.no_hub(name, f"It leads to another host, {target.host}.")
        reply = get_session().stream(
            "GET", target, headers=headers, timeout=TIMEOUT_S, follow_redirects=False
        )
        with reply as response:
            if not response.has_redirect_location:
                return httpx2.Response(
                    response.status_code,
                    headers=_kept(response.headers),
                    content=_body(response, name),
                    request=response.request,
                )
            target = target.join(response.headers["Location"])
    raise told.no_hub(name, "Its redirects lead nowhere.")


def _kept(headers: httpx2.Headers) -> list[tuple[str, str]]:
    """The headers without those about a body that is already unpacked."""
    gone = ("content-encoding", "content-length", "transfer-encoding")
    return [(key, value) for key, value in headers.multi_items() if key.lower() not in gone]


def _body(response: httpx2.Response, name: str) -> bytes:
    """All of the body, unpacked, if it is not absurdly long."""
    body = bytearray()
    deadline = time.monotonic() + 4 * TIMEOUT_S
    # As it comes: pieces of one size would wait for a server that sends byte by byte.
    for piece in response.iter_bytes():
        body += piece
        if len(body) > MAX_REPLY_BYTES:
            raise told.no_hub(name, f"Its answer has more than {MAX_REPLY_BYTES // units.MIB} MiB.")
        if time.monotonic() > deadline:
            raise told.slow(name)
    return bytes(body)


def _at_home(url: httpx2.URL) -> bool:
    """True if `url` is on the Hub's own host, as safe as HF_ENDPOINT at least."""
    home = httpx2.URL(constants.ENDPOINT)
    same = (url.scheme, url.port) == (home.scheme, home.port)
    safer = (home.scheme, url.scheme) == ("http", "https")
    return url.host == home.host and (same or safer)
