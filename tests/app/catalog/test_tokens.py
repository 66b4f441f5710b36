from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from huggingface_hub import constants
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from app.catalog import hub, repository, tokens
from app.cli import models
from app.cli.main import parser
from app.errors import AppError, ErrorKind
from app.gguf.reader import read_layout_from
from app.settings.model import Settings
from tests.helpers.hub import Hub, Repo

RIGHT = "hf_right"


class Memory(KeyringBackend):
    """A keyring that forgets with the test."""

    priority = 1.0

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def _open(self) -> None:
        if self.locked:
            raise KeyringLocked(f"locked, holding {self.kept}")

    def get_password(self, service: str, username: str) -> str | None:
        self._open()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._open()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._open()
        if (service, username) not in self.kept:
            raise PasswordDeleteError("there is none")
        del self.kept[service, username]


@pytest.fixture
def memory(server: Hub) -> Iterator[Memory]:
    before = keyring.get_keyring()
    backend = Memory()
    keyring.set_keyring(backend)
    tokens.forget()
    yield backend
    backend.locked = False
    tokens.forget()
    keyring.set_keyring(before)


def login(token: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{token}\n"))
    return models.models(parser().parse_args(["models", "login"]), Settings())


def test_a_kept_token_opens_lists_and_files(
    server: Hub, memory: Memory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.token = RIGHT
    server.repos["org/repo"] = Repo(private=True)
    with pytest.raises(AppError, match="needs a token"):
        repository.read_snapshot("org/repo")
    assert login(RIGHT, monkeypatch) == 0
    assert list(memory.kept.values()) == [RIGHT]
    found = repository.find(hub.parse("hf:org/repo"))
    assert read_layout_from(hub.open_files(found.address)).block_count == 30
    out, err = capsys.readouterr()
    assert "person" in out
    assert RIGHT not in out + err
    assert {r.token for r in server.requests if r.host == "localhost"} == {None}
    assert models.models(parser().parse_args(["models", "logout"]), Settings()) == 0
    assert not memory.kept
    assert tokens.get() is None


def test_a_wrong_token_is_not_kept(
    server: Hub, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = RIGHT
    with pytest.raises(AppError, match="does not know this token") as caught:
        login("hf_wrong", monkeypatch)
    assert caught.value.kind is ErrorKind.USAGE
    assert "hf_wrong" not in str(caught.value)
    assert not memory.kept


def test_the_environment_goes_first_and_the_file_last(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("hf_file")
    assert tokens.get() == "hf_file"
    tokens.keep("hf_kept ")
    assert tokens.get() == "hf_kept"
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert tokens.get() == "hf_environment"
    monkeypatch.delenv("HF_TOKEN")
    tokens.forget()
    assert tokens.get() == "hf_file"


def test_a_locked_keyring_is_told_without_what_it_holds(memory: Memory) -> None:
    tokens.keep("hf_secret")
    memory.locked = True
    with pytest.raises(AppError) as caught:
        tokens.keep("hf_other")
    assert "keyring" in caught.value.title
    assert "HF_TOKEN" in caught.value.hint
    assert "hf_" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(AppError, match="cannot be taken out"):
        tokens.forget()
    assert tokens.get() is None, "as good as none"


@pytest.mark.parametrize("token", ["", "hf secret", "hf_secret\x00", "hf_secr\u00e9t"])
def test_what_cannot_be_a_token_is_never_sent_nor_shown(
    server: Hub, memory: Memory, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    with pytest.raises(AppError, match="no token") as caught:
        login(token, monkeypatch)
    assert "secr" not in str(caught.value)
    if token:
        memory.kept[tokens.SERVICE, tokens.ACCOUNT] = token
        with pytest.raises(AppError, match="no token"):
            repository.read_snapshot("org/repo")
    assert not server.requests


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["a file above it", "no text"])
def test_a_login_that_cannot_be_read_is_none(
    server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    place = tmp_path / "kept"
    place.write_bytes(content or b"")
    path = place if content else place / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
    assert tokens.get() is None
    assert repository.read_snapshot("org/repo").files
