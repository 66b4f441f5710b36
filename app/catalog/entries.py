"""The catalog: `resources/catalog/*.toml`, and what its entries weigh in each quantization."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pydantic

from app import paths
from app.catalog import starter
from app.catalog.hub import Address
from app.catalog.model import ModelEntry
from app.errors import AppError, ErrorKind
from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.gguf.reader import read_layout

SOURCES = "sources.toml"
DEFAULT_QUANTIZATION = "Q4_K_M"
VERBS = frozenset({"parameters", "context", "size", "compare", "hold", "least", "kv", "largest"})
"""What answers may ask to have computed; `app.plan.catalog_answers` says what each means."""

_VERB = re.compile(r"\{(?P<verb>[a-z]+)(?::(?P<arguments>[^{}]*))?\}")


def folder() -> Path:
    """Where the entries are."""
    return paths.resources() / "catalog"


@functools.cache
def entries() -> tuple[ModelEntry, ...]:
    """All models of the catalog, the flagship first, then by size, the starter last."""
    sources = tomllib.loads((folder() / SOURCES).read_text(encoding="utf-8"))
    adapter = pydantic.TypeAdapter(ModelEntry)
    found = [
        adapter.validate_python(_sourced(tomllib.loads(file.read_text(encoding="utf-8")), sources))
        for file in folder().glob("*.toml")
        if file.name != SOURCES
    ]
    found.sort(key=lambda entry: entry.id, reverse=True)  # v1.5 before v1
    return tuple(sorted(found, key=lambda e: (not e.flagship, e.starter, -e.parameters.value)))


def _sourced(value: Any, sources: dict[str, Any]) -> Any:  # noqa: ANN401 - TOML
    """`value` with each `source = "key"` replaced by the source itself."""
    if isinstance(value, list):
        return [_sourced(item, sources) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: sources[item] if key == "source" else _sourced(item, sources)
        for key, item in value.items()
    }


def find(text: str) -> ModelEntry | None:
    """The entry that a name means: its id, an alias, or a repository of it; None if there is none.

    A quantization may stand behind it, after a colon.
    """
    name = text.removeprefix("hf:").partition(":")[0].lower()
    for entry in entries():
        repositories = (known.repo.lower() for known in entry.repositories)
        if name in (entry.id, entry.name.lower(), *entry.aliases, *repositories):
            return entry
    return None


def quantizations(entry: ModelEntry) -> tuple[str, ...]:
    """The quantizations whose layout the app knows, the smallest first."""
    if entry.starter:
        return () if starter.bundled_model() is None else ("Q4_1",)
    if entry.shapes is None:
        return ()
    name = entry.shapes.value
    if bundled.is_name(name):
        return bundled.quantizations(name)
    return tuple(_table(name)["quantizations"])


def smaller(entry: ModelEntry) -> tuple[ModelEntry, ...]:
    """Related models with fewer weights whose layouts the app knows, the nearest first."""
    related = {relation.model for relation in entry.relations}
    return _nearest(
        e for e in entries() if e.id in related and e.parameters.value < entry.parameters.value
    )


def smaller_than(parameters: int) -> tuple[ModelEntry, ...]:
    """Models with fewer weights whose layouts the app knows, the nearest first; not the starter."""
    return _nearest(e for e in entries() if e.parameters.value < parameters)


def _nearest(found: Iterable[ModelEntry]) -> tuple[ModelEntry, ...]:
    """The largest first; of several with the same shapes one, since to a planner they are the same."""
    by_shapes: dict[str, ModelEntry] = {}
    for entry in found:
        if entry.shapes is not None:
            by_shapes.setdefault(entry.shapes.value, entry)
    return tuple(sorted(by_shapes.values(), key=lambda entry: -entry.parameters.value))


def addresses(entry: ModelEntry, quantization: str = "") -> tuple[Address, ...]:
    """Where on the Hub a quantization may be, the most usual repository first."""
    return tuple(
        Address(repo=known.repo, quantization=quantization) for known in entry.repositories
    )


def layout(entry: ModelEntry, quantization: str = "") -> ModelLayout:
    """The layout of an entry in `quantization`, without any network.

    Raises:
        AppError: The app does not know it.
    """
    known = quantizations(entry)
    kind = quantization.upper() or (
        DEFAULT_QUANTIZATION if DEFAULT_QUANTIZATION in known else next(iter(known), "")
    )
    if kind not in known:
        if known:
            hint = f"Choose one of {', '.join(known)}."
        elif entry.repositories:
            hint = f"See `show hf:{entry.repositories[0].repo}`."
        else:
            hint = f"Look for a repository with `models search {entry.id}`."
        raise AppError(
            f"The layers of {entry.name}{f' in {kind}' if kind else ''} are not known here.",
            hint=hint,
            kind=ErrorKind.USAGE,
        )
    return _layout(entry, kind)


@functools.cache
def _layout(entry: ModelEntry, kind: str) -> ModelLayout:
    path = starter.bundled_model()
    if entry.starter and path is not None:
        return starter.named(read_layout(path))
    name = entry.shapes.value if entry.shapes else ""
    file = Path(f"{entry.id}-{kind}.gguf")
    if bundled.is_name(name):
        found = bundled.layout(f"{name}:{kind}")
    else:
        table = _table(name)
        found = bundled.build(table, kind, table["quantizations"][kind], file)
    if found.name == entry.name:
        return found
    return dataclasses.replace(found, name=entry.name, files=(file,))


@functools.cache
def _table(name: str) -> dict[str, Any]:
    text = (folder() / "layouts" / f"{name}.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def fill(template: str, compute: Callable[[str, tuple[str, ...]], str]) -> str:
    """An answer with everything in braces replaced by what `compute(verb, arguments)` says."""

    def one(match: re.Match[str]) -> str:
        arguments = tuple(part.strip() for part in (match["arguments"] or "").split("|"))
        return compute(match["verb"], arguments if match["arguments"] else ())

    return _VERB.sub(one, template)
