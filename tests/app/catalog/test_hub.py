from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import hypothesis
import pytest
from huggingface_hub import constants
from huggingface_hub.utils._http import default_client_factory
from hypothesis import strategies

from app import units
from app.catalog import hub
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout, read_layout_from
from tests.app.catalog.conftest import point_at
from tests.helpers import headers
from tests.helpers.hub import COMMIT, Faults, Hub

TIMEOUT_S = 5.0


def read(text: str = "hf:org/repo/sub/starter.gguf", timeout_s: float = TIMEOUT_S) -> ModelLayout:
    return read_layout_from(hub.open_files(hub.parse(text), timeout_s=timeout_s))


def refused(timeout_s: float = TIMEOUT_S) -> AppError:
    with pytest.raises(AppError) as caught:
        read(timeout_s=timeout_s)
    assert "org/repo/sub/starter.gguf" in caught.value.title
    assert caught.value.hint
    return caught.value


def test_addresses() -> None:
    plain = hub.parse("hf:org/repo/sub/m.gguf")
    assert (plain.repo, plain.path, plain.revision) == ("org/repo", "sub/m.gguf", None)
    assert hub.parse("hf:org/repo/m.gguf@refs/pr/1").revision == "refs/pr/1"
    whole = hub.parse("hf:org/repo@v1")
    assert (whole.repo, whole.path, whole.revision, whole.name) == (
        "org/repo",
        "",
        "v1",
        "org/repo",
    )
    kind = hub.parse("hf:org/repo-GGUF:ud-q4_k_xl@refs/pr/1")
    assert (kind.quantization, kind.revision) == ("ud-q4_k_xl", "refs/pr/1")
    for text in (
        "hf:m.gguf", "hf:o/r/../m.gguf", "hf:o/r/m.bin", "hf:o/r//m.gguf", "hf:o/r:", "hf:o/r@",
        "hf:o/r:Q4/m.gguf", "hf:o/r/a\x1bb.gguf", "hf:o/r/a\\b.gguf", "hf:o/r@a\nb",
    ):  # fmt: skip
        with pytest.raises(AppError) as caught:
            hub.parse(text)
        assert caught.value.kind is ErrorKind.USAGE
        assert text in caught.value.title


def test_a_header_takes_few_requests_and_bytes(server: Hub, starter_model: Path) -> None:
    layout, local = read(), read_layout(starter_model)
    assert layout.layers == local.layers
    assert layout.file_size_bytes == local.file_size_bytes
    assert [str(file) for file in layout.files] == ["org/repo/sub/starter.gguf"]
    assert len(server.requests) <= 4
    # huggingface_hub itself asks once a day who else speaks with the Hub.
    ours = [r.method for r in server.requests if "/api/" not in r.path]
    assert ours == ["HEAD", "GET", "GET"]
    assert server.sent_bytes <= 5 * units.MIB


def add_shards(server: Hub, folder: Path, count: int = 3) -> None:
    for number in range(count):
        keys = [
            *(headers.tiny_keys(layers=count) if number == 0 else []),
            headers.integer_key("split.no", number),
            headers.integer_key("split.count", count),
        ]
        name = f"m-{number + 1:05}-of-{count:05}.gguf"
        tensor = headers.tensor(f"blk.{number}.attn_q.weight", [32, 8])
        server.files[f"org/repo/q/{name}"] = headers.write(folder / name, keys, [tensor])


def test_shards_come_from_one_commit_whichever_is_named(server: Hub, tmp_path: Path) -> None:
    add_shards(server, tmp_path)
    layout = read("hf:org/repo/q/m-00002-of-00003.gguf")
    assert [layer.size_bytes for layer in layout.layers] == [1024] * 3
    asked = [r.path.split("/")[4] for r in server.requests if r.method == "HEAD"]
    assert asked == ["main", COMMIT, COMMIT]
    assert len([r for r in server.requests if r.range]) == 3
    del server.files["org/repo/q/m-00003-of-00003.gguf"]
    with pytest.raises(AppError, match=r"m-00003-of-00003\.gguf is not on the Hub"):
        read("hf:org/repo/q/m-00001-of-00003.gguf")


def test_a_revision_is_asked_for(server: Hub) -> None:
    server.revisions["refs/pr/1"] = "d" * 40
    files = hub.open_files(hub.parse("hf:org/repo/sub/starter.gguf@refs/pr/1"))
    assert files[0].commit == "d" * 40
    with pytest.raises(AppError, match="no such revision"):
        read("hf:org/repo/sub/starter.gguf@other")


def test_a_token_opens_a_gated_model_and_stays_with_the_hub(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_right"
    error = refused()
    assert "HF_TOKEN" in error.hint
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert read().block_count == 30
    assert {r.token for r in server.requests if r.host == "localhost"} == {None}


@pytest.mark.parametrize(
    ("faults", "title", "hint"),
    [
        (Faults(status=404), "is not on the Hub", "Check owner"),
        (Faults(status=401), "does not exist, or needs a token", "HF_TOKEN"),
        (Faults(status=403), "whom its owner lets in", "HF_TOKEN"),
        (Faults(status=429, headers={"Retry-After": "7"}), "too many requests", "in 7 seconds"),
        (Faults(status=503), "the server refuses", "Try again"),
        (Faults(no_commit=True), "not a Hugging Face Hub", "HF_ENDPOINT"),
        (Faults(storage_status=403), "whom its owner lets in", "HF_TOKEN"),
        (Faults(storage_status=429), "too many requests", "five minutes"),
        (Faults(storage_status=500), "the server refuses", "Try again"),
        (Faults(cuts=[10, 10, 10]), "breaks off", "Try again"),
        (Faults(short=10), "breaks off", "Try again"),
        (Faults(size=2_000), "changed while it was read", "Try again"),
        (Faults(size=1_500_000), "changed while it was read", "Try again"),
        (Faults(etags=['"one"', '"two"']), "changed while it was read", "Try again"),
    ],
    ids=str,
)
def test_each_fault_has_its_sentence_and_its_hint(
    server: Hub, faults: Faults, title: str, hint: str
) -> None:
    server.faults = faults
    error = refused()
    assert title in error.title
    assert hint in error.hint
    assert len(server.requests) <= 6


def test_a_server_that_falls_silent_is_given_up(server: Hub) -> None:
    server.faults = Faults(stall_after=1000)
    assert "too slow" in refused(timeout_s=0.2).title


def test_a_server_that_sends_byte_by_byte_is_given_up(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SLOWEST_BYTES_PER_S", units.GIB)
    server.faults = Faults(drip_s=0.01)
    assert "too slow" in refused(timeout_s=0.2).title
    assert len([r for r in server.requests if r.range]) == 1


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(server: Hub) -> None:
    server.faults = Faults(cuts=[100_000, 300_000])
    assert read().block_count == 30
    starts = [int(r.range[6:].split("-")[0]) for r in server.requests if r.range]
    assert starts[:3] == [0, 100_000, 400_000]


def test_a_server_without_ranges_is_left_once_the_header_is_there(server: Hub) -> None:
    server.faults = Faults(ignore_range=True)
    assert read().block_count == 30
    # What the sockets' buffers held came along.
    assert server.sent_bytes < 40 * units.MIB


def test_nobody_there(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        point_at(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = refused()
    assert "cannot be reached" in error.title
    assert error.kind is ErrorKind.NETWORK


def test_offline_is_said_so(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused().hint


def mutated(content: bytes, position: int, replacement: bytes, cut: int) -> bytes:
    changed = bytearray(content)
    changed[position : position + len(replacement)] = replacement
    return bytes(changed[: max(1, len(changed) - cut)])


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    change=strategies.builds(
        lambda position, replacement, cut: lambda c: mutated(c, position, replacement, cut),
        strategies.integers(0, 600),
        strategies.binary(max_size=12),
        strategies.integers(0, 9000),
    ),
    cuts=strategies.lists(strategies.integers(0, 600), max_size=3),
)
def test_whatever_comes_ends_in_a_layout_or_an_app_error(
    server: Hub, tmp_path: Path, change: Callable[[bytes], bytes], cuts: list[int]
) -> None:
    tensors = [headers.tensor("token_embd.weight", [32, 8])]
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(change(headers.content(headers.tiny_keys(), tensors)))
    server.files["org/repo/fuzz.gguf"] = path
    server.faults = Faults(cuts=cuts)
    server.requests.clear()
    try:
        layout = read("hf:org/repo/fuzz.gguf")
    except AppError as error:
        assert "fuzz.gguf" in error.title  # noqa: PT017 - both outcomes are right
    else:
        assert layout.block_count >= 0
    assert len(server.requests) <= 5


def test_shards_that_break_off_are_taken_up_where_they_were(server: Hub, tmp_path: Path) -> None:
    add_shards(server, tmp_path)
    # Three shards are read side by side: a third break might be the third one of the same shard.
    server.faults = Faults(cuts=[100, 200])
    assert read("hf:org/repo/q/m-00002-of-00003.gguf").block_count == 3
    assert len([r for r in server.requests if r.range]) == 5


def test_a_fault_of_one_shard_is_the_models(server: Hub, tmp_path: Path) -> None:
    add_shards(server, tmp_path)
    server.faults = Faults(etags=['"one"', '"two"'], cuts=[100], of="m-00001-of-00003.gguf")
    with pytest.raises(AppError, match="changed while it was read"):
        read("hf:org/repo/q/m-00002-of-00003.gguf")


@pytest.mark.parametrize("step", ["HEAD", "GET"])
def test_encryption_is_never_given_up(
    server: Hub, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        plain = {"Location": "http://storage.test/file"}
        safe = {"Location": "https://storage.test/file"}
        facts = {"X-Repo-Commit": COMMIT, "X-Linked-Size": "5000"}
        if request.method == "HEAD":
            return httpx2.Response(302, headers=facts | (plain if step == "HEAD" else safe))
        if request.url.scheme == "https":
            return httpx2.Response(302, headers=plain)
        size = {"Content-Range": "bytes 0-4999/5000", "ETag": '"x"'}
        return httpx2.Response(206, headers=size, content=b"GGUF" * 1250)

    monkeypatch.setenv("HF_TOKEN", "hf_right")
    huggingface_hub.close_session()
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=True)
    )
    try:
        point_at(monkeypatch, "https://hub.test")
        assert "without encryption" in refused().title
    finally:
        huggingface_hub.close_session()
        huggingface_hub.set_client_factory(default_client_factory)
    tokens = [r.headers.get("Authorization") for r in seen if r.url.host != "hub.test"]
    assert set(tokens) <= {None}


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("https://hub.example/o/r", hub.Address(repo="o/r")),
        (
            "https://hub.example/o/r/resolve/main/d/m.gguf?download=true",
            hub.Address(repo="o/r", path="d/m.gguf"),
        ),
        (
            "http://hub.example/o/r/blob/v2/m.gguf",
            hub.Address(repo="o/r", path="m.gguf", revision="v2"),
        ),
    ],
)
def test_what_a_browser_shows_is_an_address_too(page: str, address: hub.Address) -> None:
    assert hub.is_address(page)
    assert hub.parse(page) == address
    for path in ("../m.gguf", "m.safetensors"):
        with pytest.raises(AppError):
            hub.parse(f"https://hub.example/o/r/resolve/main/{path}")
