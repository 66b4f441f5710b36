"""Projectors (mmproj) from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.cli.main import main
from tests.app.cli.test_on_disk import SMALL, halve
from tests.app.download.conftest import Stage, stage
from tests.app.download.test_pull import MODEL, model

__all__ = ["model", "stage"]
PROJECTOR = "mmproj-F16.gguf"


@pytest.fixture
def seeing(stage: Stage, model: Path, starter_model: Path) -> Path:
    """The model with a projector on the hub; returns where that is to go."""
    shutil.copy(starter_model, stage.source / PROJECTOR)
    stage.hub.add(f"org/model/{PROJECTOR}", stage.source / PROJECTOR)
    return model / PROJECTOR


def test_a_projector_comes_along_where_it_is_wanted(
    stage: Stage, model: Path, seeing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "hf:org/model"]) == 0
    out = capsys.readouterr().out
    assert "projector for pictures or sound, which this app does not run yet" in out
    assert "--mmproj" in out
    assert main(["pull", MODEL, "--json"]) == 0
    assert not seeing.exists(), "nobody asked for it"
    sent = stage.hub.sent_bytes
    assert main(["pull", MODEL, "--mmproj", "--json"]) == 0
    size = seeing.stat().st_size
    assert size <= stage.hub.sent_bytes - sent < size + 100_000, "the model is here already"

    capsys.readouterr()
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert f"with {PROJECTOR}, projector for pictures or sound" in out
    assert main(["models", "--json"]) == 0
    (one,) = (m for m in json.loads(capsys.readouterr().out)["on_disk"] if m["repo"])
    assert one["projectors"] == [str(seeing)]
    assert (one["state"], len(one["files"])) == ("complete", 3)

    assert main(["verify", MODEL]) == 0
    assert f"{seeing}: verified" in capsys.readouterr().out
    assert main(["pull", SMALL, "--json"]) == 0
    assert main(["rm", MODEL, "--yes"]) == 0
    assert seeing.exists(), "another quantization is here that it is for"
    assert main(["rm", SMALL, "--yes"]) == 0
    assert not model.exists()


def test_a_projector_that_is_wanted_later_joins_the_download_that_was_begun(
    stage: Stage, model: Path, seeing: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halve(stage)
    sent = stage.hub.sent_bytes
    assert main(["pull", MODEL, "--mmproj", "--json"]) == 0
    assert seeing.exists()
    size = sum(file.stat().st_size for file in (stage.source / "split").iterdir())
    assert stage.hub.sent_bytes - sent < size + seeing.stat().st_size - 4_000_000
    assert not list((home / "data" / "downloads" / "jobs").iterdir()), "one entry of the queue"


def test_a_repository_without_a_projector_says_so(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", MODEL, "--mmproj"]) == 3
    assert "has no projector" in capsys.readouterr().err
    assert not model.exists()


def test_a_projector_alone_is_one_file(
    stage: Stage, model: Path, seeing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = f"hf:org/model/{PROJECTOR}"
    assert main(["pull", alone, "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", alone]) == 0
    assert capsys.readouterr().out == f"{seeing}: verified\n"
    assert main(["models"]) == 0
    assert PROJECTOR not in capsys.readouterr().out, "it is no model"
    assert main(["rm", alone, "--yes"]) == 0
    assert capsys.readouterr().out.startswith("Deleted 1 file, ")
