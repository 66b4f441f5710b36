"""A model that is here already while the Hub is out of reach: checked by whatever is known of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from app import paths, units
from app.catalog import repository
from app.catalog.hub import Address
from app.catalog.search import HubLookUps
from app.cli import where
from app.cli.counter import counter
from app.download import requests, verify
from app.download.disk import disk_error
from app.download.model import DownloadFile
from app.errors import AppError, ErrorKind


def tell(
    address: Address, files: Sequence[Path], options: argparse.Namespace, problem: AppError
) -> int:
    """Check a whole set as well as it can be, and say how; returns the exit code.

    Args:
        address: What was asked for.
        files: The set on disk, shards in their order.
        options: Of the command.
        problem: Why the Hub cannot be asked.

    Raises:
        AppError: It is damaged.
    """
    verify.check_model(files)
    expected, whose = _expected(address, files)
    wrong = [path for path, file in expected if not _right(path, file, options)]
    if wrong:
        raise AppError(
            f"{', '.join(path.name for path in wrong)} is here, but damaged, or of another commit.",
            detail=f"It has not the checksum {whose}. {problem.title}",
            hint="The same command mends it once the Hub can be reached.",
            kind=ErrorKind.MODEL_FILE,
        )
    if options.json:
        told = {
            "type": "already_here",
            "paths": [str(path) for path in files],
            "checked": "checksum" if expected else "headers",
            "notice": problem.title,
        }
        print(json.dumps(told))
        return 0
    print(f"Already here: {files[0]}")
    if expected:
        print(
            f"It has the checksum {whose}. Not asked whether there is a newer one: {problem.title}"
        )
    else:
        print(f"Its headers are sound; its checksum is not known here. {problem.title}")
    return 0


def _expected(
    address: Address, files: Sequence[Path]
) -> tuple[Sequence[tuple[Path, DownloadFile]], str]:
    """Files with what they should be, and who said so; none if nobody did."""
    known = where.records().verified
    kept = [(path, known.last(path)) for path in files]
    if all(file is not None for _, file in kept):
        return [(path, file) for path, file in kept if file], "of its download"
    try:
        answer = HubLookUps(paths.folders().cache).snapshot(address.repo, address.revision)
        chosen = repository.choose(repository.file_sets(answer.value), address)
    except AppError:
        return (), ""
    request = requests.of_set(chosen, answer.value.revision, files[0].parent)
    same = [file.path.rpartition("/")[2] for file in request.files] == [f.name for f in files]
    if not same or any(file.digest is None for file in request.files):
        return (), ""
    told = f"that the Hub told {units.format_age(answer.age_s)} ago"
    return list(zip(files, request.files, strict=True)), told


def _right(path: Path, file: DownloadFile, options: argparse.Namespace) -> bool:
    try:
        with counter(path, file, quiet=options.json) as progress:
            return verify.is_right(path, file, where.records().verified, progress=progress)
    except OSError as error:
        raise disk_error(error, path) from error
