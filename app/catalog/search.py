"""Look-ups on the Hub whose answers are kept: repositories by words, files of a repository."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
from huggingface_hub import constants

from app.catalog import api, hub, names, repository, tokens
from app.catalog import hub_errors as told
from app.catalog.cache import Answer, AnswerCache
from app.catalog.repository import FileSet, Snapshot
from app.errors import AppError, ErrorKind
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout_from

LIMIT = 50
SEARCH_AGE_S = 3600.0
SNAPSHOT_AGE_S = 600.0
_EXPAND = ("downloads", "likes", "lastModified", "gated", "private", "gguf")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoundRepository:
    """One repository with GGUF files.

    Attributes:
        repo: `owner/repo`.
        downloads: In the last month.
        modified: When it last changed, in UTC; None if unknown.
        gated: True if its owner lets people in one by one.
        parameters: Weights of the model in it; None if unknown.
        architecture: llama.cpp's name; empty if unknown.
        context_length: Tokens the model was trained for; None if unknown.
    """

    repo: str
    downloads: int
    likes: int
    modified: datetime.datetime | None
    gated: bool
    private: bool
    parameters: int | None
    architecture: str
    context_length: int | None


class _Gguf(pydantic.BaseModel):
    total: int | None = None
    architecture: str = ""
    context_length: int | None = None


class _Item(pydantic.BaseModel):
    """An entry of `/api/models`."""

    id: str
    downloads: int = 0
    likes: int = 0
    lastModified: datetime.datetime | None = None  # noqa: N815 - the Hub's name
    gated: bool | str = False
    private: bool = False
    gguf: _Gguf | None = None


class HubLookUps:
    """Asks the Hub, or a cache in `folder` where that is new enough or the Hub is out of reach."""

    def __init__(self, folder: Path) -> None:
        """Keep answers below `folder`, the app's cache folder."""
        self._searches: AnswerCache[tuple[FoundRepository, ...]] = AnswerCache(
            folder / "hub" / "searches", tuple[FoundRepository, ...], max_age_s=SEARCH_AGE_S
        )
        self._snapshots: AnswerCache[Snapshot] = AnswerCache(
            folder / "hub" / "snapshots", Snapshot, max_age_s=SNAPSHOT_AGE_S
        )
        # A commit never changes.
        self._layouts: AnswerCache[ModelLayout] = AnswerCache(
            folder / "hub" / "layouts", ModelLayout, max_age_s=float("inf")
        )

    def search(
        self, words: str, *, limit: int = LIMIT, refresh: bool = False
    ) -> Answer[tuple[FoundRepository, ...]]:
        """GGUF repositories whose names hold `words`, the most downloaded first.

        Raises:
            AppError: The Hub cannot be asked, and nothing is kept.
        """
        words = " ".join(words.split())
        return self._searches.get(
            _question("search", words.lower(), str(limit)),
            lambda: search(words, limit=limit),
            refresh=refresh,
        )

    def snapshot(
        self, repo: str, revision: str | None = None, *, refresh: bool = False
    ) -> Answer[Snapshot]:
        """The files of a repository.

        Raises:
            AppError: As `repository.read_snapshot`, where nothing is kept.
        """
        return self._snapshots.get(
            _question("snapshot", repo, revision or repository.DEFAULT_REVISION),
            lambda: repository.read_snapshot(repo, revision),
            refresh=refresh,
        )

    def layout(self, found: FileSet) -> ModelLayout:
        """The layers of a set, of which only the headers are read, and only once.

        Raises:
            AppError: They cannot be read, or are no whole GGUF model.
        """
        return self._layouts.get(
            _question("layout", found.repo, found.commit, found.files[0].path),
            lambda: read_layout_from(hub.open_files(found.address)),
        ).value


def _question(*parts: str) -> str:
    """What an answer depends on: also the Hub, and whose token it was asked with."""
    token = tokens.get() or ""
    who = hashlib.sha256(token.encode()).hexdigest()[:16] if token else ""
    return "\n".join((constants.ENDPOINT, who, *parts))


def search(words: str, *, limit: int = LIMIT) -> tuple[FoundRepository, ...]:
    """GGUF repositories whose names hold `words`, the most downloaded first, asked of the Hub now.

    Raises:
        AppError: The Hub cannot be asked.
    """
    name = f"The list of models for “{words}”"
    found: list[FoundRepository] = []
    try:
        for page in _pages(words, limit, name):
            found += (item for raw in page if (item := _found(raw)) is not None)
            if len(found) >= limit:
                break
    except told.AbsentError as error:
        raise AppError(
            f"{constants.ENDPOINT} has no search.",
            detail="Mirrors often have none.",
            hint="Name a repository, as hf:owner/repo, or unset HF_ENDPOINT.",
            kind=ErrorKind.NETWORK,
        ) from error
    return tuple(found[:limit])


def _pages(words: str, limit: int, name: str) -> Iterator[list[Any]]:
    params: dict[str, str | int | bool | list[str]] = {
        "filter": "gguf",
        "search": words,
        "sort": "downloads",
        "direction": -1,
        "limit": limit,
        "expand": list(_EXPAND),
    }
    for page in api.pages("/api/models", params, name=name):
        if not isinstance(page, list):
            raise told.no_hub(name, "Its answer is no list.")
        yield page


def _found(raw: object) -> FoundRepository | None:
    """The repository; None if its entry makes no sense, which is no reason to show nothing."""
    try:
        item = _Item.model_validate(raw)
    except pydantic.ValidationError:
        return None
    if not names.is_repository(item.id):
        return None
    gguf = item.gguf or _Gguf()
    return FoundRepository(
        repo=item.id,
        downloads=max(0, item.downloads),
        likes=max(0, item.likes),
        modified=item.lastModified,
        gated=bool(item.gated),
        private=item.private,
        parameters=gguf.total if gguf.total and gguf.total > 0 else None,
        architecture=names.printable(gguf.architecture, 40),
        context_length=gguf.context_length
        if gguf.context_length and gguf.context_length > 0
        else None,
    )
