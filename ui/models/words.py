"""What verdicts, sizes and counts are called on these pages."""

from __future__ import annotations

from app import units
from app.plan.model import Verdict
from app.plan.overview import Fit
from app.plan.speed import Range

VERDICTS = {
    Verdict.FITS: ("Fits", "ok"),
    Verdict.CPU_ONLY: ("Fits, on the CPU", "ok"),
    Verdict.PARTLY: ("Partly in RAM", "warn"),
    Verdict.TOO_LARGE: ("Too large", "error"),
}
"""The word and the state that colours it."""


def fit(found: Fit | None) -> tuple[str, str]:
    """The word for a fit, and its state."""
    if found is None:
        return "", ""
    word, state = VERDICTS[found.verdict]
    return (f"Likely {word[0].lower()}{word[1:]}" if found.likely else word), state


def weights(count: int) -> str:
    """A number of weights: `253.4B`, `135M`."""
    if not count:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def context(tokens: int) -> str:
    """A context for a column's head: `8K`, `128K`."""
    return f"{tokens // 1024}K" if tokens >= 1024 else f"{tokens}"


def rate(found: Range | None) -> str:
    """Likely tokens/s: `4 to 5`, `below 1`, a dash if nothing is known."""
    if found is None:
        return "–"
    low, high = found.likely_low, found.likely_high
    if high < 1:
        return "below 1"
    if low < 2:
        return f"{low:.1f} to {high:.1f}"
    return f"{low:,.0f} to {high:,.0f}" if round(high) > round(low) else f"{high:,.0f}"


def gigabytes(size_bytes: int) -> str:
    """For a column in GB: `150.9`, `0.09`."""
    return f"{size_bytes / 1e9:,.1f}" if size_bytes >= 1e9 else f"{size_bytes / 1e9:.2f}"


def age(seconds: float) -> str:
    """When the Hub was asked."""
    return "just now" if seconds < 60 else f"{units.format_age(seconds)} ago"
