"""`models`, `show`, and catalog names in `plan` and `recommend`, through the program's `main`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.catalog import entries
from app.cli import main
from app.gguf import bundled
from tests.app.catalog.conftest import point_at
from tests.helpers import headers, shards
from tests.helpers.hub import COMMIT, Faults, Hub, Repo

KNOWN = "bartowski/nvidia_Llama-3_3-Nemotron-Super-49B-v1-GGUF"


@pytest.fixture(autouse=True)
def _no_models_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Hub
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the command prints
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def once(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    root = logging.getLogger()
    before = list(root.handlers)
    yield once
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()


def add_super(server: Hub, folder: Path) -> None:
    layout = bundled.layout("nemotron-super-49b:Q4_K_M")
    for file in shards.write(layout, folder, "S-Q4_K_L", 2):
        server.files[f"{KNOWN}/S-Q4_K_L/{file.name}"] = file
    server.files[f"{KNOWN}/S-Q8_0-00001-of-00002.gguf"] = file


def test_models_lists_catalog_and_disk(run: Run, tmp_path: Path, home: Path) -> None:
    done = run("models")
    assert done.code == 0
    assert "nothing yet" in done.out
    assert all(entry.id in done.out for entry in entries.entries())
    assert "150.9 GB" in done.out
    target = home / "models" / "org" / "Tiny-GGUF"
    target.mkdir(parents=True)
    tensor = headers.tensor("token_embd.weight", [32, 8])
    headers.write(target / "tiny-Q8_0.gguf", headers.tiny_keys(), [tensor])
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.gguf").write_bytes(b"nothing")
    found = run("models", "--folder", str(tmp_path / "more"), "--json").json["on_disk"]
    assert [(one["name"], one["state"], one["repo"]) for one in found] == [
        ("bad", "damaged", ""),
        ("tiny-Q8_0", "complete", "org/Tiny-GGUF"),
    ]
    text = run("models", "--folder", str(tmp_path / "more")).out
    assert "bad: bad.gguf is not a usable GGUF model" in text


def test_names_of_files_send_nothing_to_the_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m" / "\x1b[31mevil\x07.gguf"
    path.parent.mkdir()
    try:
        path.write_bytes(b"GGUF")
    except OSError:
        pytest.skip("no such names here")
    shown, planned = run("models", "--folder", str(path.parent)), run("plan", str(path))
    assert "evil" in shown.out
    assert "evil" in planned.err
    assert not {"\x1b", "\x07"} & set(shown.out + planned.err)


def test_models_search_says_how_old_an_answer_is(run: Run, server: Hub) -> None:
    server.repos["org/Big-GGUF"] = Repo(
        downloads=1234, gated=True, gguf={"total": 49_867_145_216, "architecture": "deci"}
    )
    done = run("models", "search", "big", "gguf")
    assert done.code == 0
    assert "org/Big-GGUF" in done.out
    assert "49.9B" in done.out
    assert "1,234" in done.out
    assert "gated" in done.out
    assert "show hf:org/Big-GGUF" in done.out
    server.faults = Faults(status=503)
    again = run("models", "search", "big", "gguf", "--json").json
    assert again["value"][0]["repo"] == "org/Big-GGUF"
    assert again["age_s"] >= 0
    assert run("models", "search", "nothing", "--limit", "-3").code == 9
    server.faults = Faults()
    assert "No GGUF repository" in run("models", "search", "no such thing").out
    assert run("models", "find", "x").code == 2


def test_a_search_offline_shows_the_old_answer(
    run: Run, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repos["org/Big-GGUF"] = Repo()
    run("models", "search", "big")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run("models", "search", "big", "--refresh")
    assert done.code == 0
    assert "org/Big-GGUF" in done.out
    assert "cannot be read offline" in done.out
    assert "old" in done.out
    assert run("models", "search", "other").code == 9


def test_the_page_of_the_flagship(run: Run) -> None:
    done = run("show", "nemotron-ultra-253b", "--context", "8192")
    assert done.code == 0
    for words in (
        "253,401,268,224", "dense", "131,072", "NVIDIA Open Model License", "Commercial use",
        "“detailed thinking on”", "“detailed thinking off”", "temperature 0.6, top-p 0.95",
        "TOOLCALL", "with 8,192 tokens", "4.76", "unsloth/", "is larger: 405.9 billion",
        "Do two cards of 80 GB hold Q4_K_M?", "from memory, to be checked", "2026-11-25",
    ):  # fmt: skip
        assert words in done.out, words
    assert max(map(len, done.out.splitlines())) <= 110


@pytest.mark.parametrize(
    "name", ["nemotron-super-49b-v1.5", "llama-3.1-8b", "nemotron-4-340b", "smollm2-135m"]
)
def test_pages_for_programs_name_sources_and_cards(run: Run, name: str) -> None:
    page = run("show", name, "--json").json
    assert page["licence"]["source"]["reviewed"] == "2026-11-25"
    assert all(question["answer"] for question in page["questions"])
    assert page["quantizations"]
    for one in page["quantizations"]:
        assert one["size_bytes"] > 0
        assert all(cards["count"] <= 8 for cards in one["cards"])


def test_what_is_not_in_the_catalog_is_told(run: Run) -> None:
    done = run("show", "gpt-5", "--json")
    assert (done.code, done.json["kind"]) == (2, "usage")
    assert "nemotron-ultra-253b" in done.json["hint"]
    assert run("show", "nemotron-ultra-253b", "--context", "-5").code == 2


def test_a_repository_shows_its_sets(run: Run, server: Hub, tmp_path: Path) -> None:
    add_super(server, tmp_path)
    server.repos[KNOWN] = Repo(
        gated=True, extra=[{"type": "file", "path": "../evil\x1b.gguf", "size": 1}]
    )
    done = run("show", f"hf:{KNOWN}")
    assert done.code == 0
    for words in (
        COMMIT[:12], "show nemotron-super-49b", "Gated", "Q4_K_L", "30.2 GB",
        "S-Q8_0-00002-of-00002.gguf is missing.", "../evil", f"plan hf:{KNOWN}:Q4_K_L",
    ):  # fmt: skip
        assert words in done.out, words
    assert "\x1b" not in done.out
    one = run("show", f"hf:{KNOWN}:q4_k_l", "--json").json["value"]
    assert (one["model"], one["commit"], one["gated"]) == ("nemotron-super-49b", COMMIT, True)
    assert [found["complete"] for found in one["sets"]] == [True]
    assert run("show", "hf:org/none").code == 3
    assert run("show", f"hf:{KNOWN}:Q8_0").code == 3


def test_catalog_names_are_planned(run: Run, server: Hub) -> None:
    done = run("plan", "nemotron-super-49b-v1.5:q4_k_m", "--gpus", "24,24", "--json")
    assert done.code == 0
    options = ("--gpus", "2x RTX 3090", "--context", "8192")
    large = run("plan", "meta-llama/Llama-3.1-70B-Instruct", *options)
    assert large.code == 0
    assert "all 80 layers on 2 devices" in large.out
    small = run("recommend", "nemotron-nano", "--gpus", "8", "--json").json
    assert len({row["quantization"] for row in small["matrix"]}) == 26
    tight = run("recommend", "nemotron-ultra", "--gpus", "24,24").out
    assert "Llama-3.3-Nemotron-Super-49B-v1.5, the nearest relative" in tight
    assert "405B" not in tight, "a larger model is no way out"
    assert not server.requests


def test_a_quantization_of_its_publisher_is_read_from_its_repository(
    run: Run, server: Hub, tmp_path: Path
) -> None:
    add_super(server, tmp_path)
    options = ("--gpus", "24,24", "--context", "16384", "--json")
    named = run("plan", "nemotron-super-49b:Q4_K_L", *options)
    address = run("plan", f"hf:{KNOWN}:Q4_K_L", *options)
    assert (named.code, named.json["devices"]) == (0, address.json["devices"])
    absent = run("plan", "nemotron-super-49b:Q6_K_L", "--json")
    assert absent.code == 3
    assert "has no Q6_K_L" in absent.json["title"]
    assert run("plan", "nemotron-super-49b:Q99", "--json").code == 2
    wanted = run("plan", "nemotron-4-340b:Q4_K_L", "--json")
    assert "Choose one of" in wanted.json["hint"]


def test_nobody_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.catalog.api.BACK_OFF_S", 0.01)
    point_at(monkeypatch, "http://127.0.0.1:9")
    done = run("show", "hf:org/repo", "--json")
    assert (done.code, done.json["kind"]) == (9, "network")
