"""What the page of a model says of it before any plan: licence, facts, sources."""

from __future__ import annotations

from collections.abc import Iterator

from app import units
from app.catalog.model import ModelEntry
from app.gguf.model import ModelLayout
from app.plan import catalog_answers
from app.plan.model import KvCacheType
from app.service.subjects import Subject

PER = 8192
"""Tokens over which a cache that grows in steps is averaged."""


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


def facts(
    subject: Subject, layout: ModelLayout | None, *, reading: bool
) -> Iterator[tuple[str, str]]:
    """What is known at once, and what the layers tell once they are read."""
    entry, local = subject.entry, subject.local
    count = entry.parameters.value if entry else layout.parameter_count if layout else 0
    if count:
        large = f"{count / 1e9:,.1f} billion" if count >= 1e9 else f"{count / 1e6:,.0f} million"
        structure = f", {entry.structure.value}" if entry else ""
        yield "Parameters", f"{large}{structure}"
    if layout is not None:
        empty = sum(1 for layer in layout.layers if not layer.size_bytes)
        more = f", of which {empty} {'is' if empty == 1 else 'are'} empty" if empty else ""
        yield "Layers", f"{layout.block_count}{more}"
    elif reading:
        yield "Layers", "reading"
    tokens = entry.context_length.value if entry else layout.context_length if layout else 0
    if tokens or reading:
        yield "Context", f"{tokens:,} tokens" if tokens else "reading"
    if layout is not None:
        f16, q8_0 = (
            catalog_answers.kv_cache_bytes(layout, PER, kind) / PER / units.KIB
            for kind in (KvCacheType.F16, KvCacheType.Q8_0)
        )
        yield "KV cache", f"{f16:,.4g} KiB a token at f16, {q8_0:,.4g} at q8_0"
    if entry is not None and entry.reasoning is not None:
        yield "Thinking", f"on with “{entry.reasoning.on_prompt}”"
    elif layout is not None and entry is None:
        yield "Architecture", layout.architecture
    if local is not None:
        yield (
            "On disk",
            f"{units.format_file_size(local.size_bytes)} in {units.format_files(len(local.files))}",
        )


def use(entry: ModelEntry) -> Iterator[tuple[str, str]]:
    """How a model is built, asked and got, as headings with a text each."""
    yield "Architecture", f"{entry.architecture.value}."
    if entry.reasoning is not None:
        note = f" {entry.reasoning.note}" if entry.reasoning.note else ""
        yield "Thinking", f"{entry.reasoning.words}.{note}"
    if entry.sampling:
        yield "Sampling", "\n".join(sampling.words for sampling in entry.sampling)
    yield "Tool calls", entry.tool_calls.value
    if entry.repositories:
        known = (f"{known.repo}: {known.naming}" for known in entry.repositories)
        yield "Repositories with GGUF files", "\n".join(known)


def sources(entry: ModelEntry) -> str:
    """Where the facts are from, each source once."""
    said = (f"{source.title} ({source.reviewed:%Y-%m-%d})" for source in entry.sources)
    return f"Sources: {'; '.join(said)}."
