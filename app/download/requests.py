"""From what a person names to what is downloaded, and to what of it is here already."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from app.catalog import names, repository
from app.catalog.hub import Address
from app.catalog.repository import FileSet, HubFile, Snapshot
from app.download import jobs
from app.download.jobs import remove_empty
from app.download.model import DownloadFile, DownloadRequest
from app.download.preflight import part_of
from app.download.records import Records
from app.errors import AppError


def of_set(chosen: FileSet, revision: str, folder: Path) -> DownloadRequest:
    """The request for a set of files, as the Hub listed them at one commit."""
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
            for file in chosen.files
        ),
        folder=folder,
    )


def ask(addresses: Sequence[Address], folder: Path) -> DownloadRequest:
    """The request for the first of `addresses` that the Hub has.

    Raises:
        AppError: It has none; the error is that of the first one.
    """
    errors = []
    for address in addresses:
        try:
            snapshot = repository.read_snapshot(address.repo, address.revision)
            chosen = repository.choose(repository.file_sets(snapshot), address)
            return of_set(chosen, snapshot.revision, folder)
        except AppError as error:
            errors.append(error)
    raise errors[0]


def unfinished(
    addresses: Sequence[Address], folder: Path, records: Records
) -> DownloadRequest | None:
    """The request of an earlier time that one of `addresses` means and that has not ended, if any.

    It goes on with the commit of its beginning, even if the branch has moved since.
    """
    for job in jobs.load(records):
        for address in addresses:
            if job.request.folder == folder and _means(address, job.request):
                return job.request
    return None


def _means(address: Address, request: DownloadRequest) -> bool:
    revision = address.revision or repository.DEFAULT_REVISION
    if (address.repo, revision) != (request.repo, request.revision):
        return False
    paths = [file.path for file in request.files]
    if address.path:
        return address.path in paths
    kind = names.quantization(address.quantization) or repository.DEFAULT_QUANTIZATION
    return names.quantization(paths[0]) == kind


def here(address: Address, folder: Path) -> FileSet | None:
    """The set in the folder of models that `address` means, whole or not; None if there is none.

    Raises:
        AppError: Several would do.
    """
    root = folder.joinpath(*address.repo.split("/"))
    files: dict[str, HubFile] = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        name = path.relative_to(root).as_posix().removesuffix(".part")
        if path.is_file() and name.endswith(".gguf"):
            files[name] = HubFile(path=name, size_bytes=path.stat().st_size)
    snapshot = Snapshot(repo=address.repo, revision="", commit="", files=tuple(files.values()))
    # What is not whole can be named all the same.
    sets = [
        dataclasses.replace(s, complete=True, reason="") for s in repository.file_sets(snapshot)
    ]
    return repository.choose(sets, address) if sets else None


def local_files(chosen: FileSet, folder: Path) -> tuple[Path, ...]:
    """The targets of a set in the folder of models, with or without their last bytes."""
    root = folder.joinpath(*chosen.repo.split("/"))
    return tuple(root.joinpath(*file.path.split("/")) for file in chosen.files)


def delete(targets: Sequence[Path], records: Records) -> int:
    """Delete files, their parts, and all that is remembered of them; returns the bytes.

    Raises:
        OSError: One cannot be deleted.
    """
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
