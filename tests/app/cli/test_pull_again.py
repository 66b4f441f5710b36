"""What a `pull` that went wrong leaves to the next one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.main import main
from app.settings.store import SettingsStore
from tests.app.cli.test_on_disk import SMALL
from tests.app.cli.test_pull_signals import read_all
from tests.app.download.conftest import Stage, stage
from tests.app.download.test_pull import model

__all__ = ["model", "stage"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_takes_no_models_is_neither_remembered_nor_gone_on_with(
    stage: Stage, model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    assert main(["pull", SMALL, "--to", str(tmp_path / place)]) == 6
    assert "--to" in capsys.readouterr().err
    assert not SettingsStore(home / "config" / "settings.json").load()[0].model_folders
    assert main(["pull", SMALL]) == 0
    assert (home / "models" / "org" / "model" / "tiny-Q8_0.gguf").is_file()


def test_what_was_to_come_from_a_folder_comes_from_the_hub_unless_that_is_said_again(
    stage: Stage, model: Path, tmp_path: Path
) -> None:
    assert main(["pull", SMALL, "--from", str(tmp_path / "gone")]) == 3
    assert main(["pull", SMALL]) == 0


def test_on_a_terminal_the_line_that_counts_makes_room_for_the_result(
    stage: Stage, model: Path
) -> None:
    assert main(["pull", SMALL]) == 0
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "verify", SMALL]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = read_all(ours)
    os.close(ours)
    before, _, result = shown.decode().rpartition("\r\x1b[K")
    assert before.endswith("tiny-Q8_0.gguf: 100 % ")
    assert result.strip().endswith("tiny-Q8_0.gguf: verified")


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["bars", "json"])
def test_output_that_nobody_takes_ends_in_a_sentence_and_its_exit_code(
    stage: Stage, model: Path, as_json: list[str]
) -> None:
    def run(output: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app", "pull", SMALL, *as_json],
            env=os.environ | {"HF_ENDPOINT": stage.hub.endpoint},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    full = os.open("/dev/full", os.O_WRONLY)
    ended = run(full)
    os.close(full)
    assert ended.returncode == 6
    assert ended.stderr.startswith("Error: The output cannot be written: ")
    assert len(ended.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    gone = run(writer)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (141, "")
