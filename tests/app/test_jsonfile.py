from __future__ import annotations

from pathlib import Path

import pytest

from app import jsonfile


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.json"
    assert jsonfile.read(path) == {}
    jsonfile.write(path, {"a": 1})
    jsonfile.write(path, {"b": [2, "ü"]})
    assert jsonfile.read(path) == {"b": [2, "ü"]}
    assert names(path.parent) == ["values.json"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000, b""], ids=range(5))
def test_a_broken_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "values.json"
    path.write_bytes(content)
    assert jsonfile.read(path) == {}


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    jsonfile.write(path, {"a": 1})
    with pytest.raises(TypeError):
        jsonfile.write(path, {"a": object()})
    assert jsonfile.read(path) == {"a": 1}
    assert names(tmp_path) == ["values.json"]
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        jsonfile.write(folder, {"a": 1})
    assert names(tmp_path) == ["folder", "values.json"]
