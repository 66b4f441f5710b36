"""What the service tells of models: the Hub on loopback, a machine that is described."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from app import paths
from app.catalog import entries
from app.catalog.library import LocalModel, State
from app.catalog.places import Origin
from app.catalog.repository import FileSet, HubFile, Role
from app.download.model import (
    Download,
    DownloadFile,
    DownloadRequest,
    DownloadState,
    FileProgress,
    Progress,
)
from app.errors import ErrorKind
from app.events import (
    AppEvent,
    CatalogListed,
    ChoicePlanned,
    HubSearched,
    LibraryScanned,
    ModelExplained,
    ModelStudied,
    RepositoriesRead,
)
from app.plan.model import PlanHost, Verdict
from app.plan.overview import Machine
from app.service.models import ModelService
from app.service.subjects import OfferKind, Subject, of_entry, of_local, of_repository, offer
from app.units import GIB
from tests.app.catalog.conftest import server
from tests.helpers.hub import Hub, Repo
from tests.helpers.machines import cards
from tests.helpers.split import split

__all__ = ["server"]
TIMEOUT_S = 30
EIGHT = Machine(
    devices=cards([24] * 8), host=PlanHost(total_bytes=128 * GIB, available_bytes=120 * GIB)
)
T = TypeVar("T", bound=AppEvent)


class Log:
    """The events so far, which tests wait for."""

    def __init__(self) -> None:
        self.events: list[AppEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: AppEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, kind: type[T], condition: Callable[[T], object] = lambda _: True) -> T:
        """The last event of a kind for which `condition` holds."""
        deadline = time.monotonic() + TIMEOUT_S
        with self._changed:
            while True:
                found = [e for e in self.events if isinstance(e, kind) and condition(e)]
                if found:
                    return found[-1]
                left = deadline - time.monotonic()
                assert left > 0, self.events
                self._changed.wait(left)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def models(log: Log) -> Iterator[ModelService]:
    service = ModelService(paths.folders(), log, lambda: EIGHT, lambda: ())
    yield service
    service.close()


def test_the_catalog_is_told_at_once_and_then_how_it_suits_the_machine(
    models: ModelService, log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    models.list_all()
    first = log.events[0]
    assert isinstance(first, CatalogListed)
    assert first.entries == entries.entries()
    fits = log.wait(CatalogListed, lambda event: event.fits).fits
    assert fits["nemotron-ultra-253b"].verdict is Verdict.FITS
    assert 140e9 < fits["nemotron-ultra-253b"].size_bytes < 170e9
    assert not any(fit.likely for fit in fits.values()), "of all of them the layers are known"
    log.wait(LibraryScanned)


def test_the_flagships_page_fills_row_by_row_and_its_best_cell_is_planned_exactly(
    models: ModelService, log: Log
) -> None:
    entry = entries.find("nemotron-ultra-253b")
    assert entry is not None
    subject = dataclasses.replace(of_entry(entry), repos=())
    models.open(subject)
    done = log.wait(ModelStudied, lambda event: not event.reading)
    counts = [len(e.overview.rows) for e in log.events if isinstance(e, ModelStudied)]
    assert counts == sorted(counts)
    assert len(counts) > 20
    best = done.overview.best
    assert best is not None
    assert best.name == "Q4_K_M"
    models.plan_choice(subject, best.name, best.best)
    planned = log.wait(ChoicePlanned)
    assert planned.plan.verdict is Verdict.FITS
    answers = dict(log.wait(ModelExplained).answers)
    assert "150.9 GB" in answers["How large is the download?"]


def test_a_repository_is_planned_from_headers_and_offered_for_download(
    models: ModelService, log: Log, server: Hub, starter_model: Path, tmp_path: Path
) -> None:
    for file in split(starter_model, tmp_path / "served", "tiny-Q4_1", 33_000_000):
        server.files[f"acme/tiny-GGUF/{file.name}"] = file
    subject = of_repository("acme/tiny-GGUF")
    models.open(subject)
    read = log.wait(RepositoriesRead)
    assert len(read.sets["Q4_1"].files) == 3
    done = log.wait(ModelStudied, lambda event: not event.reading)
    assert done.error is None
    assert [row.name for row in done.overview.rows] == ["Q4_1"]
    assert server.sent_bytes < 16 * 2**20
    found = models.offer(subject, "Q4_1", (), None, "")
    assert (found.kind, found.words) == (OfferKind.DOWNLOAD, "Download Q4_1, 98.4 MB")


def test_a_repository_that_is_gone_hides_no_other(
    models: ModelService, log: Log, server: Hub, starter_model: Path
) -> None:
    server.files["acme/tiny-GGUF/tiny-Q4_1.gguf"] = starter_model
    server.repos["acme/gone-GGUF"] = Repo(private=True)  # the Hub answers as to one that is absent
    subject = dataclasses.replace(
        of_repository("acme/tiny-GGUF"), repos=("acme/gone-GGUF", "acme/tiny-GGUF")
    )
    models.open(subject)
    read = log.wait(RepositoriesRead)
    assert (read.error, set(read.sets)) == (None, {"Q4_1"})


def test_a_damaged_file_says_so_on_its_page(models: ModelService, log: Log, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF\x03")
    cut = LocalModel(
        name="cut", origin=Origin.APP, files=(path,), state=State.DAMAGED, size_bytes=5
    )
    models.open(of_local(cut))
    done = log.wait(ModelStudied, lambda event: not event.reading)
    assert done.error is not None
    assert done.error.kind is ErrorKind.MODEL_FILE
    assert not done.overview.rows


def test_only_the_newest_search_is_answered_and_offline_the_kept_answer_says_so(
    models: ModelService, log: Log, server: Hub
) -> None:
    server.latency_s = 0.2
    for words in ("a", "ab", "re"):
        models.search(words)
    answered = log.wait(HubSearched, lambda event: event.words == "re")
    assert answered.answer is not None
    assert [r.repo for r in answered.answer.value] == ["org/repo"]
    assert not [e for e in log.events if isinstance(e, HubSearched) and e.words == "ab"]
    server.latency_s = 0.0
    server.faults.status = 503
    models.search("re", refresh=True)
    kept = log.wait(HubSearched, lambda event: event.answer is not None and event.answer.notice)
    assert kept.answer is not None
    assert [r.repo for r in kept.answer.value] == ["org/repo"]
    models.search("never asked")
    failed = log.wait(HubSearched, lambda event: event.words == "never asked")
    assert failed.error is not None
    assert failed.error.kind is ErrorKind.NETWORK


# --- the one button ---------------------------------------------------------------

FILES = (
    HubFile(path="a-00001-of-00002.gguf", size_bytes=60),
    HubFile(path="a-00002-of-00002.gguf", size_bytes=40),
)
SET = FileSet(
    repo="acme/a", commit="c" * 40, name="a", role=Role.MODEL, quantization="Q4_K_M",
    files=FILES, complete=True,
)  # fmt: skip
SUBJECT = Subject(key="hf:acme/a", name="a", repos=("acme/a",))


def download(state: DownloadState, written: int) -> Download:
    request = DownloadRequest(
        repo="acme/a", revision="main", commit="c" * 40, folder=Path("/models"),
        files=tuple(DownloadFile(path=f.path, size_bytes=f.size_bytes) for f in FILES),
    )  # fmt: skip
    files = tuple(
        FileProgress(
            path=f.path, size_bytes=f.size_bytes, written_bytes=min(written, f.size_bytes),
            hashed_bytes=0, verified=False,
        )
        for f in FILES
    )  # fmt: skip
    return Download(request=request, state=state, progress=Progress(files=files))


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (None, OfferKind.DOWNLOAD, "Download Q4_K_M, 0.1 kB"),
        (DownloadState.DOWNLOADING, OfferKind.SHOW_DOWNLOAD, "Downloading, 80 %"),
        (DownloadState.PAUSED, OfferKind.RESUME, "Resume (0.0 kB left)"),
        (DownloadState.FAILED, OfferKind.RESUME, "Resume (0.0 kB left)"),
        (DownloadState.DONE, OfferKind.LOAD, "Load"),
    ],
)
def test_the_button_follows_the_download(
    state: DownloadState | None, kind: OfferKind, words: str
) -> None:
    queue = [] if state is None else [download(state, 40)]
    found = offer(SUBJECT, "Q4_K_M", found=SET, models=(), downloads=queue, loaded=None, absent="")
    assert (found.kind, found.words) == (kind, words)


def test_what_is_on_disk_is_loaded_and_what_is_loaded_is_talked_to() -> None:
    path = Path("/models/acme/a/a-00001-of-00002.gguf")
    local = LocalModel(
        name="a", origin=Origin.APP, files=(path,), state=State.COMPLETE, size_bytes=100,
        repo="acme/a", quantization="Q4_K_M",
    )  # fmt: skip
    options = {"found": SET, "models": [local], "downloads": (), "absent": ""}
    assert offer(SUBJECT, "Q4_K_M", loaded=None, **options).kind is OfferKind.LOAD  # type: ignore[arg-type]
    assert offer(SUBJECT, "Q4_K_M", loaded=path, **options).kind is OfferKind.OPEN_CHAT  # type: ignore[arg-type]
    broken = dataclasses.replace(local, state=State.DAMAGED)
    options["models"] = [broken]
    assert offer(SUBJECT, "Q4_K_M", loaded=None, **options).kind is OfferKind.DOWNLOAD  # type: ignore[arg-type]


def test_without_files_the_button_says_why() -> None:
    found = offer(
        SUBJECT, "Q8_0", found=None, models=(), downloads=(), loaded=None, absent="Nobody has it."
    )
    assert (found.kind, found.reason) == (OfferKind.NONE, "Nobody has it.")
