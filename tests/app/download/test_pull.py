"""The command line: `pull`, `verify`, `rm`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.catalog import api
from app.cli.main import main
from app.gguf.reader import read_layout
from tests.app.download.conftest import Stage, point_at, wait_for
from tests.app.download.test_crash import flip
from tests.helpers import shards
from tests.helpers.faulty_hub import Fault
from tests.helpers.hub import COMMIT

MODEL = "hf:org/model:Q4_1"
NAME = "tiny-Q4_1-0000{}-of-00003.gguf"


@pytest.fixture
def model(stage: Stage, starter_model: Path, home: Path) -> Path:
    """A split model on the hub, and another quantization; returns the folder it is to go to."""
    layout = read_layout(starter_model)
    plain = {k: v for k, v in layout.metadata.items() if not isinstance(v, tuple)}
    layout = dataclasses.replace(layout, metadata=plain)
    for file in shards.write(layout, stage.source / "split", "tiny-Q4_1", 3):
        stage.hub.add(f"org/model/{file.name}", file)
    stage.hub.add("org/model/tiny-Q8_0.gguf", starter_model)
    stage.hub.add("org/model/README.md", Path(__file__))
    return home / "models" / "org" / "model"


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_pull_verify_rm(stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", MODEL, "--json"]) == 0
    told = events(capsys)
    assert told[-1]["state"] == "done"
    assert {e["type"] for e in told} == {"state_changed", "progressed", "file_verified"}
    assert sorted(p.name for p in model.iterdir()) == [NAME.format(n) for n in (1, 2, 3)]
    assert read_layout(model / NAME.format(2)).block_count > 0
    sent = stage.hub.sent_bytes
    assert main(["pull", MODEL]) == 0
    assert "verified" in capsys.readouterr().out
    assert stage.hub.sent_bytes - sent < 100_000  # lists, no files

    assert main(["verify", MODEL]) == 0
    assert main(["verify", str(model / NAME.format(1)), "--json"]) == 0
    capsys.readouterr()
    flip(model / NAME.format(3), 1_000_000)
    os.utime(model / NAME.format(3), ns=(0, 0))
    assert main(["verify", MODEL, "--json"]) == 3
    checked = events(capsys)
    assert [e["state"] for e in checked[:-1]] == ["verified", "verified", "damaged"]
    assert (checked[-1]["type"], checked[-1]["state"]) == ("model_checked", "damaged")
    assert checked[-1]["command"] == f"pull {MODEL}"
    sent = stage.hub.sent_bytes
    assert main(["pull", MODEL, "--json"]) == 0
    assert stage.hub.sent_bytes - sent < 1_200_000
    assert main(["verify", MODEL]) == 0

    assert main(["rm", MODEL]) == 2  # nobody to ask
    capsys.readouterr()
    assert main(["rm", MODEL, "--yes"]) == 0
    assert capsys.readouterr().out.startswith("Deleted 3 files, ")
    assert not model.exists()
    assert main(["rm", MODEL, "--yes"]) == 3


def test_one_file_is_one_file(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "hf:org/model:Q8_0"]) == 0
    capsys.readouterr()
    assert main(["rm", "hf:org/model:Q8_0", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("Deleted 1 file, ")


def pull_process(stage: Stage, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "pull", *arguments],
        env={**os.environ, "HF_ENDPOINT": stage.hub.endpoint, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_pauses_and_the_same_command_goes_on(stage: Stage, model: Path) -> None:
    stage.hub.rate = 8_000_000
    with pull_process(stage, MODEL) as process:
        wait_for(lambda: stage.hub.sent_bytes > 20_000_000)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Paused at" in out
    stage.hub.rate = None
    stage.hub.revisions["main"] = "d" * 40  # the branch moves, the download does not
    stage.hub.revisions["old"] = "c" * 40
    sent = stage.hub.sent_bytes
    size = sum(file.stat().st_size for file in (stage.source / "split").iterdir())
    with pull_process(stage, MODEL) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "The branch has moved to dddddddddddd" in out
    assert stage.hub.sent_bytes - sent < size - 12_000_000
    assert sorted(p.name for p in model.iterdir()) == [NAME.format(n) for n in (1, 2, 3)]


def test_pull_from_a_folder(
    stage: Stage, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pull", MODEL, "--from", str(stage.source / "split"), "--to", str(tmp_path / "t")]
    assert main(arguments) == 0
    assert not any(request.host == "localhost" for request in stage.hub.requests)
    assert (tmp_path / "t" / "org" / "model" / NAME.format(3)).exists()
    shutil.rmtree(tmp_path / "t")
    flip(stage.source / "split" / NAME.format(3), 5_000_000)
    assert main(["pull", MODEL, "--from", str(tmp_path / "absent")]) == 3


@pytest.mark.parametrize(
    "place", ["a/b", f"models--org--model/snapshots/{COMMIT}", f"hub/models--org--model/x/{COMMIT}"]
)
def test_a_copy_is_found_below_the_folder_that_is_named(
    stage: Stage, model: Path, tmp_path: Path, place: str
) -> None:
    for file in (stage.source / "split").iterdir():
        (tmp_path / "disk" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "disk" / place)
    wrong = tmp_path / "disk" / "0" / NAME.format(2)
    wrong.parent.mkdir()
    wrong.write_bytes(b"of another size")
    assert main(["pull", MODEL, "--from", str(tmp_path / "disk")]) == 0
    assert not any(request.host == "localhost" for request in stage.hub.requests)
    assert main(["rm", MODEL, "--yes"]) == 0
    one = tmp_path / "disk" / place / NAME.format(1)
    assert main(["pull", MODEL, "--from", str(one)]) == 0, "one of its files was named"


def test_a_copy_is_checked_by_what_the_hub_said_before_it_was_out_of_reach(
    stage: Stage,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = ["pull", MODEL, "--from", str(stage.source / "split")]
    assert main(["show", "hf:org/model"]) == 0
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert main(copy) == 9, "what another Hub said is not taken"
    point_at(monkeypatch, stage.hub.endpoint)
    stage.hub.faults.status = 404
    assert main(copy) == 3, "it was reached, and has no such model"
    monkeypatch.setattr(api, "BACK_OFF_S", 0.01)
    stage.hub.faults.statuses = [-1] * 100
    capsys.readouterr()
    assert main(copy) == 0
    assert "Checked by what it said" in capsys.readouterr().err
    assert (model / NAME.format(3)).is_file()
    flip(stage.source / "split" / NAME.format(3), 5_000_000)
    assert main(["rm", MODEL, "--yes"]) == 0
    assert main(copy) == 3
    assert "choose another copy" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_copy_keeps_nobody_waiting(
    stage: Stage, model: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    os.mkfifo(disk / NAME.format(1))
    assert main(["pull", MODEL, "--from", str(disk)]) == 3


def test_errors_have_their_exit_codes(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "hf:org/absent"]) in (3, 9)
    assert main(["pull", "no-such-model"]) == 2
    assert main(["pull", "hf:org/model:Q2_K"]) in (2, 3)
    stage.hub.always = Fault(flip_at=1_000_000)
    assert main(["pull", "hf:org/model:Q8_0", "--json"]) == 3
    assert events(capsys)[-1]["type"] == "error"


def test_a_set_that_is_no_model_is_told(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.hub.files[f"org/model/{NAME.format(2)}"] = stage.source / "split" / NAME.format(3)
    assert main(["pull", MODEL]) == 3
    assert "calls itself" in capsys.readouterr().err
