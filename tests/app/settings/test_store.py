from __future__ import annotations

import json
from pathlib import Path

import pydantic
import pytest

from app.engine.protocol import Sampling
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
    assert "kept as settings.json.broken" in notices[1]


def test_of_lists_and_options_only_what_is_not_valid_is_reset(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    written = {
        "rpc_servers": ["a:1", "nonsense", "b:2"],
        "layers": {"gpu-1": 3, "gpu-2": "many"},
        "sampling": {"temperature": 9, "top_k": 5, "from_the_future": True},
        "overflow": "from_the_future",
    }
    path.write_text(json.dumps(written))
    store = SettingsStore(path)
    settings, notices = store.load()
    assert settings == Settings(
        rpc_servers=("a:1", "b:2"), layers={"gpu-1": 3}, sampling={"top_k": 5}
    )
    told = " ".join(notices)
    for words in ("nonsense", "gpu-2", "Temperature", "from_the_future", "Full context"):
        assert words in told
    store.save(settings)
    assert json.loads((tmp_path / "settings.json.broken").read_text()) == written
    assert store.load() == (settings, ())


def test_each_broken_file_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    store = SettingsStore(path)
    for content in ("{", "[1]", "[" * 100_000, "{"):
        path.write_text(content)
        for _again in range(2):
            settings, notices = store.load()
            assert (settings, len(notices)) == (Settings(), 1)
    kept = sorted(file.read_text() for file in tmp_path.glob("*.broken*"))
    assert kept == sorted(["{", "[1]", "[" * 100_000])


def test_what_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.mkdir()
    settings, notices = SettingsStore(path).load()
    assert settings == Settings()
    assert "could not be read" in notices[0]
    with pytest.raises(AppError, match="could not be saved"):
        SettingsStore(path).save(settings)
    assert path.is_dir()


def test_options_of_earlier_versions_stand_for_those_that_differed(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"sampling": Sampling(top_k=7).model_dump(mode="json")}))
    assert SettingsStore(path).load() == (Settings(sampling={"top_k": 7}), ())


def test_a_damaged_file_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"\0" * 40)
    settings, notices = SettingsStore(path).load()
    assert settings == Settings()
    assert "kept as settings.json.broken" in notices[0]
    assert (tmp_path / "settings.json.broken").read_bytes() == b"\0" * 40


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


def test_half_a_character_is_reset_like_every_bad_value(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    half = "\ud800"
    written = {"rpc_servers": [half], "sampling": {"grammar": half}, "context": 512}
    path.write_text(json.dumps(written))
    settings, notices = SettingsStore(path).load()
    assert settings == Settings(context=512)
    assert len(notices) == 2


def test_a_number_of_any_length_can_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"download_limit": 10**400}))
    settings, notices = SettingsStore(path).load()
    assert settings == Settings()
    assert len(notices) == 1
