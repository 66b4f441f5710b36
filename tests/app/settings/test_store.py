from __future__ import annotations

import json
from pathlib import Path

import pydantic
import pytest

from app.errors import AppError
from app.settings.model import Settings
from app.settings.store import SettingsStore


def test_settings_survive_and_unknown_keys_too(tmp_path: Path) -> None:
    path = tmp_path / "config" / "settings.json"
    store = SettingsStore(path)
    assert store.load() == (Settings(), ())
    store.save(Settings(context=4096, rpc_servers=("127.0.0.1:5000",)))
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"from_the_future": 1}))
    settings, notices = store.load()
    assert (settings.context, settings.rpc_servers, notices) == (4096, ("127.0.0.1:5000",), ())
    store.save(settings.model_copy(update={"context": 512}))
    assert json.loads(path.read_text())["from_the_future"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["settings.json"]


def test_a_bad_value_is_reset_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"context": -4, "micro_batch": 128, "kv_type_k": "q9"}))
    settings, notices = SettingsStore(path).load()
    assert (settings.context, settings.micro_batch) == (None, 128)
    assert len(notices) == 2
    assert "Context" in notices[0]


def test_a_damaged_file_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"\0" * 40)
    settings, notices = SettingsStore(path).load()
    assert settings == Settings()
    assert "kept as settings.json.broken" in notices[0]
    assert (tmp_path / "settings.json.broken").exists()


def test_a_folder_that_cannot_take_them_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AppError, match="could not be saved"):
        SettingsStore(tmp_path / "file" / "settings.json").save(Settings())


def test_every_setting_has_words() -> None:
    for name, field in Settings.model_fields.items():
        assert field.title, name
        assert field.description, name


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999", "a b:1", "[::1]"])
def test_bad_rpc_addresses_are_refused(address: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings(rpc_servers=(address,))
