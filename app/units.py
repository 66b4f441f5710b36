"""The one place that formats numbers: GiB for memory, GB for files, commas in thousands."""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GB = 1_000_000_000
GIB = 1024**3


def format_memory(size_bytes: int, *, digits: int = 1) -> str:
    """Memory in GiB, or in MiB below 0.1 GiB: `21.5 GiB`, `34 MiB`."""
    if abs(size_bytes) < GIB // 10:
        return f"{size_bytes / MIB:,.0f} MiB"
    return f"{size_bytes / GIB:,.{digits}f} GiB"


def format_file_size(size_bytes: int) -> str:
    """A file's size in decimal units: `150.9 GB`, `98.4 MB`."""
    if abs(size_bytes) < 1_000_000:
        return f"{size_bytes / 1000:,.1f} kB"
    if abs(size_bytes) < 1_000_000_000:
        return f"{size_bytes / 1_000_000:,.1f} MB"
    return f"{size_bytes / GB:,.1f} GB"


def format_tokens_short(tokens: int) -> str:
    """A number of tokens for a meter: `312`, `8.4k`, `131.1k`."""
    return f"{tokens}" if tokens < 1000 else f"{tokens / 1000:.1f}k"


def format_tokens(count: int) -> str:
    """`1 token`, `1,180 tokens`."""
    return "1 token" if count == 1 else f"{count:,} tokens"


def format_percent(fraction: float) -> str:
    """A fraction as per cent with a space before the sign: `26 %`."""
    return f"{100 * fraction:.0f} %"


def format_duration(seconds: float) -> str:
    """A duration: `0.42 s`, `3.2 s`, `42 s`, `3 min 05 s`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def format_age(seconds: float) -> str:
    """How long ago something was, coarsely: `40 s`, `5 min`, `3 h`, `12 days`."""
    for size, word in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s"


def format_files(count: int) -> str:
    """A number of files: `1 file`, `3 files`."""
    return f"{count:,} file" if count == 1 else f"{count:,} files"
