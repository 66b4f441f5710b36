"""Names, sizes and links that no honest repository has."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from app import units
from app.download import preflight
from app.download.model import DownloadError, Reason
from app.download.records import Records
from app.download.set_run import SetRun
from tests.app.download.conftest import Stage

SIZE = units.MIB


def test_hostile_names_are_refused(stage: Stage) -> None:
    request = stage.serve(SIZE)
    bad = ["../evil", "/etc/evil", "a/../../b", "C:\\evil", "a\\b", "a\nb", "con", "NUL.gguf", "x" * 250, "",
           ".", "a//b", "a/", "trailing.", "a:b", "\u202egpj.gguf"]  # fmt: skip
    for path in bad:
        evil = dataclasses.replace(request.files[0], path=path)
        with pytest.raises(DownloadError) as caught:
            preflight.check_names(dataclasses.replace(request, files=(evil,)))
        assert caught.value.reason is Reason.UNSAFE_NAME
    for repo in ("../x", "a/..", "a", "a/b/c", "/etc", "a\\b/c", "con/x"):
        with pytest.raises(DownloadError):
            preflight.check_names(dataclasses.replace(request, repo=repo))
    for size in (-1, 2**60):
        huge = dataclasses.replace(request.files[0], size_bytes=size)
        with pytest.raises(DownloadError):
            preflight.check_names(dataclasses.replace(request, files=(huge,)))
    twice = dataclasses.replace(request.files[0], path="FILE-0.bin")
    with pytest.raises(DownloadError):
        preflight.check_names(dataclasses.replace(request, files=(request.files[0], twice)))
    preflight.check_names(request)


def test_links_out_of_the_folder_are_not_followed(stage: Stage, tmp_path: Path) -> None:
    request = stage.serve(SIZE)
    outside = tmp_path / "outside"
    outside.mkdir()
    request.folder.mkdir()
    (request.folder / "org").symlink_to(outside)
    with pytest.raises(DownloadError):
        preflight.check_names(request)
    (request.folder / "org").unlink()
    target = request.target(request.files[0])
    target.parent.mkdir(parents=True)
    (target.parent / "file-0.bin.part").symlink_to(outside / "stolen")
    with pytest.raises(DownloadError):
        preflight.check_names(request)
    assert not list(outside.iterdir())


def test_paths_that_are_too_long(stage: Stage) -> None:
    request = stage.serve(units.MIB)
    deep = request.folder.joinpath(*["d" * 200] * (os.pathconf("/", "PC_PATH_MAX") // 200))
    with pytest.raises(DownloadError) as caught:
        SetRun(dataclasses.replace(request, folder=deep), Records(stage.state)).run()
    assert caught.value.reason is Reason.DISK
