from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.catalog import walk
from app.catalog.library import Library, LocalModel, State, scan
from app.catalog.places import Origin, Place, places
from app.gguf import bundled
from tests.helpers import headers, shards

TENSOR = headers.tensor("token_embd.weight", [32, 8])


def model(path: Path, name: str = "Tiny") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = [*headers.tiny_keys(), headers.string_key("general.name", name)]
    return headers.write(path, keys, [TENSOR])


def look(*folders: Path, origin: Origin = Origin.FOLDER, cache: Path | None = None) -> Library:
    return scan([Place(origin=origin, folder=folder) for folder in folders], cache)


def only(found: Library) -> LocalModel:
    (one,) = found.models
    return one


def states(found: Library) -> dict[str, State]:
    return {one.files[0].name: one.state for one in found.models}


def test_a_whole_model_is_told_by_its_header(tmp_path: Path) -> None:
    path = model(tmp_path / "a" / "tiny-Q8_0.gguf")
    one = only(look(tmp_path))
    assert (one.state, one.name, one.quantization) == (State.COMPLETE, "Tiny", "Q8_0")
    assert (one.files, one.size_bytes) == ((path,), path.stat().st_size)
    assert (one.architecture, one.context_length) == ("llama", 128)


def test_shards_are_one_model_and_a_gap_is_named(tmp_path: Path) -> None:
    layout = bundled.layout("nemotron-super-49b:Q2_K")
    whole = shards.write(layout, tmp_path / "whole", "S-Q2_K", 3)
    gap = shards.write(layout, tmp_path / "gap", "S-Q2_K", 3)
    gap[1].unlink()
    begun = shards.write(layout, tmp_path / "begun", "S-Q2_K", 3)
    begun[2].rename(begun[2].with_name(begun[2].name + ".part"))
    found = {one.files[0].parent.name: one for one in look(tmp_path).models}
    assert found["whole"].state is State.COMPLETE
    assert found["whole"].files == tuple(whole)
    assert found["whole"].parameter_count == layout.parameter_count
    assert found["gap"].state is State.INCOMPLETE
    assert found["gap"].reason == "S-Q2_K-00002-of-00003.gguf is missing."
    assert "00003-of-00003.gguf is missing. Its download has not ended." in found["begun"].reason
    assert found["begun"].size_bytes < found["whole"].size_bytes, "what is written counts"


@pytest.mark.parametrize(
    "suffix", ["part", "incomplete", "crdownload", "downloading", "downloadInProgress"]
)
def test_a_begun_download_is_incomplete_until_the_file_is_there(
    tmp_path: Path, suffix: str
) -> None:
    part = model(tmp_path / "tiny.gguf").rename(tmp_path / f"tiny.gguf.{suffix}")
    assert only(look(tmp_path)).state is State.INCOMPLETE
    shutil.copy(part, tmp_path / "tiny.gguf")
    assert only(look(tmp_path)).state is State.COMPLETE


def test_shards_of_a_set_that_is_being_replaced_are_not_taken_for_whole(tmp_path: Path) -> None:
    layout = bundled.layout("nemotron-super-49b:Q2_K")
    paths = shards.write(layout, tmp_path / "set", "S-Q2_K", 3)
    with paths[1].with_name(paths[1].name + ".part").open("wb") as stream:
        stream.truncate(paths[1].stat().st_size)
    one = only(look(tmp_path))
    assert (one.state, one.reason) == (State.INCOMPLETE, "Its download has not ended.")


def test_a_file_that_aria2_still_writes_is_incomplete(tmp_path: Path) -> None:
    model(tmp_path / "tiny.gguf")
    (tmp_path / "tiny.gguf.aria2").write_bytes(b"control")
    one = only(look(tmp_path))
    assert one.state is State.INCOMPLETE
    assert "not ended" in one.reason


def test_damage_is_found_and_told(tmp_path: Path) -> None:
    cut = model(tmp_path / "cut.gguf")
    os.truncate(cut, cut.stat().st_size - 8000)
    short = model(tmp_path / "short.gguf")
    os.truncate(short, 60)
    (tmp_path / "page.gguf").write_bytes(b"<html>not found</html>" * 9)
    (tmp_path / "empty.gguf").touch()
    model(tmp_path / "good.gguf")
    found = {one.files[0].stem: one for one in look(tmp_path).models}
    assert {name: one.state for name, one in found.items() if name != "good"} == dict.fromkeys(
        ("cut", "short", "page", "empty"), State.DAMAGED
    )
    assert found["good"].state is State.COMPLETE
    assert "not complete" in found["cut"].reason
    assert "letters GGUF" in found["page"].reason


def test_a_shard_of_another_model_is_damage(tmp_path: Path) -> None:
    layout = bundled.layout("nemotron-super-49b:Q2_K")
    files = shards.write(layout, tmp_path, "S-Q2_K", 3)
    files[1].unlink()
    files[1].hardlink_to(files[2])
    one = only(look(tmp_path))
    assert one.state is State.DAMAGED
    assert "calls itself shard 2" in one.reason


def test_links_and_copies_by_link_count_once(tmp_path: Path) -> None:
    path = model(tmp_path / "one" / "tiny.gguf")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "hard.gguf").hardlink_to(path)
    (tmp_path / "two" / "soft.gguf").symlink_to(path)
    (tmp_path / "two" / "loop").symlink_to(tmp_path)
    assert only(look(tmp_path / "one", tmp_path / "two", tmp_path)).files == (path,)


def test_a_link_to_a_file_that_is_gone_is_an_incomplete_model(tmp_path: Path) -> None:
    repo = tmp_path / "models--acme--Tiny-GGUF"
    for commit in ("a" * 40, "b" * 40):
        for name in ("Tiny-Q8_0.gguf", "Big-Q8_0-00001-of-00002.gguf", "mmproj-F16.gguf"):
            link = repo / "snapshots" / commit / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../../blobs/{name}")
    (repo / "snapshots" / "a" / "self.gguf").parent.mkdir()
    (repo / "snapshots" / "a" / "self.gguf").symlink_to("self.gguf")
    (repo / "blobs").mkdir()
    model(repo / "snapshots" / ("a" * 40) / "Big-Q8_0-00002-of-00002.gguf")
    found = look(tmp_path, origin=Origin.HUGGING_FACE)
    assert {(one.name, one.state, one.reason, one.size_bytes > 0) for one in found.models} == {
        ("Tiny-Q8_0", State.INCOMPLETE, "It is a link to a file that is not there.", False),
        ("self", State.INCOMPLETE, "It is a link to a file that is not there.", False),
        ("Big-Q8_0", State.INCOMPLETE, "Big-Q8_0-00001-of-00002.gguf is missing.", True),
    }
    assert {one.repo for one in found.models} == {"acme/Tiny-GGUF"}
    assert len(found.models) == 3


def test_a_folder_that_does_not_answer_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(tmp_path / "here" / "tiny.gguf")
    stat, again = Path.stat, threading.Event()

    def hung(self: Path, **options: bool) -> os.stat_result:
        if self == tmp_path / "share":
            again.wait(60)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", hung)
    monkeypatch.setattr(walk, "GRACE_S", 0.01)
    places = [Place(origin=Origin.FOLDER, folder=tmp_path / name) for name in ("share", "here")]
    try:
        found = scan(places, budget_s=0.01, clock=lambda: 0.0)
    finally:
        again.set()
    assert [one.files for one in found.models] == [(path,)]
    assert found.notices == (f"{tmp_path / 'share'} does not answer; what is in it is not shown.",)


def test_names_need_be_neither_lower_case_nor_text(tmp_path: Path) -> None:
    upper = model(tmp_path / "m" / "TINY-Q8_0.GGUF", "Upper")
    odd = tmp_path / "m" / os.fsdecode(b"t\xefny-Q8_0.gguf")
    try:
        model(odd, "Odd")
    except OSError:
        pytest.skip("file names are text here")
    found = look(tmp_path / "m", cache=tmp_path / "cache")
    assert {one.files[0]: (one.name, one.state) for one in found.models} == {
        upper: ("Upper", State.COMPLETE),
        odd: ("Odd", State.COMPLETE),
    }
    assert look(tmp_path / "m", cache=tmp_path / "cache") == found


def test_a_download_that_llama_cpp_began_is_told_by_its_repository(tmp_path: Path) -> None:
    blobs = tmp_path / "models--acme--Tiny-GGUF" / "blobs"
    begun = model(blobs / f"{'d' * 64}.downloadInProgress")
    one = only(look(tmp_path, origin=Origin.LLAMA_CPP))
    assert (one.files, one.state) == ((begun,), State.INCOMPLETE)
    assert (one.name, one.repo) == ("acme/Tiny-GGUF", "acme/Tiny-GGUF")


def test_other_gguf_files_are_no_models(tmp_path: Path) -> None:
    model(tmp_path / "mmproj-F16.gguf")
    model(tmp_path / "imatrix.gguf")
    (tmp_path / "notes.txt").write_text("hello")
    assert look(tmp_path).models == ()


def test_hugging_face_caches_with_and_without_links(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--Tiny-GGUF"
    digest = "a" * 64
    blob = model(repo / "blobs" / digest)
    for commit in ("c" * 40, "d" * 40):
        link = repo / "snapshots" / commit / "Q8_0" / "tiny-Q8_0.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    model(tmp_path / "models--org--Plain" / "snapshots" / ("e" * 40) / "plain.gguf", "Plain")
    shutil.copy(blob, tmp_path / "models--org--Plain" / "blobs.incomplete")
    begun = tmp_path / "models--org--Begun" / "blobs" / f"{'b' * 64}.1234.incomplete"
    model(begun)
    other = tmp_path / "models--org--Torch" / "blobs" / f"{'b' * 64}.incomplete"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"\x80\x02torch")
    (tmp_path / "models--org--Plain" / "blobs.incomplete").unlink()
    found = {one.repo: one for one in look(tmp_path, origin=Origin.HUGGING_FACE).models}
    assert found.keys() == {"org/Tiny-GGUF", "org/Plain", "org/Begun"}
    assert found["org/Tiny-GGUF"].state is State.COMPLETE
    assert found["org/Tiny-GGUF"].files[0].name == "tiny-Q8_0.gguf"
    assert found["org/Begun"].state is State.INCOMPLETE


def test_lm_studios_folders_tell_the_repository(tmp_path: Path) -> None:
    model(tmp_path / "pub" / "Tiny-GGUF" / "tiny.gguf")
    one = only(look(tmp_path, origin=Origin.LM_STUDIO))
    assert (one.repo, one.origin) == ("pub/Tiny-GGUF", Origin.LM_STUDIO)


def ollama_model(folder: Path, name: str, content: bytes | None, size: int | None = None) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    size = len(content or b"") if size is None else size
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64},
        {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": f"sha256:{digest}",
            "size": size,
        },
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (folder / "blobs").mkdir(exist_ok=True)
    if content is not None:
        (folder / "blobs" / f"sha256-{digest}").write_bytes(content)
    return digest


def test_ollamas_manifests_lead_to_its_blobs(tmp_path: Path) -> None:
    content = headers.content(headers.tiny_keys(), [TENSOR])
    registry = "registry.ollama.ai/library"
    digest = ollama_model(tmp_path, f"{registry}/tiny/8b", content)
    ollama_model(tmp_path, f"{registry}/cut/1b", content[:-100], len(content))
    ollama_model(tmp_path, f"{registry}/gone/latest", None)
    begun = ollama_model(tmp_path, "hf.co/org/Repo-GGUF/Q4_K_M", None)
    (tmp_path / "blobs" / f"sha256-{begun}-partial-0").write_bytes(b"x")
    for name, text in {
        "bad1": "{",
        "bad2": '{"layers": 5}',
        "bad3": '{"layers": [{"mediaType": "application/vnd.ollama.image.model", '
        '"digest": "sha256:../../etc/passwd"}]}',
        "bad4": "[" * 100_000,
    }.items():
        (tmp_path / "manifests" / name).write_text(text)
    found = {one.name: one for one in look(tmp_path, origin=Origin.OLLAMA).models}
    assert {name: one.state for name, one in found.items()} == {
        "tiny:8b": State.COMPLETE,
        "cut:1b": State.DAMAGED,
        "gone:latest": State.INCOMPLETE,
        "hf.co/org/Repo-GGUF:Q4_K_M": State.INCOMPLETE,
    }
    assert found["tiny:8b"].files == (tmp_path / "blobs" / f"sha256-{digest}",)
    assert "not ended" in found["hf.co/org/Repo-GGUF:Q4_K_M"].reason
    assert "missing" in found["gone:latest"].reason


def test_nothing_is_changed_or_copied(tmp_path: Path) -> None:
    model(tmp_path / "a" / "tiny.gguf")
    shards.write(bundled.layout("nemotron-super-49b:Q2_K"), tmp_path / "b", "S", 3)[1].unlink()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    look(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_folder_that_fails_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "good.gguf")
    (tmp_path / "bad").mkdir()
    scandir = os.scandir

    def failing(path: Path) -> object:
        if Path(path).name == "bad":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = look(tmp_path, tmp_path / "absent")
    assert len(found.models) == 1
    assert found.notices == (f"{tmp_path / 'bad'} cannot be read: Permission denied.",)


def test_a_place_that_may_not_be_entered_is_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed" / ".ollama" / "models"
    stat = Path.stat

    def guarded(self: Path, **options: bool) -> os.stat_result:
        if self.is_relative_to(tmp_path / "closed"):
            raise PermissionError(13, "Permission denied")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", guarded)
    found = scan([Place(origin=Origin.OLLAMA, folder=closed)])
    assert found == Library(models=(), notices=(f"{closed} cannot be read: Permission denied.",))


def test_one_huge_folder_leaves_time_for_the_others(tmp_path: Path) -> None:
    (tmp_path / "huge").mkdir()
    for number in range(200):
        (tmp_path / "huge" / f"{number}.txt").touch()
    model(tmp_path / "small" / "tiny.gguf")
    ticks = iter(range(10_000))
    places = [Place(origin=Origin.FOLDER, folder=tmp_path / name) for name in ("huge", "small")]
    found = scan(places, budget_s=60, clock=lambda: float(next(ticks)))
    assert only(found).state is State.COMPLETE
    assert "huge is too large" in found.notices[0]


def test_huge_folders_are_left_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_ENTRIES", 50)
    for number in range(100):
        (tmp_path / f"{number}.gguf").touch()
    found = look(tmp_path)
    assert len(found.models) == 50
    assert "too large" in found.notices[0]


def test_what_there_is_no_time_for_is_shown_unchecked(tmp_path: Path) -> None:
    for number in range(5):
        model(tmp_path / f"{number}.gguf", f"Model {number}")
    ticks = itertools.chain(range(9), itertools.repeat(99))
    place = Place(origin=Origin.FOLDER, folder=tmp_path)
    found = scan([place], budget_s=20, clock=lambda: float(next(ticks)))
    assert {one.state for one in found.models} == {State.COMPLETE, State.UNCHECKED}
    assert len(found.models) == 5
    assert "not looked into" in found.notices[-1]


def test_a_header_is_read_once_as_long_as_the_file_stays(tmp_path: Path) -> None:
    path = model(tmp_path / "m" / "tiny.gguf", "Before")
    cache = tmp_path / "cache"
    assert only(look(tmp_path / "m", cache=cache)).name == "Before"
    (kept,) = (cache / "library").iterdir()
    kept.write_text(kept.read_text().replace('"Before"', '"From the cache"'))
    assert only(look(tmp_path / "m", cache=cache)).name == "From the cache"
    model(path, "After!")
    os.utime(path, ns=(0, 0))
    assert only(look(tmp_path / "m", cache=cache)).name == "After!"


def test_many_files_take_little_time(tmp_path: Path) -> None:
    for number in range(2_000):
        folder = tmp_path / str(number % 50)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").touch()
    began = time.perf_counter()
    assert look(tmp_path).models == ()
    assert time.perf_counter() - began < 2


def test_places_of_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / ".lmstudio").mkdir()
    (tmp_path / ".lmstudio" / "settings.json").write_text('{"downloadsFolder": "/big/lm"}')
    models = tmp_path / "models"
    more = [models, Path("/data")]
    linux = places(models, extra=more, home=tmp_path, environment={}, platform="linux")
    assert [(p.origin, str(p.folder)) for p in linux] == [
        (Origin.APP, str(models)),
        (Origin.FOLDER, "/data"),
        (Origin.HUGGING_FACE, str(tmp_path / "hub")),
        (Origin.LM_STUDIO, "/big/lm"),
        (Origin.LM_STUDIO, str(tmp_path / ".lmstudio/models")),
        (Origin.LM_STUDIO, str(tmp_path / ".cache/lm-studio/models")),
        (Origin.OLLAMA, str(tmp_path / ".ollama/models")),
        (Origin.OLLAMA, "/usr/share/ollama/.ollama/models"),
        (Origin.LLAMA_CPP, str(tmp_path / ".cache/llama.cpp")),
    ]
    mac = places(models, home=tmp_path, environment={}, platform="darwin")
    assert mac[-1].folder == tmp_path / "Library" / "Caches" / "llama.cpp"
    told = {"OLLAMA_MODELS": "/o", "LLAMA_CACHE": "/l", "LOCALAPPDATA": "/app"}
    chosen = places(models, home=tmp_path, environment=told, platform="win32")
    assert [str(p.folder) for p in chosen[-2:]] == ["/o", "/l"]
    del told["LLAMA_CACHE"]
    windows = places(models, home=tmp_path, environment=told, platform="win32")
    assert windows[-1].folder == Path("/app/llama.cpp")


def test_a_projector_belongs_to_its_model_and_is_none_itself(tmp_path: Path) -> None:
    own = tmp_path / "app"
    for repo in ("org/seeing", "org/blind"):
        model(own / repo / "Q4_K_M" / "tiny-Q4_K_M.gguf")
        model(own / repo / "tiny-Q8_0.gguf")
    projector = model(own / "org/seeing" / "mmproj-F16.gguf")
    model(own / "org/blind" / "mmproj-F16.gguf").rename(own / "org/blind/mmproj-F16.gguf.part")
    found = look(own, origin=Origin.APP).models
    assert len(found) == 4, "no projector is a model, whole or not"
    assert {one.repo: one.projectors for one in found} == {
        "org/seeing": (projector,),
        "org/blind": (),
    }


def test_in_a_folder_of_many_models_a_projector_is_told_by_its_name(tmp_path: Path) -> None:
    for name in ("Seeing-7B-Q4_K_M", "Seeing-7B-Q8_0", "Other-Q4_K_M"):
        model(tmp_path / "flat" / f"{name}.gguf")
    mine = model(tmp_path / "flat" / "mmproj-Seeing-7B-f16.gguf")
    model(tmp_path / "flat" / "mmproj-model-f16.gguf")  # whose it is, nobody knows
    model(tmp_path / "alone" / "Some-Q4_K_M.gguf")
    beside = model(tmp_path / "alone" / "mmproj-model-f16.gguf")
    found = {one.files[0].stem: one.projectors for one in look(tmp_path).models}
    assert found == {
        "Seeing-7B-Q4_K_M": (mine,),
        "Seeing-7B-Q8_0": (mine,),
        "Other-Q4_K_M": (),
        "Some-Q4_K_M": (beside,),
    }
