"""The token that the Hub is asked with: HF_TOKEN, else the system's keyring, else huggingface_hub's own.

No text of an error, log or answer holds it.
"""

from __future__ import annotations

import functools
import logging
import os
import re

import huggingface_hub

from app.errors import AppError, ErrorKind

log = logging.getLogger("app.catalog.tokens")
SERVICE = "ultra-launcher"
ACCOUNT = "hugging-face-token"
_TOKEN = re.compile(r"[\x21-\x7e]{1,500}")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")


def get() -> str | None:
    """The token, None if there is none.

    Raises:
        AppError: What is kept as a token cannot be one.
    """
    named = any(os.environ.get(name) for name in _VARIABLES)
    token = (None if named else _kept()) or _logged_in()
    if token is not None:
        check(token)
    return token


def _logged_in() -> str | None:
    """HF_TOKEN, or that of `hf auth login`."""
    try:
        return huggingface_hub.get_token()
    except (OSError, ValueError) as error:  # its file is another user's, or holds something else
        log.warning("the token of `hf auth login` cannot be read: %s", error)
        return None


def check(token: str) -> None:
    """Refuse what cannot be a token before an error about a strange header can show it.

    Raises:
        AppError: It holds characters that no token has, or none.
    """
    if not _TOKEN.fullmatch(token):
        raise AppError(
            "This is no token of the Hub.",
            hint="Copy it again from your settings on the Hub; it begins with hf_. "
            "HF_TOKEN goes before the keyring, and that before `hf auth login`.",
            kind=ErrorKind.SETTINGS,
        )


@functools.cache
def _kept() -> str | None:
    """What the keyring holds; asked once, since some systems take long or ask a person."""
    import keyring  # not at the top: it looks for its backends, and few need it

    try:
        return keyring.get_password(SERVICE, ACCOUNT)
    except Exception:  # noqa: BLE001 - each system's backend raises errors of its own
        return None


def keep(token: str) -> None:
    """Let the system's keyring keep `token`.

    Raises:
        AppError: The system has no keyring, or it is locked.
    """
    import keyring

    try:
        keyring.set_password(SERVICE, ACCOUNT, token.strip())
    except Exception as error:  # noqa: BLE001 - as above
        # The cause might show what was to be kept.
        raise _unwilling("The token cannot be kept", error) from None
    finally:
        _kept.cache_clear()


def forget() -> None:
    """Take the token out of the keyring, if there is one.

    Raises:
        AppError: The keyring is locked.
    """
    import keyring
    from keyring.errors import NoKeyringError, PasswordDeleteError

    try:
        keyring.delete_password(SERVICE, ACCOUNT)
    except (NoKeyringError, PasswordDeleteError):
        pass  # none was kept
    except Exception as error:  # noqa: BLE001 - as above
        raise _unwilling("The token cannot be taken out", error) from None
    finally:
        _kept.cache_clear()


def _unwilling(what: str, error: Exception) -> AppError:
    return AppError(
        f"{what}: the system's keyring does not allow it.",
        detail=f"{type(error).__name__}.",
        hint="Unlock the keyring, or use HF_TOKEN or `hf auth login` instead.",
        kind=ErrorKind.SETTINGS,
    )
