"""Events of downloads for people and for programs."""

from __future__ import annotations

from app import units
from app.download.model import (
    Download,
    DownloadEvent,
    DownloadProgressed,
    DownloadRemoved,
    DownloadState,
    DownloadStateChanged,
    FileVerified,
    Progress,
    Reason,
    UpdateFound,
)

_STATES = {
    DownloadState.QUEUED: "waits for its turn",
    DownloadState.RESOLVING: "asks the Hub",
    DownloadState.NEEDS_LOGIN: "needs a login",
    DownloadState.NO_SPACE: "lacks space",
    DownloadState.DOWNLOADING: "downloads",
    DownloadState.PAUSED: "paused",
    DownloadState.WAITING: "reconnects",
    DownloadState.VERIFYING: "checks",
    DownloadState.DONE: "done",
    DownloadState.FAILED: "failed",
}
_REASONS = {
    Reason.SCHEDULE: "outside the hours for downloads",
    Reason.OTHER_PROCESS: "another process downloads it",
    Reason.NETWORK: "the network is away",
    Reason.BUSY_SERVER: "the server is busy",
    Reason.BAD_SERVER: "the server answers nonsense",
}


NOT_CHECKED = "not checked (no checksum published)"
"""Of files that are whole, as far as anybody can tell: neither verified nor damaged."""


def unchecked(download: Download) -> bool:
    """True for one that is done, and of which not every file could be verified."""
    return download.state is DownloadState.DONE and not all(
        file.verified for file in download.progress.files
    )


def ended(download: Download) -> str:
    """Where a download is that is done, and what it could not be checked by."""
    first = download.request.target(download.request.files[0])
    return f"{first}: complete, {NOT_CHECKED}" if unchecked(download) else f"{first}"


def describe(download: Download) -> str:
    """State and reason in some words: `reconnects in 12 s (the network is away)`."""
    words = _STATES[download.state]
    if unchecked(download):
        words = f"complete, {NOT_CHECKED}"
    if download.retry_in_s is not None:
        words += f" in {units.format_duration(max(1, round(download.retry_in_s)))}"
    reason = _REASONS.get(download.reason)
    return f"{words} ({reason})" if reason else words


def figures(progress: Progress) -> str:
    """One line: `43 % of 150.9 GB, 98.2 MB/s, 14 min 20 s left, 1 of 3 verified`."""
    size = progress.size_bytes
    parts = [
        f"{units.format_percent(progress.written_bytes / size if size else 1.0)} "
        f"of {units.format_file_size(size)}"
    ]
    if progress.bytes_per_s:
        parts.append(f"{units.format_file_size(round(progress.bytes_per_s))}/s")
    if progress.remaining_s is not None:
        parts.append(f"{units.format_duration(progress.remaining_s)} left")
    if len(progress.files) > 1:
        parts.append(f"{progress.verified_files} of {len(progress.files)} verified")
    return ", ".join(parts)


def to_json(event: DownloadEvent) -> dict[str, object]:
    """An event as a flat object with its name under `type`."""
    match event:
        case DownloadStateChanged(download=download):
            error = download.error
            return {
                "type": "state_changed",
                "id": download.id,
                "state": download.state,
                "reason": download.reason,
                "retry_in_s": download.retry_in_s,
                "error": None
                if error is None
                else {"title": error.title, "detail": error.detail, "hint": error.hint},
                "progress": progress_json(download.progress),
            }
        case DownloadProgressed(id=id, progress=progress):
            return {"type": "progressed", "id": id, **progress_json(progress)}
        case FileVerified(id=id, path=path):
            return {"type": "file_verified", "id": id, "path": str(path)}
        case UpdateFound(id=id, commit=commit):
            return {"type": "update_found", "id": id, "commit": commit}
        case DownloadRemoved(id=id):
            return {"type": "removed", "id": id}


def progress_json(progress: Progress) -> dict[str, object]:
    """The figures, those of each file under `files`."""
    return {
        "size_bytes": progress.size_bytes,
        "written_bytes": progress.written_bytes,
        "hashed_bytes": progress.hashed_bytes,
        "verified_files": progress.verified_files,
        "bytes_per_s": round(progress.bytes_per_s),
        "remaining_s": progress.remaining_s,
        "connections": progress.connections,
        "retries": progress.retries,
        "refetched_bytes": progress.refetched_bytes,
        "free_bytes": progress.free_bytes,
        "files": [
            {
                "path": file.path,
                "size_bytes": file.size_bytes,
                "written_bytes": file.written_bytes,
                "hashed_bytes": file.hashed_bytes,
                "verified": file.verified,
            }
            for file in progress.files
        ],
    }
