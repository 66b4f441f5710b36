"""Names, sizes and links that no honest repository has."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from app import units
from app.download import preflight
from app.download.model import DownloadError, DownloadState, Reason
from app.download.records import Records
from app.download.set_run import SetRun
from tests.app.download.conftest import Make, Stage, reach, wait_for
from tests.helpers.faulty_hub import Fault

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


@pytest.mark.parametrize("ending", ["", ".part"])
def test_a_folder_in_the_place_of_a_file_is_told_before_the_first_byte(
    stage: Stage, ending: str
) -> None:
    request = stage.serve(SIZE, SIZE)
    target = request.target(request.files[1])
    target.with_name(target.name + ending).mkdir(parents=True)
    with pytest.raises(DownloadError, match="something else is in its place") as caught:
        SetRun(request, Records(stage.state)).run()
    assert caught.value.reason is Reason.DISK
    assert not stage.hub.requests


def test_a_link_is_told_as_a_link_and_the_queue_outlives_it(
    stage: Stage, make: Make, tmp_path: Path
) -> None:
    request = stage.serve(SIZE)
    stage.hub.always = Fault(stall_after=1000)
    first = make()
    id = first.add(request)
    wait_for(lambda: stage.hub.storage_requests > 0)
    first.pause(id)
    first.close()
    moved = request.folder / "org"
    for goal in (tmp_path / "other disk", moved):  # out of the folder, and to itself
        shutil.rmtree(moved) if not moved.is_symlink() else moved.unlink()
        moved.symlink_to(goal)
        manager = make()
        assert [d.id for d in manager.downloads()] == [id]
        manager.resume(id)
        error = reach(manager, id, DownloadState.FAILED).error
        assert error is not None
        assert str(request.folder) in error.title
        assert "repository" not in error.hint
        manager.close()
    moved.unlink()
    stage.hub.always = None
    last = make()
    last.resume(id)
    reach(last, id, DownloadState.DONE)
    stage.assert_right(request)


def test_paths_that_are_too_long(stage: Stage) -> None:
    request = stage.serve(units.MIB)
    deep = request.folder.joinpath(*["d" * 200] * (os.pathconf("/", "PC_PATH_MAX") // 200))
    with pytest.raises(DownloadError) as caught:
        SetRun(dataclasses.replace(request, folder=deep), Records(stage.state)).run()
    assert caught.value.reason is Reason.DISK
