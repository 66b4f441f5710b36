"""The real script with llama.cpp's real quantizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.gguf import bundled

SCRIPT = Path(__file__).parents[2] / "packaging" / "make_layouts.py"


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_types_are_what_the_quantizer_says(name: str, tmp_path: Path) -> None:
    source = bundled.FOLDER / f"{name}.json"
    copy = tmp_path / source.name
    copy.write_text(source.read_text().replace("Q6_K*", "Q5_K*"))
    subprocess.run([sys.executable, str(SCRIPT), str(copy)], check=True, timeout=60)
    assert copy.read_text() == source.read_text()
