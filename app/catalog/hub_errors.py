"""What can go wrong between this machine and the Hub, in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import httpx2
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import parse_ratelimit_headers

from app.catalog import names
from app.errors import Action, AppError, ErrorKind

_LET_IN = (
    "accept its terms on its page, then log in with a token of yours (`ultra-launcher models login`), "
    "or set HF_TOKEN to it."
)
_LET_IN_ANEW = (
    "Check the name. The token may have expired, or be of another account; "
    "`ultra-launcher models login` takes a new one, but HF_TOKEN goes before it."
)
MAX_WAIT_S = 600.0
_NOT_FOUND = {
    "RepoNotFound": "There is no such repository.",
    "RevisionNotFound": "The repository has no such revision.",
    "EntryNotFound": "The repository has no such file.",
}


class AbsentError(AppError):
    """What was asked for is not there, or not for this token."""


@contextlib.contextmanager
def as_app_errors(name: str) -> Iterator[None]:
    """Turn what httpx2 and huggingface_hub raise about the file `name` into an `AppError`."""
    try:
        yield
    except hub_errors.HfHubHTTPError as error:
        raise refused(name, error.response) from error
    except hub_errors.OfflineModeIsEnabled as error:
        raise AppError(
            f"{name} cannot be read offline.",
            detail="HF_HUB_OFFLINE is set.",
            hint="Unset HF_HUB_OFFLINE.",
            kind=ErrorKind.NETWORK,
        ) from error
    except hub_errors.FileMetadataError as error:
        raise no_hub(name) from error
    except hub_errors.HFValidationError as error:
        raise AppError(
            f"{name} cannot be the name of a file on the Hub.",
            detail=str(error),
            hint="Copy owner and repository from the model's page.",
            kind=ErrorKind.USAGE,
        ) from error
    except httpx2.TimeoutException as error:
        raise slow(name) from error
    except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
        raise AppError(
            f"{name} cannot be read: the Hub cannot be reached.",
            detail=_sentence(error),
            hint="Check the network and proxy, and HF_ENDPOINT if it is set.",
            kind=ErrorKind.NETWORK,
        ) from error
    except httpx2.DecodingError as error:
        raise no_hub(name, "Its answer cannot be unpacked.") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise broken_off(name, _sentence(error)) from error


def _sentence(error: Exception) -> str:
    """What a library says, fit for a line."""
    words = names.printable(" ".join(str(error).split()))
    return words and f"{words.rstrip('.')}."


def refused(name: str, response: httpx2.Response) -> AppError:
    """The error for a reply that is not a success."""
    sent_token = "Authorization" in response.request.headers
    return refusal(name, response.status_code, response.headers, sent_token=sent_token)


def refusal(name: str, status: int, headers: Mapping[str, str], *, sent_token: bool) -> AppError:
    """The error for a status that is not a success; `sent_token`: the request bore a token."""
    code = headers.get("X-Error-Code", "")
    detail = _NOT_FOUND.get(code, f"The server answers {status}.")
    kind = ErrorKind.NETWORK
    family = AbsentError if status in (401, 404, 410) and code != "GatedRepo" else AppError
    if code == "GatedRepo" or status == 403:
        title = f"{name} is only for those whom its owner lets in."
        hint = f"To be let in, {_LET_IN}"
    elif status == 401 and not code and sent_token:
        family = AppError
        title = f"{name} cannot be read: the Hub does not know the token that it is sent."
        hint = (
            "Log in with another one (`ultra-launcher models login`), or correct or unset HF_TOKEN."
        )
    elif status == 401:
        # Also the answer to a repository that is absent, so that private ones cannot be guessed.
        title, detail = f"{name} does not exist, or needs a token.", ""
        hint = f"Check the name. If the model is private or gated, {_LET_IN}"
        if sent_token:
            title = f"{name} does not exist, or not for the token that is used."
            hint = _LET_IN_ANEW
    elif status in (404, 410):
        title = f"{name} is not on the Hub."
        if code == "RevisionNotFound":
            title, detail = f"{name} has no such revision.", ""
        hint = "Check owner, repository, path and revision on the model's page."
        kind = ErrorKind.MODEL_FILE
    elif status == 429:
        return too_many(name, retry_after_s(headers))
    else:
        title = f"{name} cannot be read: the server refuses."
        hint = "Try again in a few minutes."
    action = Action.LOG_IN if status in (401, 403) else None
    return family(title, detail=detail, hint=hint, kind=kind, action=action)


def too_many(name: str, wait_s: float | None) -> AppError:
    """The error for a server that wants to be left alone, for `wait_s` seconds if it says so."""
    when = "in five minutes" if wait_s is None else f"in {wait_s:.0f} seconds"
    return AppError(
        f"{name} cannot be read now: the Hub has had too many requests from here.",
        detail="The server answers 429.",
        hint=f"Try again {when}; with a token in HF_TOKEN more requests are allowed.",
        kind=ErrorKind.NETWORK,
    )


def no_hub(name: str, detail: str = "") -> AppError:
    """The error for a server that lacks what makes it a Hub."""
    return AppError(
        f"{name} cannot be read: what answers is not a Hugging Face Hub.",
        detail=detail,
        hint="Check HF_ENDPOINT, and whether the network wants a login first.",
        kind=ErrorKind.NETWORK,
    )


def insecure(name: str) -> AppError:
    """The error for a server that leads from an encrypted connection to one that is not."""
    return AppError(
        f"{name} cannot be read: the server leads to an address without encryption.",
        hint="Check HF_ENDPOINT and the proxy.",
        kind=ErrorKind.NETWORK,
    )


def slow(name: str) -> AppError:
    """The error for a server that says nothing for too long, or almost nothing."""
    return AppError(
        f"{name} cannot be read: the server is too slow.",
        hint="Try again, or check the network.",
        kind=ErrorKind.NETWORK,
    )


def broken_off(name: str, detail: str) -> AppError:
    """The error for a connection that ends early, again and again."""
    return AppError(
        f"{name} cannot be read: the connection breaks off.",
        detail=detail,
        hint="Try again, or check the network.",
        kind=ErrorKind.NETWORK,
    )


def changed(name: str, detail: str) -> AppError:
    """The error for a file that is not the one it was a moment ago."""
    return AppError(
        f"{name} changed while it was read.",
        detail=detail,
        hint="Try again.",
        kind=ErrorKind.NETWORK,
    )


def no_ranges(name: str) -> AppError:
    """The error for a server that cannot send a part of a file."""
    return AppError(
        f"{name} cannot be read: the server sends no parts of files.",
        hint="Check HF_ENDPOINT and the proxy, or download the file.",
        kind=ErrorKind.NETWORK,
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How many seconds a server wants to be left alone, None if it does not say.

    No more than `MAX_WAIT_S`, whatever it says: after that it is asked again.
    """
    try:
        limit = parse_ratelimit_headers(headers)
    except ValueError:  # a number with thousands of digits
        limit = None
    if limit is not None and limit.remaining == 0:
        return float(min(limit.reset_in_seconds, MAX_WAIT_S))
    text = headers.get("Retry-After", "")
    if not (text.isascii() and text.isdigit()):
        return None
    return min(float(text.lstrip("0")[:20] or 0), MAX_WAIT_S)
