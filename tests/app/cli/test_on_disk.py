"""Models on disk from the command line: folders of the window, half-downloaded ones, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import huggingface_hub
import pytest

from app.cli.main import main
from app.download import preflight
from app.service import AppService
from app.settings.model import Settings
from app.settings.store import SettingsStore
from tests.app.download.conftest import Stage, stage, wait_for
from tests.app.download.test_crash import flip
from tests.app.download.test_pull import MODEL, NAME, events, model, pull_process
from tests.app.service.test_models import Log

__all__ = ["model", "stage"]
SMALL = "hf:org/model:Q8_0"


def remember(home: Path, **folders: tuple[str, ...]) -> None:
    """What the window would have stored."""
    SettingsStore(home / "config" / "settings.json").save(Settings(**folders))  # type: ignore[arg-type]


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> set[str]:
    capsys.readouterr()
    assert main(["models", "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)["on_disk"]
    return {path for one in found for path in one["files"]}


def halve(stage: Stage) -> None:
    """Pull until a part of it is here."""
    stage.hub.rate = 8_000_000
    with pull_process(stage, MODEL, "--connections", "2") as process:
        wait_for(lambda: stage.hub.sent_bytes > 12_000_000)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    stage.hub.rate = None


def cut_off(stage: Stage) -> None:
    """Nobody answers any more, on open connections neither."""
    stage.hub.outage.set()
    huggingface_hub.close_session()


# --- the folders of the window ----------------------------------------------


def test_the_folders_of_the_window_are_looked_into_by_every_command(
    stage: Stage, model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, share = tmp_path / "second disk", tmp_path / "share"
    disk.mkdir()
    share.mkdir()
    remember(home, download_folders=(str(disk),), model_folders=(str(share),))
    assert main(["pull", SMALL]) == 0
    file = disk / "org" / "model" / "tiny-Q8_0.gguf"
    assert str(file) in capsys.readouterr().out
    shutil.copy(file, share / "other-Q8_0.gguf")
    assert listed(capsys) >= {str(file), str(share / "other-Q8_0.gguf")}

    service, log = AppService(), Log()
    service.subscribe(log)
    try:
        service.models.scan()
        wait_for(lambda: bool(service.models.library.models))
        window = {str(path) for one in service.models.library.models for path in one.files}
    finally:
        service.close()
    assert window == listed(capsys)

    assert main(["verify", SMALL]) == 0
    assert f"{file}: verified" in capsys.readouterr().out
    remember(home, model_folders=(str(disk),))  # another one takes the next download
    sent = stage.hub.sent_bytes
    assert main(["pull", SMALL]) == 0
    assert stage.hub.sent_bytes - sent < 100_000, "it is found where it lies"
    assert main(["rm", SMALL, "--yes"]) == 0
    assert not file.exists()


def test_a_folder_that_was_named_once_is_looked_into_from_then_on(
    stage: Stage, model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "another disk"
    assert main(["pull", SMALL, "--to", str(disk)]) == 0
    assert main(["pull", SMALL, "--to", str(disk)]) == 0
    file = disk / "org" / "model" / "tiny-Q8_0.gguf"
    assert str(file) in listed(capsys)
    assert SettingsStore(home / "config" / "settings.json").load()[0].model_folders == (str(disk),)
    assert main(["verify", SMALL]) == 0


def test_a_folder_whose_disk_is_gone_is_not_made_anew(
    stage: Stage, model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(home, download_folders=(str(tmp_path / "gone"),))
    assert main(["pull", SMALL]) == 6
    assert "is not there" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


# --- half downloaded --------------------------------------------------------


def test_verify_of_a_half_downloaded_model_says_how_much_and_how_to_go_on(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    halve(stage)
    cut_off(stage)  # the queue knows what is to come; nobody need be asked
    assert main(["verify", MODEL, "--json"]) == 3
    told = events(capsys)
    *files, whole = told
    assert [one["type"] for one in files] == ["file_checked"] * 3
    assert "incomplete" in [one["state"] for one in files]
    assert not {"missing", "damaged"} & {str(one["state"]) for one in files}
    size = sum((stage.source / "split" / NAME.format(n)).stat().st_size for n in (1, 2, 3))
    assert (whole["state"], whole["size_bytes"]) == ("incomplete", size)
    assert 8_000_000 < int(str(whole["written_bytes"])) < size
    assert whole["command"] == f"pull {MODEL}"
    assert main(["verify", MODEL]) == 3
    out, err = capsys.readouterr()
    assert re.search(r"half downloaded, [\d.]+ MB of [\d.]+ MB", out)
    assert f"`pull {MODEL}` goes on from there" in err
    begun = next(model.glob("*.part"))
    for name in (begun.name, begun.name.removesuffix(".part")):
        assert main(["verify", str(model / name), "--json"]) == 3
        assert events(capsys)[-1]["state"] == "incomplete"
    stage.hub.outage.clear()
    assert main(["pull", MODEL, "--json"]) == 0
    assert main(["verify", MODEL]) == 0


def test_verify_names_a_shard_that_somebody_deleted(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", MODEL, "--json"]) == 0
    (model / NAME.format(2)).unlink()
    capsys.readouterr()
    assert main(["verify", MODEL, "--json"]) == 3
    assert [one["state"] for one in events(capsys)[:-1]] == ["verified", "missing", "verified"]


# --- no checksum ------------------------------------------------------------


def test_without_a_published_checksum_it_is_neither_verified_nor_damaged(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without: list[dict[str, object]] = [
        {key: entry[key] for key in ("type", "path", "size")}
        for entry in stage.hub.tree("org/model")
    ]
    monkeypatch.setattr(stage.hub, "tree", lambda _name: without)
    stage.hub.faults.linked_etag = "of-its-own"
    assert main(["pull", MODEL]) == 0
    out = capsys.readouterr().out
    assert "complete, not checked (no checksum published)" in out
    assert "verified" not in out.replace("0 of 3 verified", "")
    assert main(["verify", MODEL]) == 0
    out, err = capsys.readouterr()
    assert out.count(": not checked (no checksum published)") == 3
    assert "damaged" not in out + err
    assert "verified" not in out + err
    assert main(["verify", MODEL, "--json"]) == 0
    assert {one["state"] for one in events(capsys)} == {"not_checked"}
    with (model / NAME.format(2)).open("r+b") as stream:
        stream.truncate(1_000)
    assert main(["verify", MODEL, "--json"]) == 3, "its size is known"


# --- offline ----------------------------------------------------------------


def test_offline_a_whole_model_is_already_here(
    stage: Stage, model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", MODEL, "--json"]) == 0
    cut_off(stage)
    capsys.readouterr()
    assert main(["pull", MODEL]) == 0
    assert "It has the checksum of its download" in capsys.readouterr().out

    shutil.rmtree(home / "data")  # no records
    assert main(["pull", MODEL]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Already here: {model / NAME.format(1)}")
    assert "its checksum is not known here" in out
    assert main(["pull", MODEL, "--json"]) == 0
    assert events(capsys)[-1]["checked"] == "headers"

    stage.hub.outage.clear()
    assert main(["show", "hf:org/model"]) == 0  # the list of files is kept
    cut_off(stage)
    capsys.readouterr()
    assert main(["pull", MODEL]) == 0
    assert "It has the checksum that the Hub told" in capsys.readouterr().out


def test_offline_what_is_not_whole_or_not_right_is_no_success(
    stage: Stage, model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", MODEL, "--json"]) == 0
    flip(model / NAME.format(3), 1_000_000)
    os.utime(model / NAME.format(3), ns=(0, 0))
    cut_off(stage)
    assert main(["pull", MODEL]) == 3
    assert "but damaged" in capsys.readouterr().err
    shutil.rmtree(home / "data")
    with (model / NAME.format(3)).open("r+b") as stream:
        stream.truncate(4_000_000)
    assert main(["pull", MODEL]) == 3
    (model / NAME.format(3)).unlink()
    assert main(["pull", MODEL]) == 9


# --- rm and the queue -------------------------------------------------------


def test_what_another_process_downloads_is_not_deleted_by_halves(
    stage: Stage, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.hub.rate = 6_000_000
    with pull_process(stage, MODEL, "--json") as process:
        wait_for((model / NAME.format(1)).exists)
        wait_for((model / (NAME.format(2) + ".part")).exists)
        assert main(["rm", MODEL, "--yes"]) == 6
        assert "another process" in capsys.readouterr().err
        stage.hub.rate = None
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["state"] == "done"
    assert main(["verify", MODEL]) == 0


def test_a_download_that_has_not_begun_can_be_taken_out_of_the_queue(
    stage: Stage,
    model: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "MARGIN_BYTES", 2**60)
    assert main(["pull", MODEL]) == 6
    assert list((home / "data" / "downloads" / "jobs").iterdir())
    assert main(["rm", MODEL, "--yes"]) == 0
    assert "Taken out of the queue" in capsys.readouterr().out
    assert not list((home / "data" / "downloads" / "jobs").iterdir())
    assert not model.exists()
    assert main(["rm", MODEL, "--yes"]) == 3


# --- the same command goes on -----------------------------------------------


def test_without_a_quantization_the_same_command_goes_on_with_the_commit_of_before(
    stage: Stage, model: Path, home: Path
) -> None:
    del stage.hub.files["org/model/tiny-Q8_0.gguf"]
    stage.hub.rate = 8_000_000
    with pull_process(stage, "hf:org/model") as process:
        wait_for(lambda: stage.hub.sent_bytes > 12_000_000)
        process.terminate()
        process.communicate()
    stage.hub.rate = None
    stage.hub.revisions = {"main": "d" * 40, "old": "c" * 40}
    assert main(["verify", "hf:org/model", "--json"]) == 3
    assert main(["pull", "hf:org/model", "--json"]) == 0
    commits = {r.path.split("/")[4] for r in stage.hub.requests if "/resolve/" in r.path}
    assert commits == {"c" * 40}
    assert not list((home / "data" / "downloads" / "jobs").iterdir())


def test_the_limit_of_the_window_holds_for_pull_unless_it_says_otherwise(
    stage: Stage, model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SettingsStore(home / "config" / "settings.json").save(Settings(download_limit=20_000_000))
    begun = time.monotonic()
    assert main(["pull", SMALL, "--json"]) == 0
    slow_s = time.monotonic() - begun
    size = (model / "tiny-Q8_0.gguf").stat().st_size
    assert slow_s > 0.8 * size / 20_000_000
    assert main(["rm", SMALL, "--yes"]) == 0
    begun = time.monotonic()
    assert main(["pull", SMALL, "--json", "--limit", "none"]) == 0
    assert time.monotonic() - begun < slow_s
    assert main(["pull", SMALL, "--limit", "fast"]) == 2
