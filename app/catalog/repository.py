"""A repository of the Hub at one commit: its files, and the sets of files that make a model.

Names and sizes come from whoever made the repository; what could harm is left out here, so that
nothing behind this module meets it.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import pydantic
from huggingface_hub.utils import validate_repo_id

from app.catalog import api, names
from app.catalog import hub_errors as told
from app.catalog.hub import Address
from app.errors import AppError, ErrorKind

DEFAULT_REVISION = "main"
DEFAULT_QUANTIZATION = "Q4_K_M"
"""What llama.cpp's `-hf` takes, too, where none is named."""
MAX_FILES = 100_000
MAX_FILE_BYTES = 2**43
"""8 TiB, sixteen times the largest file that the Hub takes."""

_PROJECTOR_TYPES = ("F16", "BF16", "Q8_0", "F32")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a commit.

    Attributes:
        path: In the repository, with slashes; relative, and safe on every system.
        sha256: Of the content (its LFS oid), or None for a small file that git itself keeps.
        git_oid: The git blob's id; of an LFS file that of its pointer.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    git_oid: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All files of a repository at one commit.

    Attributes:
        revision: What was asked for, a branch for example.
        commit: What that was at the time; all is read from it.
        files: By path.
        gated: True if its owner lets people in one by one; the list can be read all the same.
        refused: Names of files left out because of their name or size, made printable.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    gated: bool = False
    private: bool = False
    refused: tuple[str, ...] = ()


class _Info(pydantic.BaseModel):
    """What `/api/models/{repo}/revision/{revision}` says, as far as it matters."""

    sha: str
    gated: bool | str = False
    private: bool = False


class _Lfs(pydantic.BaseModel):
    oid: str
    size: int


class _Entry(pydantic.BaseModel):
    """A file or folder of `/api/models/{repo}/tree/{commit}`."""

    type: str
    path: str
    size: int = 0
    oid: str | None = None
    lfs: _Lfs | None = None


_PAGE = pydantic.TypeAdapter(list[_Entry])


def read_snapshot(repo: str, revision: str | None = None) -> Snapshot:
    """The files of `owner/repo` at `revision`, which is turned into a commit once.

    Raises:
        AppError: The Hub cannot be reached, or does not have or show the repository.
    """
    wanted = revision or DEFAULT_REVISION
    with told.as_app_errors(repo):
        validate_repo_id(repo)
    try:
        info = _Info.model_validate(
            api.get(f"/api/models/{repo}/revision/{quote(wanted, safe='')}", {}, name=repo)
        )
        if not _COMMIT.fullmatch(info.sha):
            raise told.no_hub(repo, "It names no commit.")
        entries = [entry for page in _tree(repo, info.sha) for entry in page]
    except pydantic.ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "answer"
        raise told.no_hub(repo, f"Its {where} is not what a Hub's is.") from None
    files: dict[str, HubFile] = {}
    refused = []
    for entry in entries:
        if entry.type != "file":
            continue
        file = _file(entry)
        # Where case does not count, one would overwrite the other.
        if file is None or file.path.casefold() in files:
            refused.append(ascii(entry.path)[1:-1][:200])
        else:
            files[file.path.casefold()] = file
    return Snapshot(
        repo=repo,
        revision=wanted,
        commit=info.sha,
        files=tuple(sorted(files.values(), key=lambda file: file.path)),
        gated=bool(info.gated),
        private=info.private,
        refused=tuple(refused),
    )


def _tree(repo: str, commit: str) -> Iterator[list[_Entry]]:
    count = 0
    for page in api.pages(f"/api/models/{repo}/tree/{commit}", {"recursive": True}, name=repo):
        entries = _PAGE.validate_python(page)
        count += len(entries)
        if count > MAX_FILES:
            raise told.no_hub(repo, f"It lists more than {MAX_FILES:,} files.")
        yield entries


def _file(entry: _Entry) -> HubFile | None:
    """The file, or None if nothing good can come of it."""
    sha256 = entry.lfs.oid.removeprefix("sha256:") if entry.lfs else None
    if entry.lfs is not None and entry.lfs.size != entry.size:
        return None
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        return None
    if entry.oid is not None and not _COMMIT.fullmatch(entry.oid):
        return None
    if not names.safe_path(entry.path) or not 0 <= entry.size <= MAX_FILE_BYTES:
        return None
    return HubFile(path=entry.path, size_bytes=entry.size, sha256=sha256, git_oid=entry.oid)


class Role(enum.StrEnum):
    """What a set of files is for."""

    MODEL = "model"
    PROJECTOR = "projector"
    """`mmproj`: pictures or sound for a model; an option beside it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """The files that are loaded together: one, or the shards of a split one.

    Attributes:
        name: Path without shard number and extension.
        quantization: As the name tells, in upper case; empty if it does not.
        files: Shards in their order; the first is the one that llama.cpp opens.
        complete: True if it can be used as it is.
        reason: Why not, as a sentence; empty if it can.
    """

    repo: str
    commit: str
    name: str
    role: Role
    quantization: str
    files: tuple[HubFile, ...]
    complete: bool
    reason: str = ""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def address(self) -> Address:
        """What opens it with `app.catalog.hub.open_files`."""
        return Address(repo=self.repo, path=self.files[0].path, revision=self.commit)


def file_sets(snapshot: Snapshot) -> tuple[FileSet, ...]:
    """The models in a repository, the smallest first, then projectors; whole ones and others."""
    groups: dict[tuple[str, int, bool], list[tuple[int, HubFile]]] = {}
    for file in snapshot.files:
        found = _place(file.path)
        if found is not None:
            stem, number, count, parts = found
            groups.setdefault((stem, count, parts), []).append((number, file))
    sets = [
        _file_set(snapshot, stem, count, parts, sorted(found, key=lambda item: item[0]))
        for (stem, count, parts), found in groups.items()
    ]
    return tuple(sorted(sets, key=lambda s: (s.role is Role.PROJECTOR, s.size_bytes, s.name)))


def named_sets(snapshot: Snapshot) -> dict[str, FileSet]:
    """The models of a repository by the shortest name that tells them apart: see `set_names`."""
    models = [found for found in file_sets(snapshot) if found.role is Role.MODEL]
    return dict(zip(set_names(models), models, strict=True))


def set_names(sets: Sequence[FileSet]) -> tuple[str, ...]:
    """What to call each of these: quantization, name, name with folders, or file; what no other one has.

    Sets that cannot be used are in the way of their like alone.
    """

    def called(one: FileSet) -> tuple[str, ...]:
        return one.quantization, one.name.rpartition("/")[2], one.name

    whole = Counter(name for one in sets if one.complete for name in {*called(one)})
    every = Counter(name for one in sets for name in {*called(one)})
    return tuple(
        next(
            (n for n in called(one) if n and (whole if one.complete else every)[n] == 1),
            one.files[0].path,
        )
        for one in sets
    )


def _place(path: str) -> tuple[str, int, int, bool] | None:
    """Stem, shard number, number of shards (0 if not split), and if it is split in another way.

    None for a file that is no part of a model.
    """
    folder, slash, name = path.rpartition("/")
    joined = names.joined_name(name)
    if joined is not None and "gguf" in name.lower():
        return folder + slash + joined, 0, 0, True
    if not name.lower().endswith(".gguf") or names.is_importance_matrix(path):
        return None
    match = names.SHARD.fullmatch(name)
    if match is None:
        return path[: -len(".gguf")], 1, 0, False
    return folder + slash + match["stem"], int(match["number"]), int(match["count"]), False


def _file_set(
    snapshot: Snapshot, stem: str, count: int, parts: bool, found: list[tuple[int, HubFile]]
) -> FileSet:
    files = tuple(file for _, file in found)
    reason = ""
    if parts:
        reason = "Its parts must be joined before use; choose a set that need not be."
    elif count:
        reason = names.missing_shards(stem.rpartition("/")[2], count, {n for n, _ in found})
    if not reason and any(not file.size_bytes for file in files):
        reason = "A file of it is empty."
    return FileSet(
        repo=snapshot.repo,
        commit=snapshot.commit,
        name=stem,
        role=Role.PROJECTOR if names.is_projector(stem) else Role.MODEL,
        quantization=names.quantization(stem),
        files=files,
        complete=not reason,
        reason=reason,
    )


def choose(sets: Sequence[FileSet], address: Address) -> FileSet:
    """The set that an address means: by file, by quantization, or the only or usual one.

    Raises:
        AppError: There is none, it is not complete, or several would do.
    """
    models = [s for s in sets if s.role is Role.MODEL]
    if address.path:
        found = [s for s in sets if any(file.path == address.path for file in s.files)]
    elif address.quantization:
        wanted = names.quantization(address.quantization) or address.quantization.upper()
        found = [s for s in models if s.quantization == wanted]
    else:
        whole = [s for s in models if s.complete]
        usual = [s for s in whole if s.quantization == DEFAULT_QUANTIZATION]
        found = whole if len(whole) == 1 else usual
    whole = [s for s in found if s.complete]
    if len(whole) == 1:
        return whole[0]
    raise _undecided(address, models, whole or found)


def projector(sets: Sequence[FileSet], chosen: FileSet) -> FileSet | None:
    """The projector (`mmproj`) that goes with a model of the same repository; None if it has none.

    One beside the model comes before those of other folders. Its type is not the model's: 16 bits
    are usual, since it is small.
    """
    folder = chosen.name.rpartition("/")[0]
    found = [s for s in sets if s.role is Role.PROJECTOR and s.complete]

    def rank(one: FileSet) -> tuple[bool, int, int]:
        kind = one.quantization
        usual = _PROJECTOR_TYPES.index(kind) if kind in _PROJECTOR_TYPES else len(_PROJECTOR_TYPES)
        return one.name.rpartition("/")[0] != folder, usual, one.size_bytes

    return None if chosen.role is Role.PROJECTOR else min(found, key=rank, default=None)


def find(address: Address) -> FileSet:
    """The set that an address means, asked of the Hub now.

    Raises:
        AppError: As `read_snapshot` and `choose`.
    """
    return choose(file_sets(read_snapshot(address.repo, address.revision)), address)


def _undecided(address: Address, models: list[FileSet], found: list[FileSet]) -> AppError:
    """Why no set, or no single one, is meant by an address."""
    kinds = list(dict.fromkeys(s.quantization or s.name for s in models if s.complete))
    asked = address.path or address.quantization
    if not models:
        return AppError(
            f"{address.repo} holds no GGUF model.",
            hint="Search for a repository with GGUF files of the model.",
            kind=ErrorKind.MODEL_FILE,
        )
    if len(found) == 1:
        return AppError(
            f"{found[0].name} in {address.repo} cannot be used.",
            detail=found[0].reason,
            hint=f"Choose another one of {', '.join(kinds)}." if kinds else "",
            kind=ErrorKind.MODEL_FILE,
        )
    if found:
        paths = ", ".join(f"hf:{s.repo}/{s.files[0].path}" for s in found[:6])
        return AppError(
            f"{address.repo} holds several models of that description.",
            hint=f"Name a file: {paths}.",
            kind=ErrorKind.USAGE,
        )
    return AppError(
        f"{address.repo} has no {asked}." if asked else f"{address.repo} holds several models.",
        hint=f"Name one of {', '.join(kinds)}, such as hf:{address.repo}:{kinds[0]}."
        if kinds
        else "",
        kind=ErrorKind.MODEL_FILE if asked else ErrorKind.USAGE,
    )
