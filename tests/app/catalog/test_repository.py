from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.catalog import api, hub, repository
from app.catalog.repository import FileSet, HubFile, Role, Snapshot, file_sets, read_snapshot
from app.catalog.search import search
from app.errors import AppError, ErrorKind
from app.gguf import bundled
from app.gguf.reader import read_layout_from
from tests.helpers import shards
from tests.helpers.hub import COMMIT, Faults, Hub, Repo


def snapshot(*paths: str, size: int = 10) -> Snapshot:
    files = tuple(HubFile(path=path, size_bytes=size) for path in paths)
    return Snapshot(repo="org/repo", revision="main", commit=COMMIT, files=files)


def sets(*paths: str) -> dict[str, FileSet]:
    return {s.name: s for s in file_sets(snapshot(*paths))}


def choose(address: str, *paths: str) -> FileSet:
    return repository.choose(file_sets(snapshot(*paths)), hub.parse(address))


def refused(repo: str = "org/repo", revision: str | None = None) -> AppError:
    with pytest.raises(AppError) as caught:
        read_snapshot(repo, revision)
    assert repo in caught.value.title
    assert caught.value.hint
    return caught.value


def asked(server: Hub) -> list[str]:
    return [r.path.partition("?")[0] for r in server.requests if r.path.startswith("/api/models")]


def test_a_snapshot_freezes_the_branch_and_has_sizes_and_digests(
    server: Hub, tmp_path: Path, starter_model: Path
) -> None:
    (tmp_path / "README.md").write_text("hello")
    server.files["org/repo/README.md"] = tmp_path / "README.md"
    found = read_snapshot("org/repo")
    assert (found.revision, found.commit, found.gated, found.refused) == ("main", COMMIT, False, ())
    readme, model = found.files
    assert (readme.path, readme.size_bytes, readme.sha256) == ("README.md", 5, None)
    assert readme.git_oid == hashlib.sha1(b"blob 5\0hello").hexdigest()
    assert (model.path, model.size_bytes) == ("sub/starter.gguf", starter_model.stat().st_size)
    assert model.sha256 == hashlib.sha256(starter_model.read_bytes()).hexdigest()
    assert asked(server) == [
        "/api/models/org/repo/revision/main",
        f"/api/models/org/repo/tree/{COMMIT}",
    ]


def test_long_lists_come_in_pages(server: Hub, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x")
    server.files |= {f"org/repo/m-{n:05}-of-00025.gguf": file for n in range(1, 26)}
    server.page_size = 10
    (found,) = (s for s in file_sets(read_snapshot("org/repo")) if len(s.files) == 25)
    assert found.complete
    assert len(asked(server)) == 4


def test_a_revision_with_slashes_is_one(server: Hub) -> None:
    server.revisions["refs/pr/1"] = "d" * 40
    assert read_snapshot("org/repo", "refs/pr/1").commit == "d" * 40
    assert "has no such revision" in refused(revision="other").title


def test_the_chosen_set_is_what_is_read(server: Hub) -> None:
    found = repository.choose(file_sets(read_snapshot("org/repo")), hub.parse("hf:org/repo"))
    assert read_layout_from(hub.open_files(found.address)).block_count == 30


def test_gated_lists_are_readable_and_private_ones_are_not(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_right"
    server.repos["org/repo"] = Repo(gated=True)
    assert read_snapshot("org/repo").gated
    server.repos["org/repo"] = Repo(private=True)
    error = refused()
    assert "does not exist, or needs a token" in error.title
    assert "HF_TOKEN" in error.hint
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    wrong = refused()
    assert "hf_wrong" not in str(wrong)
    assert "not for the token that is used" in wrong.title
    assert "may have expired" in wrong.hint
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert read_snapshot("org/repo").private


def test_a_renamed_repository_is_followed_with_the_token(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_right"
    server.repos = {"org/old": Repo(moved_to="org/repo"), "org/repo": Repo(private=True)}
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert read_snapshot("org/old").files[0].path == "sub/starter.gguf"


@pytest.mark.parametrize("place", ["list", "redirect"])
def test_a_token_follows_to_no_other_host(
    server: Hub, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    elsewhere = f"http://localhost:{server.server_port}/api/models/org/repo"
    if place == "list":
        server.faults = Faults(next_link=elsewhere)
    else:
        server.faults = Faults(status=302, headers={"Location": elsewhere})
    assert "not a Hugging Face Hub" in refused().title
    assert {r.host for r in server.requests} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("faults", "title", "kind"),
    [
        (Faults(status=404), "is not on the Hub", ErrorKind.MODEL_FILE),
        (Faults(status=403), "whom its owner lets in", ErrorKind.NETWORK),
        (Faults(status=429, headers={"Retry-After": "3600"}), "too many", ErrorKind.NETWORK),
        (
            Faults(status=429, headers={"RateLimit": '"api";r=0;t=55'}),
            "too many",
            ErrorKind.NETWORK,
        ),
        (Faults(status=429), "too many requests", ErrorKind.NETWORK),
        (Faults(status=302), "the server refuses", ErrorKind.NETWORK),
        (Faults(body=b"<html>log in</html>"), "not a Hugging Face Hub", ErrorKind.NETWORK),
        (Faults(body=b"[" * 100_000), "not a Hugging Face Hub", ErrorKind.NETWORK),
        (Faults(body=b"{}"), "not a Hugging Face Hub", ErrorKind.NETWORK),
        (Faults(body=b'{"sha": "../../etc"}'), "not a Hugging Face Hub", ErrorKind.NETWORK),
    ],
    ids=str,
)
def test_each_fault_has_its_sentence_and_is_not_asked_again(
    server: Hub, faults: Faults, title: str, kind: ErrorKind
) -> None:
    server.faults = faults
    error = refused()
    assert title in error.title
    assert error.kind is kind
    assert len(asked(server)) == 1


@pytest.mark.parametrize("headers", [{"Retry-After": "55"}, {"RateLimit": '"api";r=0;t=55'}])
def test_the_wait_that_a_server_wants_is_told_and_kept(
    server: Hub, headers: dict[str, str]
) -> None:
    server.faults = Faults(status=429, headers=headers)
    assert "in 55 seconds" in refused().hint
    server.faults = Faults()
    assert re.search(r"in 5[45] seconds", refused().hint)
    assert len(asked(server)) == 1, "it is left alone meanwhile"


def test_what_passes_is_asked_again(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BACK_OFF_S", 0.01)
    server.faults = Faults(statuses=[503, -1, 0, 500])
    assert read_snapshot("org/repo").commit == COMMIT
    assert len(asked(server)) == 5
    server.faults = Faults(status=503)
    assert "the server refuses" in refused().title
    assert len(asked(server)) == 5 + api.ATTEMPTS


def test_a_short_wait_is_kept(server: Hub) -> None:
    server.faults = Faults(statuses=[429], headers={"Retry-After": "1"})
    began = time.monotonic()
    assert read_snapshot("org/repo").commit == COMMIT
    assert time.monotonic() - began >= 1


def test_an_answer_without_end_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_REPLY_BYTES", 10_000)
    server.faults = Faults(body=b'"' + b"x" * 20_000 + b'"')
    assert "MiB" in refused().detail
    server.faults = Faults(next_link=f"{server.endpoint}/api/models/org/repo/tree/{COMMIT}")
    monkeypatch.setattr(api, "MAX_PAGES", 5)
    assert "after 5 pages" in refused().detail


def test_an_answer_that_comes_byte_by_byte_is_given_up(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "TIMEOUT_S", 0.05)
    server.faults = Faults(drip_s=0.01, body=b" " * 60_000)
    assert "too slow" in refused().title
    assert len(asked(server)) == 1


def test_a_token_that_the_hub_does_not_know_is_told_as_that(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    server.faults = Faults(status=401)  # to everything, also to a search
    with pytest.raises(AppError) as of_search:
        search("x")
    for error in (refused(), of_search.value):
        assert "does not know the token" in error.title
        assert "login" in error.hint
        assert "hf_expired" not in str(error)


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"sha": 5}', b"\x1f\x8b", b"[[]]"], ids=repr)
def test_what_is_strange_in_an_answer_is_told_in_a_sentence(server: Hub, body: bytes) -> None:
    server.faults = Faults(body=body)
    assert refused().detail.endswith(".")


def test_offline_is_said_so(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused().hint
    assert not server.requests


@pytest.mark.parametrize("repo", ["", "a b/c", "../x/y", "a/b/c", "a/..", "org/re\npo"])
def test_a_name_that_is_none_never_reaches_the_server(server: Hub, repo: str) -> None:
    with pytest.raises(AppError) as caught:
        read_snapshot(repo)
    assert caught.value.kind is ErrorKind.USAGE
    assert not server.requests


GOOD: dict[str, object] = {"type": "file", "size": 5, "oid": "a" * 40}


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../up.gguf"},
        {"path": "/etc/passwd.gguf"},
        {"path": "C:/x.gguf"},
        {"path": "a\\b.gguf"},
        {"path": "a\x1b[31m.gguf"},
        {"path": "a\u202efugg.gguf"},
        {"path": "a//b.gguf"},
        {"path": "con.gguf"},
        {"path": "dir./m.gguf"},
        {"path": "x" * 300 + ".gguf"},
        {"path": "SUB/Starter.gguf"},
        {"size": -1},
        {"size": 2**62},
        {"lfs": {"oid": "b" * 64, "size": 6}},
        {"lfs": {"oid": "../" + "b" * 61, "size": 5}},
        {"oid": "x"},
    ],
    ids=str,
)
def test_hostile_entries_are_left_out_and_named(server: Hub, change: dict[str, object]) -> None:
    server.repos["org/repo"] = Repo(extra=[GOOD | {"path": "ok.gguf"} | change])
    found = read_snapshot("org/repo")
    assert [file.path for file in found.files] == ["sub/starter.gguf"]
    (named,) = found.refused
    assert named.isprintable()
    assert named.isascii()


def test_shards_are_one_set_and_a_gap_is_named() -> None:
    found = sets(
        *(f"q4/m-Q4_K_M-{n:05}-of-00003.gguf" for n in (1, 2, 3)),
        "q8/m-Q8_0-00001-of-00003.gguf",
        "q8/m-Q8_0-00003-of-00003.gguf",
        "other/m-Q4_K_M-00001-of-00002.gguf",
        "other/m-Q4_K_M-00002-of-00002.gguf",
        "zero/m-Q2_K-00000-of-00002.gguf",
        "zero/m-Q2_K-00001-of-00002.gguf",
        "many/m-Q2_K-00001-of-99999.gguf",
    )
    whole = found["q4/m-Q4_K_M"]
    assert (whole.complete, whole.size_bytes, whole.quantization) == (True, 30, "Q4_K_M")
    assert [file.path[-19:-5] for file in whole.files] == [f"0000{n}-of-00003" for n in (1, 2, 3)]
    assert found["other/m-Q4_K_M"].complete
    gap = found["q8/m-Q8_0"]
    assert not gap.complete
    assert gap.reason == "m-Q8_0-00002-of-00003.gguf is missing."
    assert "shard 0 of 2" in found["zero/m-Q2_K"].reason
    assert "99,999" in found["many/m-Q2_K"].reason


def test_projectors_stand_apart_and_other_files_are_no_models() -> None:
    found = sets(
        "m-Q8_0.gguf", "mmproj-F16.gguf", "imatrix.gguf", "m.imatrix.gguf", "README.md", "m.safetensors"
    )  # fmt: skip
    assert {name: s.role for name, s in found.items()} == {
        "m-Q8_0": Role.MODEL,
        "mmproj-F16": Role.PROJECTOR,
    }


@pytest.mark.parametrize(
    ("model", "paths", "chosen"),
    [
        ("m-Q8_0", ("mmproj-F32.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"), "mmproj-F16"),
        ("m-Q8_0", ("mmproj-F32.gguf", "mmproj-model-bf16.gguf"), "mmproj-model-bf16"),
        ("b/m-Q8_0", ("mmproj-F16.gguf", "b/mmproj-F32.gguf"), "b/mmproj-F32"),
        ("b/m-Q8_0", ("mmproj-F16.gguf", "c/m-Q8_0.gguf"), "mmproj-F16"),
        ("m-Q8_0", ("m-Q4_K_M.gguf",), None),
        ("m-Q8_0", ("mmproj-F16-00001-of-00002.gguf",), None),
        ("mmproj-F16", ("mmproj-BF16.gguf",), None),
    ],
)
def test_the_projector_of_a_model_is_the_one_beside_it_in_16_bits(
    model: str, paths: tuple[str, ...], chosen: str | None
) -> None:
    all_sets = file_sets(snapshot(f"{model}.gguf", *paths))
    found = repository.projector(all_sets, next(s for s in all_sets if s.name == model))
    assert (found.name if found else None) == chosen


def test_a_projector_is_taken_for_no_quantization_and_no_shard() -> None:
    names = ("m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf", "mmproj-F16.gguf")
    assert len(choose("hf:org/repo:F16", *names).files) == 2
    assert choose("hf:org/repo", "m-Q8_0.gguf", "mmproj-F16.gguf").name == "m-Q8_0"
    with pytest.raises(AppError):
        choose("hf:org/repo:F16", "m-Q8_0.gguf", "mmproj-F16.gguf")
    named = repository.named_sets(snapshot("m-F16.gguf", "mmproj-F16.gguf"))
    assert {name: s.name for name, s in named.items()} == {"F16": "m-F16"}


@pytest.mark.parametrize(
    "parts",
    [
        ("m.Q6_K.gguf.part1of2", "m.Q6_K.gguf.part2of2"),
        ("m.Q6_K.gguf-split-a", "m.Q6_K.gguf-split-b"),
        ("m.Q6_K.gguf.001", "m.Q6_K.gguf.002"),
        ("m.Q6_K.part1.gguf", "m.Q6_K.part2.gguf"),
    ],
)
def test_parts_that_must_be_joined_are_shown_but_not_offered(parts: tuple[str, ...]) -> None:
    (found,) = file_sets(snapshot(*parts))
    assert len(found.files) == 2
    assert (found.complete, found.quantization) == (False, "Q6_K")
    assert "joined" in found.reason


def test_an_empty_file_is_no_model() -> None:
    (found,) = file_sets(snapshot("m.gguf", size=0))
    assert (found.complete, found.reason) == (False, "A file of it is empty.")


def test_a_set_is_chosen_by_quantization_file_or_custom() -> None:
    many = ("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf")
    assert choose("hf:org/repo:q8_0", *many).name == "m-Q8_0"
    assert choose("hf:org/repo:ud-q4_k_xl", *many).name == "m-UD-Q4_K_XL"
    assert choose("hf:org/repo/m-Q8_0.gguf", *many).name == "m-Q8_0"
    assert choose("hf:org/repo", *many).name == "m-Q4_K_M"
    assert choose("hf:org/repo", "only-Q2_K.gguf").name == "only-Q2_K"


@pytest.mark.parametrize(
    ("address", "paths", "title", "more"),
    [
        ("hf:org/repo", ("README.md",), "holds no GGUF model", "Search"),
        ("hf:org/repo:Q5_K_M", ("m-Q8_0.gguf",), "has no Q5_K_M", "hf:org/repo:Q8_0"),
        ("hf:org/repo/x.gguf", ("m-Q8_0.gguf",), "has no x.gguf", "Q8_0"),
        ("hf:org/repo", ("m-Q8_0.gguf", "m-Q6_K.gguf"), "several models", "Q8_0"),
        ("hf:org/repo:Q8_0", ("a-Q8_0.gguf", "b-Q8_0.gguf"), "several", "hf:org/repo/b-Q8_0.gguf"),
        ("hf:org/repo:Q8_0", ("m-Q8_0-00001-of-00002.gguf",), "cannot be used", "00002-of-00002"),
    ],
)
def test_what_cannot_be_chosen_says_what_can(
    address: str, paths: tuple[str, ...], title: str, more: str
) -> None:
    with pytest.raises(AppError) as caught:
        choose(address, *paths)
    assert title in caught.value.title
    assert more in str(caught.value)


def test_a_split_model_is_read_in_ten_requests(server: Hub, tmp_path: Path) -> None:
    layout = bundled.layout("nemotron-ultra-253b:Q2_K")
    vocabulary = shards.llama3_vocabulary()
    for file in shards.write(layout, tmp_path, "Ultra-Q2_K", 4, vocabulary=vocabulary):
        server.files[f"org/ultra/Q2_K/{file.name}"] = file
    found = repository.find(hub.parse("hf:org/ultra:q2_k"))
    there = read_layout_from(hub.open_files(found.address))
    assert [layer.size_bytes for layer in there.layers] == [x.size_bytes for x in layout.layers]
    assert there.vocabulary_size == 128_256
    assert len([r for r in server.requests if "harness" not in r.path]) <= 10
    assert server.sent_bytes < 16_000_000


def test_models_of_one_quantization_are_told_apart() -> None:
    names = (
        "A-Q4_K_M.gguf", "A-Q8_0.gguf", "B-Q8_0.GGUF", "x/M-Q6_K-00001-of-00002.gguf",
        "y/M-Q6_K-00001-of-00001.gguf", "A-Q4_K_M/A-Q4_K_M.gguf", "C-F16-00001-of-00002.gguf",
        "C-F16-00001-of-00003.gguf", "mmproj-F16.gguf",
    )  # fmt: skip
    named = repository.named_sets(snapshot(*names))
    assert {name: found.files[0].path for name, found in named.items()} == {
        "A-Q4_K_M.gguf": "A-Q4_K_M.gguf",
        "A-Q4_K_M/A-Q4_K_M": "A-Q4_K_M/A-Q4_K_M.gguf",
        "A-Q8_0": "A-Q8_0.gguf",
        "B-Q8_0": "B-Q8_0.GGUF",
        "Q6_K": "y/M-Q6_K-00001-of-00001.gguf",
        "x/M-Q6_K": "x/M-Q6_K-00001-of-00002.gguf",
        "C-F16-00001-of-00002.gguf": "C-F16-00001-of-00002.gguf",
        "C-F16-00001-of-00003.gguf": "C-F16-00001-of-00003.gguf",
    }
    assert choose("hf:org/repo/B-Q8_0.GGUF", *names).name == "B-Q8_0"
