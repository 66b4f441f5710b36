from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.catalog import repository, search
from app.catalog.cache import Answer, AnswerCache
from app.catalog.search import FoundRepository, HubLookUps
from app.errors import AppError, ErrorKind
from app.gguf import bundled
from tests.app.catalog.conftest import point_at
from tests.helpers import shards
from tests.helpers.hub import Faults, Hub, Repo
from tests.helpers.hub import hub as hub_server

GGUF: dict[str, object] = {
    "total": 253_401_268_224,
    "architecture": "deci",
    "context_length": 131_072,
}


@pytest.fixture
def filled(server: Hub) -> Hub:
    server.repos |= {
        "a/Ultra-GGUF": Repo(downloads=5, likes=2, gguf=GGUF),
        "b/ultra-small-GGUF": Repo(downloads=900, gated=True),
        "c/other": Repo(downloads=7),
        "d/secret-ultra": Repo(private=True),
    }
    return server


def lists(server: Hub) -> int:
    return len([r for r in server.requests if r.path.startswith("/api/models")])


def test_repositories_are_found_by_words_the_most_used_first(filled: Hub) -> None:
    found = search.search("ULTRA  gguf")
    assert [one.repo for one in found] == ["b/ultra-small-GGUF", "a/Ultra-GGUF"]
    assert found[0].gated
    assert (found[1].parameters, found[1].architecture) == (253_401_268_224, "deci")
    assert found[1].modified is not None
    query = filled.requests[-1].path
    assert "filter=gguf" in query
    assert "sort=downloads" in query


def test_pages_are_read_as_far_as_wanted(filled: Hub) -> None:
    filled.repos |= {f"e/ultra-{n}": Repo() for n in range(30)}
    filled.page_size = 10
    assert len(search.search("ultra", limit=25)) == 25
    assert lists(filled) == 3


def test_private_ones_are_found_with_the_token(
    filled: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks = HubLookUps(tmp_path)
    filled.token = "hf_right"
    assert "d/secret-ultra" not in [one.repo for one in looks.search("ultra").value]
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert "d/secret-ultra" in [one.repo for one in looks.search("ultra").value]
    monkeypatch.delenv("HF_TOKEN")
    assert "d/secret-ultra" not in [one.repo for one in looks.search("ultra").value]
    assert not any(b"hf_right" in file.read_bytes() for file in tmp_path.rglob("*.json"))


def test_hostile_entries_are_left_out(server: Hub) -> None:
    good = {"id": "a/b", "downloads": -5, "gguf": {"total": -1, "architecture": "x\x1b[2J"}}
    bad = [{"id": "../b"}, {"id": "a/b\n"}, {"id": 5}, {}, 7, {"id": "a/<script>"}]
    server.faults = Faults(body=json.dumps([*bad, good]).encode())
    (one,) = search.search("x")
    assert (one.repo, one.downloads, one.parameters) == ("a/b", 0, None)
    assert one.architecture.isprintable()
    server.faults = Faults(body=b'{"error": "no"}')
    with pytest.raises(AppError, match="not a Hugging Face Hub"):
        search.search("x")


@pytest.mark.parametrize("status", [401, 404])
def test_a_mirror_without_search_is_told(server: Hub, status: int) -> None:
    server.faults = Faults(status=status)
    with pytest.raises(AppError, match="has no search") as caught:
        search.search("x")
    assert "hf:owner/repo" in caught.value.hint


def test_a_kept_answer_costs_no_request_and_says_its_age(filled: Hub, tmp_path: Path) -> None:
    first = HubLookUps(tmp_path).search("ultra")
    assert (first.age_s, first.notice) == (0, "")
    again = HubLookUps(tmp_path).search(" Ultra ")
    assert again.value == first.value
    assert 0 < again.age_s < 60
    assert lists(filled) == 1
    assert HubLookUps(tmp_path).search("ultra", refresh=True).age_s == 0
    assert lists(filled) == 2
    assert HubLookUps(tmp_path).snapshot("org/repo").age_s == 0
    assert HubLookUps(tmp_path).snapshot("org/repo").value.files[0].path == "sub/starter.gguf"
    assert lists(filled) == 4


def test_an_old_answer_is_better_than_none(
    filled: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEARCH_AGE_S", 0.0)
    looks = HubLookUps(tmp_path)
    fresh = looks.search("ultra")
    filled.faults = Faults(status=429, headers={"Retry-After": "60"})
    old = looks.search("ultra", refresh=True)
    assert old.value == fresh.value
    assert "too many requests" in old.notice
    with pytest.raises(AppError, match="too many requests"):
        looks.search("never asked")


def test_what_is_gone_is_told_even_if_it_was_kept(filled: Hub, tmp_path: Path) -> None:
    looks = HubLookUps(tmp_path)
    looks.snapshot("org/repo")
    filled.files.clear()
    with pytest.raises(AppError) as caught:
        looks.snapshot("org/repo", refresh=True)
    assert caught.value.kind is ErrorKind.MODEL_FILE


def test_mirrors_have_answers_of_their_own(
    filled: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = HubLookUps(tmp_path)
    looks.search("ultra")
    with hub_server() as mirror:
        point_at(monkeypatch, mirror.endpoint)
        assert looks.search("ultra").value == ()
        assert lists(mirror) == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1", b'{"question": 5}', b"\xff" * 10])
def test_a_damaged_cache_is_as_good_as_none(filled: Hub, tmp_path: Path, damage: bytes) -> None:
    HubLookUps(tmp_path).search("ultra")
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    assert HubLookUps(tmp_path).search("ultra").age_s == 0
    assert HubLookUps(tmp_path).search("ultra").value


def test_a_cache_that_cannot_be_written_harms_nobody(filled: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where a folder should be")
    assert HubLookUps(tmp_path).search("ultra").value


def test_old_answers_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.catalog.cache.MAX_ANSWERS", 5)
    now = [1000.0]
    cache: AnswerCache[tuple[FoundRepository, ...]] = AnswerCache(
        tmp_path, tuple[FoundRepository, ...], max_age_s=10, clock=lambda: now[0]
    )
    for number in range(9):
        assert cache.get(str(number), lambda: ()) == Answer(value=())
    assert len(list(tmp_path.iterdir())) == 5
    now[0] += 11
    assert cache.get("8", lambda: ()).age_s == 0, "older than it may be"


def test_a_layout_is_read_once_for_good(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = bundled.layout("nemotron-super-49b:Q4_K_M")
    (file,) = shards.write(layout, tmp_path, "S-Q4_K_M", 1)
    server.files["org/super/S-Q4_K_M.gguf"] = file
    (found,) = repository.file_sets(repository.read_snapshot("org/super"))
    first = HubLookUps(tmp_path).layout(found)
    assert len([r for r in server.requests if r.method == "HEAD"]) == 1
    assert len([r for r in server.requests if r.range]) == 1, "a large file's header in one request"
    assert server.sent_bytes < 16_000_000
    server.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert HubLookUps(tmp_path).layout(found) == first
    assert first.size_bytes == layout.size_bytes
    assert not server.requests
