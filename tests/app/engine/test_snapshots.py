"""A chat's KV cache on disk: saved, restored, refused when stale, and never too large."""

from __future__ import annotations

import dataclasses
import itertools
import os
import queue
import shutil
from pathlib import Path

import pytest

from app import jsonfile
from app.engine import protocol
from app.engine.snapshots import SnapshotStore
from app.engine.supervisor import EngineSupervisor
from app.errors import AppError, ErrorKind
from app.units import GIB, MIB
from tests.helpers.engines import answer, engine, is_error, is_loaded, load, talk

STORY = "The keeper of the lighthouse wrote down the weather in a large book. " * 12
_numbers = itertools.count(1)


def take(supervisor: EngineSupervisor, action: str, path: Path = Path()) -> protocol.SnapshotDone:
    done: queue.Queue[protocol.SnapshotDone | AppError] = queue.Queue()
    command = {"action": action, "request": next(_numbers), "path": str(path)}
    supervisor.snapshot(protocol.Snapshot.model_validate(command), done.put)
    found = done.get(timeout=60)
    if isinstance(found, AppError):
        raise found
    return found


def test_saved_by_one_process_and_used_by_the_next(tmp_path: Path, starter_model: Path) -> None:
    store = SnapshotStore(tmp_path / "kv", GIB)
    command = load(starter_model)
    with engine() as (supervisor, events):
        supervisor.load(command)
        events.until(is_loaded)
        first = answer(supervisor, events, talk(STORY), limit=4)
        expected = take(supervisor, "measure")
        assert expected.tokens == first.finished.context_used
        saved = take(supervisor, "save", store.make_room("chat", expected.size_bytes))
        assert abs(saved.size_bytes - expected.size_bytes) < 64 * 1024
        store.keep("chat", command, "1")
        assert store.total_bytes() == saved.size_bytes
    with engine() as (supervisor, events):
        supervisor.load(command)
        events.until(is_loaded)
        path = store.usable("chat", command, "1")
        assert path is not None
        assert take(supervisor, "restore", path).tokens == saved.tokens
        again = answer(supervisor, events, talk(STORY), limit=4)
        assert again.evaluated == 1, "all of the prompt came from the file"
        follow = answer(supervisor, events, talk(STORY, again.text, "And then?"), limit=4)
        assert follow.finished.reused_tokens > first.finished.prompt_tokens - 2
        with pytest.raises(AppError):
            take(supervisor, "restore", starter_model)
        assert answer(supervisor, events, talk(STORY), limit=4).finished.reused_tokens == 0
        os.truncate(path, saved.size_bytes // 2)
        assert store.usable("chat", command, "1") is None
    with pytest.raises(AppError), engine() as (supervisor, _):
        take(supervisor, "measure")


def test_a_full_disk_costs_the_snapshot_and_nothing_else(
    tmp_path: Path, starter_model: Path
) -> None:
    full = tmp_path / "chat.kv"
    full.symlink_to("/dev/full")
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        before = answer(supervisor, events, talk(STORY), limit=4)
        with pytest.raises(AppError) as error:
            take(supervisor, "save", full)
        assert error.value.kind is ErrorKind.DISK
        assert not full.is_symlink(), "nothing is left that could be taken for a snapshot"
        after = answer(supervisor, events, talk(STORY), limit=4)
        assert after.finished.reused_tokens >= before.finished.prompt_tokens - 1


def test_stale_ones_are_thrown_away_and_old_ones_make_room(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    command = protocol.Load(model_path=str(model), context=1024)
    store = SnapshotStore(tmp_path / "kv", 10 * MIB)

    def put(chat: str, size: int, age: int = 9) -> Path:
        path = store.make_room(chat, size)
        path.write_bytes(bytes(size))
        os.utime(path, (age, age))
        store.keep(chat, command, "1")
        return path

    for change in ({"kv_type_k": "q8_0"}, {"flash_attention": "off"}):
        path = put("a", MIB)
        assert store.usable("a", command, "1") == path
        assert store.usable("a", command.model_copy(update=change), "1") is None
        assert not path.exists()
    put("a", MIB)
    assert store.usable("a", command, "2") is None
    put("a", MIB)
    model.write_bytes(b"other weights")
    assert store.usable("a", command, "1") is None
    for age, chat in enumerate("abc"):
        put(chat, 3 * MIB, age)
    put("d", 4 * MIB)
    assert [store.usable(chat, command, "1") is not None for chat in "abcd"] == [
        False, True, True, True,
    ]  # fmt: skip
    with store.path("c").open("r+b") as file:
        file.write(b"other")
    assert store.usable("c", command, "1") is None, "of the same size, but not what was saved"
    store.forget("d")
    assert store.total_bytes() == 3 * MIB
    with pytest.raises(AppError, match="in all"):
        store.make_room("e", 11 * MIB)


def test_no_snapshot_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage

    def nearly_full(path: Path) -> object:
        return dataclasses.make_dataclass("Usage", ["free"])(free=min(3 * GIB, real(path).free))

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    with pytest.raises(AppError) as error:
        SnapshotStore(tmp_path, 100 * GIB).make_room("a", 2 * GIB)
    assert error.value.kind is ErrorKind.DISK


def test_a_folder_that_takes_nothing_is_named(tmp_path: Path, starter_model: Path) -> None:
    (tmp_path / "kv").write_text("no folder")
    store = SnapshotStore(tmp_path / "kv", GIB)
    with pytest.raises(AppError, match="could not be saved") as error:
        store.make_room("chat", MIB)
    assert error.value.kind is ErrorKind.DISK
    with pytest.raises(AppError, match="could not be saved"):
        store.keep("chat", load(starter_model), "1")


@pytest.mark.parametrize("owner", [10**30, -1, 0, "1", None])
def test_a_note_that_names_no_process_is_thrown_away(tmp_path: Path, owner: object) -> None:
    store = SnapshotStore(tmp_path, GIB)
    path = store.make_room("chat", MIB)
    path.write_bytes(b"x")
    jsonfile.write(path.with_suffix(".json"), {"made_with": {}, "owner": owner})
    store.clean()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_ends_early_says_what_became_of_the_engine(
    tmp_path: Path, starter_model: Path
) -> None:
    path = tmp_path / "chat.kv"
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        answer(supervisor, events, talk(STORY), limit=4)
        size_bytes = take(supervisor, "save", path).size_bytes
        os.truncate(path, size_bytes // 2)
        with pytest.raises(AppError) as error:
            take(supervisor, "restore", path)
        assert error.value.detail == "The engine stopped meanwhile."
        events.until(is_error)
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        assert answer(supervisor, events, talk(STORY), limit=4).text
