"""The Hub on loopback, for every test of this folder that asks for `server`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.catalog import api
from tests.helpers.hub import Hub
from tests.helpers.hub import hub as hub_server


def point_at(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starter_model: Path) -> Iterator[Hub]:
    """The Hub with the starter model in `org/repo/sub/starter.gguf`; nobody is logged in."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    with hub_server() as running:
        running.files["org/repo/sub/starter.gguf"] = starter_model
        # The port may have been that of another one, which wanted to be left alone.
        monkeypatch.setattr(api, "_quiet_until", {})
        point_at(monkeypatch, running.endpoint)
        yield running
