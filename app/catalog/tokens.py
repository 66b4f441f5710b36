"""The token that the Hub is asked with: HF_TOKEN, else the system's keyring, else huggingface_hub's own.

No text of an error, log or answer holds it.
"""

from __future__ import annotations

import functools
import os
import re

import huggingface_hub

from app.errors import AppError, ErrorKind

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
    token = (None if named else _kept()) or huggingface_hub.get_token()
    if token is not None:
        check(token)
    return token


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
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(SERVICE, ACCOUNT)
    except (KeyringError, OSError, RuntimeError):
        return None


def keep(token: str) -> None:
    """Let the system's keyring keep `token`.

    Raises:
        AppError: The system has no keyring, or it is locked.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(SERVICE, ACCOUNT, token.strip())
    except (KeyringError, OSError, RuntimeError) as error:
        # The cause might show what was to be kept.
        raise AppError(
            "The token cannot be kept: the system's keyring does not take it.",
            detail=type(error).__name__ + ".",
            hint="Set HF_TOKEN instead, or run `hf auth login`.",
            kind=ErrorKind.SETTINGS,
        ) from None
    finally:
        _kept.cache_clear()


def forget() -> None:
    """Take the token out of the keyring, if there is one."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.delete_password(SERVICE, ACCOUNT)
    except (KeyringError, OSError, RuntimeError):
        pass  # none was kept
    finally:
        _kept.cache_clear()
