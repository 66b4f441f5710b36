"""The union of all events that the core sends, so that a `match` over them is checked exhaustively."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path

from app.catalog.cache import Answer
from app.catalog.library import Library
from app.catalog.model import ModelEntry
from app.catalog.repository import FileSet, Snapshot
from app.catalog.search import FoundRepository
from app.chat.events import ChatEvent
from app.download.model import DownloadEvent
from app.engine.model import EngineEvent
from app.engine.tuner import TuningEvent
from app.errors import AppError
from app.gguf.model import ModelLayout
from app.hardware.model import HardwareReport, HardwareSampled
from app.plan import least
from app.plan.larger import LargerContext
from app.plan.model import LoadPlan
from app.plan.overview import Fit, Overview
from app.settings.model import Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HardwareDetected:
    """The machine was looked at."""

    report: HardwareReport


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelChosen:
    """A model file's header was read; no plan for it yet."""

    layout: ModelLayout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanChanged:
    """There is a new plan for the chosen model on this machine."""

    plan: LoadPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanPreviewed:
    """The exact plan that other settings would give, or why they give none; nothing was changed."""

    settings: Settings
    plan: LoadPlan | None
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """One thing to do about a fault, worked out already.

    Attributes:
        title: What a button says.
        effect: What comes of it, a phrase.
        settings: With which the model is planned and loaded again; None if no setting helps.
        quantization: To be downloaded, where that is the way.
        looks_again: The machine is looked at first, as what changes is outside the app.
    """

    title: str
    effect: str
    settings: Settings | None = None
    quantization: str = ""
    looks_again: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WaysOutFound:
    """What is wrong with the model's load, in one sentence, and what can be done, best first.

    Attributes:
        sentence: Empty once nothing is wrong any more.
        detail: What was seen, in sentences; may be empty.
        good: It is good news: a device is back.
    """

    sentence: str = ""
    detail: str = ""
    ways: tuple[WayOut, ...] = ()
    good: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextOffered:
    """Which longer context fits beside the loaded model, and what it takes, as a sentence."""

    offer: LargerContext
    sentence: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingsChanged:
    """The settings were changed and stored."""

    settings: Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SettingRefused:
    """A setting that had to be checked first is not possible, and was not stored."""

    key: str
    value: object
    problem: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CatalogListed:
    """The catalog, and how each entry suits this machine (by id; missing until that is known)."""

    entries: tuple[ModelEntry, ...]
    fits: Mapping[str, Fit]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LibraryScanned:
    """What is on this machine, and how it suits it (by the path of the first file)."""

    library: Library
    fits: Mapping[str, Fit]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubSearched:
    """What a search on the Hub found; `error` if there is no answer, not even an old one."""

    words: str
    answer: Answer[tuple[FoundRepository, ...]] | None
    fits: Mapping[str, Fit]
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RepositoriesRead:
    """What can be downloaded of a model, one set a quantization (by the row's name).

    Attributes:
        key: Whose page it is for.
        answers: The repositories that were read, the most usual one first.
        sets: What is offered, projectors left out.
        error: Why there is nothing; None if there is.
    """

    key: str
    answers: tuple[Answer[Snapshot], ...]
    sets: Mapping[str, FileSet]
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelStudied:
    """How the quantizations of a model suit this machine, as far as it is worked out.

    Attributes:
        reading: What is read for it now, in words; empty when nothing more comes.
    """

    key: str
    overview: Overview
    reading: str = ""
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChoicePlanned:
    """The exact plan of one quantization with one context, on a model's page."""

    key: str
    name: str
    layout: ModelLayout
    plan: LoadPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """A related model: what it is to this one, and how it suits this machine."""

    entry: ModelEntry
    relation: str
    note: str
    fit: Fit | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HardwareFound:
    """The least of each GPU that holds one quantization with one context."""

    key: str
    name: str
    context: int
    machines: tuple[least.Machine, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelExplained:
    """What the catalog says beside facts: usual questions with answers, related models."""

    key: str
    answers: tuple[tuple[str, str], ...]
    related: tuple[Related, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoldersMeasured:
    """The folders that take downloads, the next one's first, with free bytes; None: it is not there."""

    folders: tuple[tuple[Path, int | None], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerified:
    """How far the files of a model on disk are hashed, and at the end what came of it.

    Attributes:
        key: The path of the first file.
        stopped: It ended because a person wished so.
        wrong: Files that are damaged or missing.
        unchecked: How many have no published checksum, so that only their size could be compared.
        against: The repository whose files of today these were compared with; empty if it is
            known what they were when they were downloaded.
        can_mend: What is wrong can be fetched again in its place.
    """

    key: str
    done_bytes: int = 0
    size_bytes: int = 0
    ended: bool = False
    stopped: bool = False
    files: int = 0
    wrong: tuple[Path, ...] = ()
    unchecked: int = 0
    against: str = ""
    can_mend: bool = False
    error: AppError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeleted:
    """The files of a model are gone."""

    key: str
    files: int
    freed_bytes: int


FileEvent = FoldersMeasured | ModelVerified | ModelDeleted
ModelEvent = (
    CatalogListed
    | LibraryScanned
    | HubSearched
    | RepositoriesRead
    | ModelStudied
    | ChoicePlanned
    | HardwareFound
    | ModelExplained
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeasured:
    """How large the chat's KV cache is, in bytes and tokens, and what room there is for it.

    Attributes:
        kept_bytes: What all saved ones take, of `limit_bytes`.
        free_bytes: On their disk.
    """

    size_bytes: int
    tokens: int
    kept_bytes: int
    limit_bytes: int
    free_bytes: int


class SnapshotState(enum.StrEnum):
    """What happens to a saved KV cache."""

    SAVING = "saving"
    SAVED = "saved"
    RESTORED = "restored"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChanged:
    """The chat's KV cache is being saved, was saved, restored or thrown away, or why that failed."""

    state: SnapshotState
    sentence: str
    size_bytes: int = 0
    tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRaised:
    """What is loaded works, but badly: not to be overlooked until it is gone or dismissed."""

    error: AppError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRaised:
    """Something to tell in one line; nothing failed."""

    sentence: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailed:
    """Something that the person asked for did not work."""

    error: AppError


AppEvent = (
    HardwareDetected
    | HardwareSampled
    | ModelChosen
    | PlanChanged
    | PlanPreviewed
    | WaysOutFound
    | ContextOffered
    | SettingsChanged
    | SettingRefused
    | NoticeRaised
    | AlarmRaised
    | OperationFailed
    | SnapshotMeasured
    | SnapshotChanged
    | EngineEvent
    | TuningEvent
    | ChatEvent
    | ModelEvent
    | FileEvent
    | DownloadEvent
)
