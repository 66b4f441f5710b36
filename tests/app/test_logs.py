from __future__ import annotations

import logging
import shutil

import pytest

from app import logs


def test_a_record_stands_once_in_the_log_however_often_it_was_opened() -> None:
    logs.configure()
    logs.configure()
    logging.getLogger("app.test").warning("the only one")
    assert logs.path().read_text().count("the only one") == 1


def test_a_log_that_cannot_be_written_any_more_says_nothing_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logs.configure()
    folder = logs.path().parent
    shutil.rmtree(folder)
    folder.write_text("in the way")
    logging.getLogger("app.test").warning("lost")
    assert capfd.readouterr().err == ""


def test_the_first_log_goes_to_stderr_where_its_folder_cannot_be_made(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.path().parent.parent.mkdir(parents=True)
    logs.path().parent.write_text("in the way")
    logs.configure()
    logging.getLogger("app.test").warning("seen")
    assert "seen" in capfd.readouterr().err
