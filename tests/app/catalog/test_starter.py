from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from app.catalog import starter
from app.errors import AppError, ErrorKind


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_unpacked_once_and_mended_when_it_was_cut(
    tmp_path: Path, starter_model: Path
) -> None:
    models = tmp_path / "not" / "yet"
    path = starter.ensure(models)
    assert digest(path) == digest(starter_model)
    assert [p.name for p in models.iterdir()] == [starter.FILE_NAME]
    changed = path.stat().st_mtime_ns
    assert starter.ensure(models).stat().st_mtime_ns == changed, "what is whole is left alone"
    path.write_bytes(b"cut")
    assert digest(starter.ensure(models)) == digest(starter_model)


def test_a_full_disk_is_said_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: object, target: Path) -> None:
        Path(target).write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(AppError) as caught:
        starter.ensure(tmp_path)
    assert caught.value.kind is ErrorKind.DISK
    assert "No space left" in caught.value.detail
    assert caught.value.hint
    assert not list(tmp_path.iterdir())
