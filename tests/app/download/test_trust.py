"""What a server, a proxy or a copy says that cannot be right, and what the queue makes of it."""

from __future__ import annotations

import dataclasses

import pytest

from app import units
from app.download import text
from app.download.model import DownloadState, FileVerified, Reason
from tests.app.download.conftest import Log, Make, Stage, reach

SIZE = 4 * units.MIB
State = DownloadState


@pytest.mark.parametrize("published", [True, False])
def test_a_file_without_a_digest_is_called_verified_only_by_the_hubs(
    stage: Stage, log: Log, make: Make, published: bool
) -> None:
    request = stage.serve(SIZE)
    file = dataclasses.replace(request.files[0], sha256=None)
    bare = dataclasses.replace(request, files=(file,))
    stage.hub.faults.linked_etag = None if published else "of-its-own"
    target = request.target(file)
    target.parent.mkdir(parents=True)
    target.write_bytes(bytes(SIZE))  # of the right size, and nothing else
    manager = make()
    id = manager.add(bare)
    done = reach(manager, id, State.DONE)
    stage.assert_right(request)
    assert done.progress.verified_files == published
    assert ("no digest" in text.describe(done)) is not published
    told = [event for event in log.events if isinstance(event, FileVerified)]
    assert len(told) == published
    assert manager.records.verified.knows(target, request.files[0]) is published


def test_the_hubs_digest_is_compared_where_the_list_has_none(stage: Stage, make: Make) -> None:
    request = stage.serve(SIZE)
    file = dataclasses.replace(request.files[0], sha256=None)
    stage.hub.faults.linked_etag = "0" * 64
    manager = make()
    id = manager.add(dataclasses.replace(request, files=(file,)))
    assert reach(manager, id, State.FAILED).reason is Reason.DAMAGED
    assert not request.target(file).exists()
