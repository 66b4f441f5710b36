"""Models on disk from the command line: folders of the window, half-downloaded ones, offline, signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from app.cli.main import main
from app.download import preflight
from app.download.model import DownloadState, DownloadStateChanged
from app.service import AppService
from app.settings.model import Settings
from app.settings.store import SettingsStore
from tests.app.download.conftest import QUICK, Stage, stage, wait_for
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


# --- projectors -------------------------------------------------------------

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


# --- signals ----------------------------------------------------------------


def read_all(terminal: int, until: bytes = b"", timeout_s: float = 30.0) -> bytes:
    """What a process writes to its terminal, to the end or until it has written something."""
    got, deadline = b"", time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (until and until in got):
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65_536)
            except OSError:  # nobody has it open any more
                break
            if not data:
                break
            got += data
    return got


@contextlib.contextmanager
def in_terminal(stage: Stage, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`pull` as the leader of a session whose terminal is ours, once it shows how fast it is."""
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    command = f"exec {sys.executable} -m app pull {' '.join(arguments)} <{name} >{name} 2>&1"
    with subprocess.Popen(
        ["sh", "-c", command],
        env={**os.environ, "HF_ENDPOINT": stage.hub.endpoint, "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
    ) as process:
        try:
            shown = read_all(ours, until=b"MB/s")
            os.close(theirs)
            assert b"\x1b[?25l" in shown, "rich hides the cursor"
            yield process, ours
        finally:
            process.kill()
    with contextlib.suppress(OSError):  # hung up already
        os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was_and_keeps_the_state(
    stage: Stage, model: Path, number: signal.Signals
) -> None:
    stage.hub.rate = 4_000_000
    with in_terminal(stage, MODEL) as (process, terminal):
        wait_for(lambda: stage.hub.sent_bytes > 8_000_000)
        process.send_signal(number)
        shown = read_all(terminal)
        assert process.wait(30) == 128 + number
    text = shown.decode()
    assert "\x1b[?25h" in text, "the cursor is visible again"
    assert "\x1b[?25l" not in text
    assert "Traceback" not in text
    assert re.search(r"Paused at .*goes on from there\.\r\n$", text)
    stage.hub.rate, sent = None, stage.hub.sent_bytes
    size = sum(file.stat().st_size for file in (stage.source / "split").iterdir())
    with pull_process(stage, MODEL, "--json") as again:
        out, err = again.communicate()
    assert again.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["state"] == "done"
    assert stage.hub.sent_bytes - sent < size - 4_000_000


def test_a_terminal_that_hangs_up_pauses_the_download(stage: Stage, model: Path) -> None:
    stage.hub.rate = 4_000_000
    with in_terminal(stage, MODEL) as (process, terminal):
        wait_for(lambda: stage.hub.sent_bytes > 4_000_000)
        os.close(terminal)
        assert process.wait(30) == 128 + signal.SIGHUP
    stage.hub.rate = None
    with pull_process(stage, MODEL, "--json") as again:
        _, err = again.communicate()
    assert again.returncode == 0, err


def test_nohup_stays_in_force(stage: Stage, model: Path) -> None:
    stage.hub.rate = 30_000_000
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = pull_process(stage, MODEL, "--json")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        wait_for(lambda: stage.hub.sent_bytes > 1_000_000)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["state"] == "done"


def test_a_download_paused_by_a_signal_is_paused_in_the_window(stage: Stage, model: Path) -> None:
    stage.hub.rate = 4_000_000
    with pull_process(stage, MODEL) as process:
        wait_for(lambda: stage.hub.sent_bytes > 4_000_000)
        process.terminate()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    service, log = AppService(), Log()
    service.downloads._timing = QUICK
    service.subscribe(log)
    try:
        service.downloads.start()
        event = log.wait(DownloadStateChanged)
        assert event.download.state is DownloadState.PAUSED
        assert event.download.progress.written_bytes > 2_000_000
    finally:
        service.close()


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
