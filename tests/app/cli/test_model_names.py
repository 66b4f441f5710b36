"""A model that was pulled is loaded by the name under which it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.catalog import starter
from app.cli import main

SIZES = ["--threads", "1", "--prompt-tokens", "40", "--tokens", "4", "--runs", "1"]


def pulled(home: Path, name: str) -> Path:
    """Where a download puts a file."""
    path = home / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    source = starter.bundled_model()
    assert source is not None
    shutil.copyfile(source, path)
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hf:org/tiny:Q4_1", "org/tiny/tiny-Q4_1.gguf"),
        ("hf:org/tiny/tiny-Q4_1.gguf", "org/tiny/tiny-Q4_1.gguf"),
        ("hf:org/tiny", "org/tiny/tiny-Q4_1.gguf"),
        (
            "nemotron-nano-8b:Q4_1",
            "bartowski/nvidia_Llama-3.1-Nemotron-Nano-8B-v1-GGUF/"
            "nvidia_Llama-3.1-Nemotron-Nano-8B-v1-Q4_1.gguf",
        ),
    ],
)
def test_it_is_loaded_by_its_name(
    capsys: pytest.CaptureFixture[str], home: Path, name: str, file: str
) -> None:
    path = pulled(home, file)
    assert main(["bench", "--model", name, *SIZES, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(path)


def test_the_catalog_s_name_of_the_starter_needs_no_download(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--model", "smollm2-135m", *SIZES, "--json"]) == 0
    assert starter.FILE_NAME in json.loads(capsys.readouterr().out)["model"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:org/tiny:Q8_0", "only partly on this machine. `ultra-launcher pull hf:org/tiny:Q8_0`"),
        ("hf:org/other:Q8_0", "is not on this machine. `ultra-launcher pull hf:org/other:Q8_0`"),
        ("nemotron-ultra-253b:Q4_K_M", "`ultra-launcher pull nemotron-ultra-253b:Q4_K_M`"),
        ("nemotron-ultr", "Did you mean nemotron-ultra-253b?"),
        ("", "There is no model “”."),
    ],
)
def test_what_is_not_here_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], home: Path, name: str, words: str
) -> None:
    path = pulled(home, "org/tiny/tiny-Q8_0.gguf")
    path.rename(f"{path}.part")
    for command in ("bench", "tune", "chat"):
        assert main([command, "--model", name]) == 3
        assert words in capsys.readouterr().err


def test_a_file_where_a_name_is_asked_for_is_told_as_a_file(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    path = pulled(home, "mine.gguf")
    for command in ("rm", "pull"):
        assert main([command, str(path)]) == 2
        assert f"{path} is a file, and not named by where it is" in capsys.readouterr().err
    assert main(["show", str(path)]) == 2
    assert f"`ultra-launcher plan {path}` says what is in it" in capsys.readouterr().err
    assert path.is_file()
