"""What the page of a model says of it before any plan: licence, facts, sources."""

from __future__ import annotations

from collections.abc import Iterator

from app import units
from app.catalog.model import ModelEntry
from app.gguf.model import ModelLayout
from app.service.subjects import Subject


def licence(subject: Subject | None) -> str:
    """Vendor, licence and commercial use in one line."""
    if subject is None:
        return ""
    entry = subject.entry
    if entry is not None:
        return f"{entry.vendor} · {entry.licence.name}. {entry.licence.commercial}"
    if subject.local is not None:
        return str(subject.local.files[0])
    return "A repository that the catalog does not know: read its page for the licence."


def facts(subject: Subject, layout: ModelLayout | None) -> Iterator[tuple[str, str]]:
    """What is known at once, and what the layers tell once they are read."""
    entry, local = subject.entry, subject.local
    count = entry.parameters.value if entry else layout.parameter_count if layout else 0
    if count:
        large = f"{count / 1e9:,.1f} billion" if count >= 1e9 else f"{count / 1e6:,.0f} million"
        structure = f", {entry.structure.value}" if entry else ""
        yield "Parameters", f"{large}{structure}"
    if layout is None:
        yield "Layers", "reading"
    else:
        empty = sum(1 for layer in layout.layers if not layer.size_bytes)
        more = f", of which {empty} are empty" if empty else ""
        yield "Layers", f"{layout.block_count}{more}"
    tokens = entry.context_length.value if entry else layout.context_length if layout else 0
    yield "Context", f"{tokens:,} tokens" if tokens else "reading"
    if entry is not None and entry.reasoning is not None:
        yield "Thinking", f"on with “{entry.reasoning.on_prompt}”"
    elif layout is not None and entry is None:
        yield "Architecture", layout.architecture
    if local is not None:
        yield (
            "On disk",
            f"{units.format_file_size(local.size_bytes)} in {units.format_files(len(local.files))}",
        )


def sources(entry: ModelEntry) -> str:
    """Where the facts are from, each source once."""
    seen = dict.fromkeys(
        f"{source.title} ({source.reviewed:%Y-%m-%d})"
        for source in (
            entry.parameters.source, entry.licence.source, entry.positioning.source,
            entry.context_length.source, *(fact.source for fact in (*entry.strengths, *entry.limits)),
        )
    )  # fmt: skip
    return f"Sources: {'; '.join(seen)}."
