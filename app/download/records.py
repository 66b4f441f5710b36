"""What the app remembers about downloads, in its data folder: queue, crash records, locks, verified files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from pathlib import Path

from app.download.model import DownloadFile

log = logging.getLogger("app.download.records")


class Records:
    """Where each thing lies below one folder.

    Attributes:
        jobs: One file for each download of the queue.
        verified: Which files were hashed, and what they were then.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist; processes that share a folder of models share this one too."""
        self._folder = folder
        self.jobs = folder / "jobs"
        self.verified = Verified(folder / "verified")

    def journal(self, target: Path) -> Path:
        """The crash record of the file that is to be at `target`."""
        return self._folder / "journals" / f"{_key(target)}.journal"

    def lock(self, target: Path) -> Path:
        """Who holds a lock on this may write `target`."""
        folder = self._folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{_key(target)}.lock"

    def forget(self, target: Path) -> None:
        """Nothing is known about `target` any more."""
        self.journal(target).unlink(missing_ok=True)
        self.verified.drop(target)


class Verified:
    """Files whose checksum was right, with size and time of change, so that they need not be read again.

    One small file for each, so that processes don't write over each other's knowledge.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist."""
        self._folder = folder

    def digest(self, path: Path) -> str | None:
        """The digest of `path` when it was last hashed; None if that is not known or it was touched."""
        try:
            kept = json.loads(self._place(path).read_text(encoding="utf-8"))
            digest, _kind = kept.pop("digest"), kept.pop("kind")
            return digest if kept == _fingerprint(path) and isinstance(digest, str) else None
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def knows(self, path: Path, file: DownloadFile) -> bool:
        """True if `path` was once found to be `file`, and has not been touched since."""
        return file.digest is not None and self.digest(path) == file.digest

    def last(self, path: Path) -> DownloadFile | None:
        """What `path` was when it was last right, touched since or not; None if that is not known."""
        try:
            kept = json.loads(self._place(path).read_text(encoding="utf-8"))
            digest, size = str(kept["digest"]), int(kept["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        sha256 = digest if kept.get("kind") == "sha256" else None
        git_oid = None if sha256 or not digest else digest
        return DownloadFile(path=path.name, size_bytes=size, sha256=sha256, git_oid=git_oid)

    def keep(self, path: Path, file: DownloadFile) -> None:
        """`path` was hashed just now and is `file`; where that cannot be kept, it is hashed again."""
        kind = "sha256" if file.sha256 else "git"
        known = _fingerprint(path) | {"digest": file.digest or "", "kind": kind}
        self._write(self._place(path), known)

    def doubt(self, path: Path) -> None:
        """`path` is not what it was, though nobody is known to have touched it."""
        place = self._place(path)
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
            self._write(place, kept | {"mtime_ns": None})
        except (OSError, ValueError, TypeError):
            self.drop(path)

    def drop(self, path: Path) -> None:
        """Nothing is known about `path`."""
        with contextlib.suppress(OSError):  # what is kept is of no use to another file
            self._place(path).unlink(missing_ok=True)
            new_of(self._place(path)).unlink(missing_ok=True)

    def _write(self, place: Path, known: dict[str, object]) -> None:
        try:
            write_json(place, known)
        except OSError as error:
            log.warning("what is known of a file cannot be kept: %s", error)
            with contextlib.suppress(OSError):  # nor is what was known before true any more
                place.unlink(missing_ok=True)

    def _place(self, path: Path) -> Path:
        return self._folder / f"{_key(path)}.json"


def _fingerprint(path: Path) -> dict[str, object]:
    status = path.stat()
    return {"path": str(path), "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _key(path: Path) -> str:
    # The place, however it is spelled: a folder of models is often reached through a link.
    place = os.path.normcase(Path(os.path.realpath(path.parent), path.name))
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


_writing = threading.Lock()


def write_json(path: Path, value: object) -> None:
    """Replace `path` at once, so that a reader sees the old or the new value.

    Raises:
        OSError: The disk does not take it; the old one is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = new_of(path)
    with _writing:
        with new.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)


def new_of(path: Path) -> Path:
    """Where a record is written before it replaces `path`; after a kill it may still be there."""
    return path.with_name(f".{path.name}.new")
