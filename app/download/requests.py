"""From what a person names to what is downloaded, and to what of it is here already."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from app.catalog import names, repository
from app.catalog.hub import Address
from app.catalog.repository import FileSet, HubFile, Role, Snapshot
from app.download import jobs
from app.download import journal as journals
from app.download.jobs import remove_empty
from app.download.model import DownloadFile, DownloadRequest
from app.download.preflight import part_of
from app.download.records import Records
from app.download.set_run import only_writer
from app.errors import AppError, ErrorKind
from app.gguf.header import shard_names


def of_set(
    chosen: FileSet, revision: str, folder: Path, *, projector: FileSet | None = None
) -> DownloadRequest:
    """The request for a set of files, as the Hub listed them at one commit; a projector comes last."""
    return DownloadRequest(
        repo=chosen.repo,
        revision=revision,
        commit=chosen.commit,
        files=tuple(
            DownloadFile(
                path=file.path,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                git_oid=file.git_oid,
            )
            for file in (*chosen.files, *(projector.files if projector else ()))
        ),
        folder=folder,
    )


def ask(
    addresses: Sequence[Address],
    folder: Path,
    *,
    projector: bool = False,
    read: Callable[[str, str | None], Snapshot] = repository.read_snapshot,
) -> DownloadRequest:
    """The request for the first of `addresses` that the Hub has, where wanted with its projector.

    Args:
        addresses: What is meant.
        folder: The folder of models.
        projector: Bring it along.
        read: Gives the files of a repository at a revision.

    Raises:
        AppError: It has none; the error is that of the first one.
    """
    errors = []
    for address in addresses:
        try:
            snapshot = read(address.repo, address.revision)
            sets = repository.file_sets(snapshot)
            chosen = repository.choose(sets, address)
            beside = repository.projector(sets, chosen) if projector else None
            if projector and beside is None:
                raise AppError(
                    f"{address.repo} has no projector (mmproj) for this model.",
                    hint="Leave out --mmproj, or choose another repository.",
                    kind=ErrorKind.MODEL_FILE,
                )
            return of_set(chosen, snapshot.revision, folder, projector=beside)
        except AppError as error:
            errors.append(error)
    raise errors[0]


def unfinished(
    addresses: Sequence[Address], folder: Path, records: Records
) -> DownloadRequest | None:
    """The request of an earlier time that one of `addresses` means and that has not ended, if any.

    It goes on with the commit of its beginning, even if the branch has moved since.
    """
    begun = [job.request for job in jobs.load(records) if job.request.folder == folder]
    for address in addresses:
        found = [request for request in begun if _means(address, request)]
        usual = [r for r in found if _quantization(r) == repository.DEFAULT_QUANTIZATION]
        if len(found) > 1 and not address.path and not address.quantization:
            found = usual  # as `repository.choose` does
        if found:
            return found[0]
    return None


def unfinished_at(target: Path, records: Records) -> DownloadRequest | None:
    """The request of an earlier time that is to write `target` and has not ended, if any."""
    for job in jobs.load(records):
        if target in map(job.request.target, job.request.files):
            return job.request
    return None


def _means(address: Address, request: DownloadRequest) -> bool:
    revision = address.revision or repository.DEFAULT_REVISION
    if (address.repo, revision) != (request.repo, request.revision):
        return False
    paths = [file.path for file in request.files]
    if address.path:
        return address.path in paths
    kind = names.quantization(address.quantization) or address.quantization.upper()
    return kind in ("", _quantization(request)) and not names.is_projector(paths[0])


def _quantization(request: DownloadRequest) -> str:
    return names.quantization(request.files[0].path)


def has_projector(request: DownloadRequest) -> bool:
    """True if a projector is among its files."""
    return any(names.is_projector(file.path) for file in request.files)


def written_bytes(target: Path, file: DownloadFile, commit: str, records: Records) -> int | None:
    """How much of an unfinished file is on disk, as its crash record proves; None if it is not begun."""
    if not part_of(target).is_file():
        return None
    record = journals.read(records.journal(target), commit, file)
    return record.written_bytes(file.size_bytes) if record else 0


def sets_here(repo: str, folder: Path) -> tuple[FileSet, ...]:
    """The sets of a repository in the folder of models, whole or not; all can be named."""
    root = folder.joinpath(*repo.split("/"))
    files: dict[str, HubFile] = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        name = path.relative_to(root).as_posix().removesuffix(".part")
        if path.is_file() and name.lower().endswith(".gguf"):
            files[name] = HubFile(path=name, size_bytes=path.stat().st_size)
    snapshot = Snapshot(repo=repo, revision="", commit="", files=tuple(files.values()))
    return tuple(
        dataclasses.replace(s, complete=True, reason="") for s in repository.file_sets(snapshot)
    )


def here(address: Address, folder: Path) -> FileSet | None:
    """The set in the folder of models that `address` means, whole or not; None if there is none.

    Raises:
        AppError: Several would do.
    """
    sets = sets_here(address.repo, folder)
    return repository.choose(sets, address) if sets else None


def projectors_of(chosen: FileSet, folder: Path) -> tuple[FileSet, ...]:
    """Projectors in the folder of models that are for this model alone: no other one is beside it."""
    if chosen.role is Role.PROJECTOR:
        return ()
    sets = sets_here(chosen.repo, folder)
    others = [s for s in sets if s.role is Role.MODEL and s.name != chosen.name]
    return () if others else tuple(s for s in sets if s.role is Role.PROJECTOR)


def local_files(chosen: FileSet, folder: Path) -> tuple[Path, ...]:
    """All targets of a set in the folder of models, whether they are there or not."""
    first = folder.joinpath(*chosen.repo.split("/"), *chosen.files[0].path.split("/"))
    return tuple(first.with_name(name) for name in shard_names(first.name))


def delete(targets: Sequence[Path], records: Records) -> int:
    """Delete files, their parts, and all that is remembered of them; returns the bytes.

    Raises:
        DownloadError: One is being downloaded; then none is deleted.
        OSError: One cannot be deleted.
    """
    with contextlib.ExitStack() as held:
        for target in targets:
            held.enter_context(only_writer(records, target))
        return _delete(targets, records)


def _delete(targets: Sequence[Path], records: Records) -> int:
    freed = 0
    for target in targets:
        for path in (target, part_of(target)):
            if path.is_file():
                status = path.stat()
                freed += getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
                path.unlink()
        records.forget(target)
    return freed


def forget(targets: Sequence[Path], folder: Path, records: Records) -> None:
    """Take downloads of `targets` out of the queue of later processes, and empty folders away."""
    for job in jobs.load(records):
        if {job.request.target(file) for file in job.request.files} & set(targets):
            job.forget()
    for target in targets:
        remove_empty(target.parent, folder)
