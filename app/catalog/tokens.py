"""The token that the Hub is asked with: HF_TOKEN, else the system's keyring, else huggingface_hub's own."""

from __future__ import annotations

import huggingface_hub


def get() -> str | None:
    """The token, None if there is none. It is never printed or logged."""
    return huggingface_hub.get_token()
