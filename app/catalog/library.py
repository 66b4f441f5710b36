"""Models already on this machine, used where they lie: whole, incomplete and damaged ones told apart."""

from __future__ import annotations

import dataclasses
import enum
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from app.catalog import names, ollama
from app.catalog.cache import AnswerCache
from app.catalog.checked import Checked, check, fingerprint
from app.catalog.places import Origin, Place
from app.catalog.walk import BLOBS, UNFINISHED, FoundFile, walk

BUDGET_S = 10.0
"""Longest time for one look at everything, in seconds."""
MAX_MODELS = 2_000

_HUB_FOLDER = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)", re.ASCII)


class State(enum.StrEnum):
    """Whether a model can be used."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Files are missing, or their download has not ended."""
    DAMAGED = "damaged"
    """All files are there, and at least one is cut, unreadable or no model."""
    UNCHECKED = "unchecked"
    """All files are there; there was no time yet to look into them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        name: What the file calls itself, else its name without extension.
        files: Those that are there, or links to those that are not; shards in their order, the
            first is the one to open.
        reason: Why it cannot be used, as a sentence; empty if it can.
        size_bytes: On disk.
        repo: The repository it is from, where the folder tells; else empty.
        parameter_count: 0 if unknown, as are the following.
        modified: When the newest file changed, in seconds since 1970.
        projectors: Files beside it that turn pictures or sound into embeddings for it.
    """

    name: str
    origin: Origin
    files: tuple[Path, ...]
    state: State
    reason: str = ""
    size_bytes: int
    repo: str = ""
    quantization: str = ""
    architecture: str = ""
    parameter_count: int = 0
    context_length: int = 0
    modified: float = 0.0
    projectors: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """All models that were found, by name, and what could not be looked at, as sentences."""

    models: tuple[LocalModel, ...]
    notices: tuple[str, ...] = ()


def scan(
    places: Iterable[Place],
    cache: Path | None = None,
    *,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.monotonic,
) -> Library:
    """The models in `places`; a file that is there twice, by link or place, counts once.

    Args:
        places: In order of preference.
        cache: The app's cache folder, so that a file is looked into once as long as it stays the same.
        budget_s: Models not looked into within it are `UNCHECKED`.
        clock: For tests.
    """
    return _Scan(cache, clock() + budget_s, clock).run(places)


class _Scan:
    """One look at everything."""

    def __init__(self, cache: Path | None, deadline: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = deadline
        self._notices: list[str] = []
        self._seen: set[tuple[int, int]] = set()
        self._checks = (
            AnswerCache(cache / "library", Checked, max_age_s=float("inf")) if cache else None
        )

    def run(self, places: Iterable[Place]) -> Library:
        found: list[LocalModel] = []
        for place in places:
            store = place.origin is Origin.OLLAMA
            wanted = (lambda _: True) if store else _may_be_model
            files = walk(place.folder, wanted, self._deadline, self._clock, self._notices)
            kind = self._ollama if store else self._gguf
            for model in kind(place, files):
                if len(found) == MAX_MODELS:
                    self._notices.append(f"Only the first {MAX_MODELS:,} models are shown.")
                    break
                found.append(model)
        found = [self._looked_into(model) for model in found]
        order = sorted(found, key=lambda m: (m.name.lower(), m.quantization, str(m.files[:1])))
        return Library(models=tuple(order), notices=tuple(dict.fromkeys(self._notices)))

    def _late(self) -> bool:
        return self._clock() > self._deadline

    def _gguf(self, place: Place, files: Sequence[FoundFile]) -> Iterator[LocalModel]:
        """Sets of GGUF files, begun downloads among them."""
        groups: dict[tuple[Path, str, int], dict[int, FoundFile]] = {}
        begun: dict[tuple[Path, str, int], dict[int, FoundFile]] = {}
        projectors: list[Path] = []
        for file in sorted(files, key=lambda f: f.path):
            unfinished = UNFINISHED.fullmatch(file.path.name)
            name = unfinished["name"] if unfinished else file.path.name
            if not name.lower().endswith(".gguf"):
                if file.path.suffix in BLOBS and _is_gguf(file.path):
                    yield self._blob(place, file)
                continue
            if names.is_projector(name):
                projectors += [] if unfinished or file.absent else [file.path]
                continue
            if names.is_importance_matrix(name):
                continue
            match = names.SHARD.fullmatch(name)
            stem = match["stem"] if match else name[: -len(".gguf")]
            number, count = (int(match["number"]), int(match["count"])) if match else (1, 0)
            target = begun if unfinished else groups
            target.setdefault((file.path.parent, stem, count), {})[number] = file
        keys = sorted(groups.keys() | begun.keys())
        for key in keys:
            model = self._set(place, key, groups.get(key, {}), begun.get(key, {}))
            if model is not None:
                alone = sum(folder == key[0] for folder, _, _ in keys) == 1
                mine = (p for p in projectors if _goes_with(p, place, model, alone=alone))
                yield dataclasses.replace(model, projectors=tuple(mine))

    def _set(
        self,
        place: Place,
        key: tuple[Path, str, int],
        there: dict[int, FoundFile],
        begun: dict[int, FoundFile],
    ) -> LocalModel | None:
        """One model; None if its files were met before."""
        folder, stem, count = key
        links = [file for file in there.values() if file.absent]
        there = {number: file for number, file in there.items() if not file.absent}
        files = [there[number] for number in sorted(there)]
        parts = [begun[number] for number in sorted(begun)]
        if not self._is_new([*files, *parts, *links]):
            return None
        # aria2 writes into the file itself, and keeps a file beside it until it is done.
        kept = {n for n, file in begun.items() if file.path.suffix == ".aria2"}
        whole = there.keys() - kept
        reason = _lacking(stem, count, whole, set(begun))
        if links and not reason:
            reason = "It is a link to a file that is not there."
        return LocalModel(
            name=names.printable(stem),
            origin=place.origin,
            files=tuple(file.path for file in files or parts or links),
            state=State.INCOMPLETE if reason else State.UNCHECKED,
            reason=reason,
            size_bytes=sum(file.size_bytes for file in [*files, *parts]),
            repo=_repository(place, folder),
            quantization=names.quantization(f"{folder.name}/{stem}"),
            modified=max((file.modified for file in [*files, *parts]), default=0.0),
        )

    def _is_new(self, files: Sequence[FoundFile]) -> bool:
        identities = {file.identity for file in files}
        new = not identities <= self._seen
        self._seen |= identities
        return new

    def _blob(self, place: Place, file: FoundFile) -> LocalModel:
        """A download that another program has begun, under a name of its own."""
        self._seen.add(file.identity)
        repo = _repository(place, file.path.parent)
        return LocalModel(
            name=repo or file.path.stem,
            origin=place.origin,
            files=(file.path,),
            state=State.INCOMPLETE,
            reason="Its download has not ended.",
            size_bytes=file.size_bytes,
            repo=repo,
            modified=file.modified,
        )

    def _ollama(self, place: Place, files: Sequence[FoundFile]) -> Iterator[LocalModel]:
        by_path = {file.path: file for file in files}
        below = place.folder / "manifests"
        manifests = sorted(path for path in by_path if path.is_relative_to(below))
        for model in ollama.models(place.folder, manifests):
            file = by_path.get(model.blob)
            if file is not None and not self._is_new([file]):
                continue
            reason = ""
            if file is None:
                reason = "Its download has not ended." if model.begun else "Its file is missing."
            elif file.size_bytes < model.size_bytes:
                reason = "Its file is shorter than its manifest says."
            cut = file is not None and bool(reason)
            yield LocalModel(
                name=names.printable(model.name),
                origin=place.origin,
                files=() if file is None else (file.path,),
                state=State.DAMAGED if cut else State.INCOMPLETE if reason else State.UNCHECKED,
                reason=reason,
                size_bytes=file.size_bytes if file else 0,
                modified=file.modified if file else 0.0,
            )

    def _looked_into(self, model: LocalModel) -> LocalModel:
        """The model with what its headers say, where there is time to read them."""
        if model.state is not State.UNCHECKED:
            return model
        if self._late():
            self._notices.append("Some models were not looked into yet.")
            return model
        if self._checks is None:
            found = check(model.files[0])
        else:
            question = "\n".join(fingerprint(path) for path in model.files)
            found = self._checks.get(question, lambda: check(model.files[0])).value
        if found.reason:
            return dataclasses.replace(model, state=State.DAMAGED, reason=found.reason)
        own = model.origin is Origin.OLLAMA
        return dataclasses.replace(
            model,
            state=State.COMPLETE,
            name=model.name if own else names.printable(found.name) or model.name,
            quantization=model.quantization or found.quantization,
            architecture=found.architecture,
            parameter_count=found.parameter_count,
            context_length=found.context_length,
        )


def _may_be_model(name: str) -> bool:
    return ".gguf" in name.lower() or name.endswith(BLOBS)


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def _lacking(stem: str, count: int, whole: set[int], unfinished: set[int]) -> str:
    """Why these files are not all of a model; empty if they are."""
    missing = names.missing_shards(stem, count, whole) if count else ""
    # Beside a shard that is there, it is one of a later commit: some may be named already.
    begun = unfinished if count > 1 else unfinished - whole
    ended = "Its download has not ended." if begun else ""
    return " ".join(part for part in (missing, ended) if part)


def _repository(place: Place, folder: Path) -> str:
    """`owner/repo`, where the folder of a place tells it."""
    parts = folder.relative_to(place.folder).parts if folder.is_relative_to(place.folder) else ()
    for part in parts:
        match = _HUB_FOLDER.fullmatch(part)
        if match:
            return f"{match['owner']}/{match['name']}"
    if place.origin in (Origin.APP, Origin.LM_STUDIO) and len(parts) >= 2:
        repo = "/".join(parts[:2])
        return repo if names.is_repository(repo) else ""
    return ""


def _goes_with(projector: Path, place: Place, model: LocalModel, *, alone: bool) -> bool:
    """True if a projector is for a model: of one repository, or beside it with its name.

    `alone` is a model that no other one is beside.
    """
    if model.repo:
        return _repository(place, projector.parent) == model.repo
    first = model.files[0]
    named = names.projects_for(projector.name, first.name)
    return projector.parent == first.parent and (alone or named)
