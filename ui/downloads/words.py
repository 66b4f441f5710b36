"""What states and reasons of a download are called."""

from __future__ import annotations

from app import units
from app.catalog import entries, names
from app.download import text
from app.download.model import Download, DownloadState, FileProgress, Reason

State = DownloadState
_STATES: dict[DownloadState, tuple[str, str, str]] = {
    State.QUEUED: ("Waits for its turn", "busy", "clock"),
    State.RESOLVING: ("Asking the Hub", "busy", "refresh-cw"),
    State.NEEDS_LOGIN: ("Needs a login", "warn", "lock"),
    State.NO_SPACE: ("The disk lacks space", "error", "circle-x"),
    State.DOWNLOADING: ("Downloading", "", "download"),
    State.PAUSED: ("Paused", "", "pause"),
    State.WAITING: ("Reconnecting", "warn", "wifi-off"),
    State.VERIFYING: ("Checking SHA-256", "", "shield-check"),
    State.DONE: ("Done, SHA-256 matches", "ok", "shield-check"),
    State.FAILED: ("Stopped", "error", "circle-x"),
}
_REASONS = {
    Reason.NETWORK: "The network or the Hub is away.",
    Reason.BUSY_SERVER: "The Hub is busy and asked to wait.",
    Reason.BAD_SERVER: "The server sent something else than was asked for.",
    Reason.OTHER_PROCESS: "Another process of this app writes the same files.",
}


def name(download: Download) -> str:
    """The model's name."""
    entry = entries.find(download.request.repo)
    return entry.name if entry else download.request.repo.partition("/")[2]


def quantization(download: Download) -> str:
    """As the first file's name tells; empty if it does not."""
    if names.is_projector(download.request.files[0].path):
        return "projector"
    return names.quantization(download.request.files[0].path)


def loadable(download: Download) -> bool:
    """True unless it is a projector alone, which is no model."""
    return not names.is_projector(download.request.files[0].path)


def kept(download: Download) -> str:
    """How much of it is on disk."""
    return f"{units.format_file_size(download.progress.written_bytes)} kept"


def state(download: Download) -> tuple[str, str, str]:
    """The state in words, what colours it, and its icon."""
    words, color, icon = _STATES[download.state]
    if download.state is State.WAITING:
        if download.retry_in_s:
            words = f"Reconnecting in {download.retry_in_s:.0f} s"
        words = f"{words}, {kept(download)}"
    elif download.state is State.QUEUED and download.reason is Reason.SCHEDULE:
        words = "Waits for its hours"
    elif download.state is State.PAUSED:
        words = f"Paused, {kept(download)}"
    elif text.unchecked(download):
        return f"Complete, {text.NOT_CHECKED}", "", "download"
    return words, color, icon


def explanation(download: Download) -> str:
    """Why it stands still, and the way out; empty if it does not."""
    if download.error is not None:
        return str(download.error)
    if download.state is State.WAITING:
        return _REASONS.get(download.reason, "") + " It goes on by itself."
    return _REASONS.get(download.reason, "")


def file_name(download: Download, index: int) -> str:
    """`Shard 2 of 4`, or the file's name where it is alone."""
    files = download.request.files
    match = names.SHARD.fullmatch(files[index].path.rpartition("/")[2])
    if match and len(files) > 1:
        return f"Shard {int(match['number'])} of {int(match['count'])}"
    return files[index].path.rpartition("/")[2]


def file_check(download: Download, file: FileProgress) -> str:
    """What its checksum says, or how far it is hashed; empty while nothing of it is here."""
    if file.verified:
        return "SHA-256 matches"
    if download.state is State.DONE:
        return "No checksum published"
    size = file.size_bytes
    hashed = f"Hashed to {gb(file.hashed_bytes, size)} of {units.format_file_size(size)}"
    return hashed if file.written_bytes else ""


def file_state(download: Download, file: FileProgress, *, current: bool) -> tuple[str, str, str]:
    """What happens to one file: words, colour, icon."""
    if file.verified:
        return "Verified", "ok", "shield-check"
    if download.state is State.DONE:
        return "Complete, not checked", "", "download"
    if not current:
        return ("Partly here" if file.written_bytes else "Next"), "busy", "clock"
    if download.state in (State.WAITING, State.VERIFYING, State.DOWNLOADING, State.RESOLVING):
        return state(download)[0].partition(",")[0], *_STATES[download.state][1:]
    return _STATES[download.state]


def current_file(download: Download) -> int:
    """Which file is worked on: the first that is not whole and right; -1 if none is."""
    if download.state is State.DONE:
        return -1
    for index, file in enumerate(download.progress.files):
        if not file.verified:
            return index
    return -1


def counts(download: Download) -> str:
    """How many files are right, and how many are still to come: `36 verified, 25 to come`."""
    files = download.progress.files
    right = sum(file.verified for file in files)
    left = 0 if download.state is State.DONE else len(files) - right
    there = right if left else len(files)
    word = "verified" if there == right else "complete"
    parts = (f"{there} {word}" if there else "", f"{left} to come" if left else "")
    return ", ".join(part for part in parts if part)


def about(seconds: float | None) -> str:
    """The time that is left, no more exact than it is known."""
    if seconds is None:
        return ""
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 1.75 * size:
            return f"about {seconds / size:.0f} {word} left"
    return f"about {max(1, round(seconds)):.0f} s left"


def rate(bytes_per_s: float) -> str:
    """A speed: `112 MB/s`."""
    if bytes_per_s >= 1e7:
        return f"{bytes_per_s / 1e6:,.0f} MB/s"
    return (
        f"{bytes_per_s / 1e6:,.1f} MB/s" if bytes_per_s >= 1e5 else f"{bytes_per_s / 1e3:,.0f} kB/s"
    )


def gb(size: int, beside: int) -> str:
    """A size in the unit that `beside` is shown in, without the unit: `31.6` (of 39.8 GB)."""
    unit = 1e9 if beside >= 1e9 else 1e6 if beside >= 1e6 else 1e3
    return f"{size / unit:,.1f}"
