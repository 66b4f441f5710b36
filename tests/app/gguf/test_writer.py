"""What is written reads back the same, and takes no disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from app.errors import AppError
from app.gguf import bundled
from app.gguf.reader import read_layout
from app.gguf.writer import write_sparse
from app.units import MIB


@pytest.mark.parametrize("name", bundled.names())
@pytest.mark.parametrize("kind", ["IQ3_XXS", "Q4_K_M", "BF16"])
def test_a_bundled_layout_reads_back_the_same(name: str, kind: str, tmp_path: Path) -> None:
    layout = bundled.layout(f"{name}:{kind}")
    path = tmp_path / "model.gguf"
    write_sparse(layout, path)
    size = path.stat().st_size
    assert 0 < size - layout.file_size_bytes < MIB
    assert path.stat().st_blocks * 512 < MIB
    assert read_layout(path) == dataclasses.replace(layout, files=(path,), file_size_bytes=size)


def test_a_layout_read_from_a_file_keeps_its_tensors(starter_model: Path, tmp_path: Path) -> None:
    layout = read_layout(starter_model)
    path = tmp_path / "model.gguf"
    write_sparse(layout, path)
    found = read_layout(path)
    same = ("layers", "token_embedding", "output", "other", "vocabulary_size", "context_length")
    for field in same:
        assert getattr(found, field) == getattr(layout, field), field


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="cannot be written to") as caught:
        write_sparse(bundled.layout("nemotron-super-49b"), tmp_path / "absent" / "model.gguf")
    assert "TMPDIR" in caught.value.hint
