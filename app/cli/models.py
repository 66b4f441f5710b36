"""`models` and `show`: the catalog, what is on this machine, what the Hub has, and a model's page."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from app import paths, units
from app.catalog import api, entries, hub, library, names, repository, tokens
from app.catalog.cache import Answer
from app.catalog.model import ModelEntry
from app.catalog.places import places
from app.catalog.repository import FileSet, Role, Snapshot
from app.catalog.search import LIMIT, FoundRepository, HubLookUps
from app.cli import page
from app.errors import AppError, ErrorKind
from app.plan import catalog_answers
from app.settings.model import Settings

PROJECTOR = "projector for pictures or sound, which this app does not run yet"


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `models`."""
    command.add_argument(
        "words",
        nargs="*",
        metavar="search WORDS | login | logout",
        help="look for GGUF repositories on the Hub; keep a token for it in the system's keyring",
    )
    command.add_argument("--limit", type=int, default=20, help="repositories shown (default 20)")
    command.add_argument(
        "--folder", action="append", default=[], help="look into this folder, too; may be repeated"
    )
    _add_refresh(command)


def add_show_options(command: argparse.ArgumentParser) -> None:
    """The options of `show`."""
    command.add_argument("model", help="a model of the catalog, or hf:owner/repo[@revision]")
    command.add_argument(
        "--context", type=int, help="tokens that hardware must hold (default 32,768)"
    )
    _add_refresh(command)


def _add_refresh(command: argparse.ArgumentParser) -> None:
    command.add_argument("--refresh", action="store_true", help="ask the Hub again")


def models(options: argparse.Namespace, settings: Settings) -> int:
    """Print the catalog and what is on this machine, or what a search on the Hub finds."""
    match options.words:
        case []:
            return _list(options, settings)
        case ["search", _, *_]:
            return _search(" ".join(options.words[1:]), options)
        case ["login"]:
            return _login(options)
        case ["logout"]:
            tokens.forget()
            print(json.dumps({}) if options.json else "Taken out of the system's keyring.")
            return 0
        case words:
            raise AppError(
                f"“{' '.join(words)}” is nothing that `models` can do.",
                hint="Write `models`, `models search WORDS`, `models login` or `models logout`.",
                kind=ErrorKind.USAGE,
            )


def _login(options: argparse.Namespace) -> int:
    """Let the keyring keep a token, once the Hub has said that it knows it."""
    token = (getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    tokens.check(token)
    name = api.owner(token)
    tokens.keep(token)
    print(
        json.dumps({"name": name}) if options.json else f"Kept in the system's keyring, for {name}."
    )
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    where = places(
        paths.folders().models,
        extra=map(Path, (*settings.model_folders, *options.folder)),
        targets=map(Path, settings.download_folders),
    )
    found = library.scan(where, paths.folders().cache)
    if options.json:
        print(json.dumps({
            "catalog": [_entry_json(entry) for entry in entries.entries()],
            "on_disk": [_plain(model) for model in found.models],
            "notices": found.notices,
        }, indent=1))  # fmt: skip
        return 0
    print("Catalog")
    rows: list[tuple[str, ...]] = [("", "Weights", "Context", "Q4_K_M", "Licence")]
    rows += [_catalog_row(entry) for entry in entries.entries()]
    _print_lines(_table(rows, right=(1, 2, 3)))
    print("\nOn this machine")
    rows = [("", "Quantization", "Size", "State", "Where")]
    for model in found.models:
        at = f"{model.origin}: {_printable(model.files[0] if model.files else '')}"
        size = units.format_file_size(model.size_bytes)
        rows.append((model.name, model.quantization, size, str(model.state), at))
    _print_lines(_table(rows, right=(2,)) if found.models else ["  nothing yet"])
    for model in found.models:
        if model.reason:
            print(f"  {model.name}: {_printable(model.reason)}")
        for projector in model.projectors:
            print(f"  {model.name}: with {_printable(projector.name)}, {PROJECTOR}")
    for notice in found.notices:
        print(_printable(notice))
    print("\n`show MODEL` tells all about one; `models search WORDS` looks on the Hub.")
    return 0


def _catalog_row(entry: ModelEntry) -> tuple[str, ...]:
    known = entries.quantizations(entry)
    usual = entries.DEFAULT_QUANTIZATION
    size = (
        units.format_file_size(entries.layout(entry, usual).file_size_bytes)
        if usual in known
        else ""
    )
    terms = ", gated" if entry.licence.gated else ""
    return (
        entry.id,
        _weights(entry.parameters.value),
        f"{entry.context_length.value:,}",
        size,
        f"{entry.licence.name}{terms}",
    )


def _search(words: str, options: argparse.Namespace) -> int:
    """Print repositories on the Hub."""
    limit = min(max(1, options.limit), LIMIT)
    answer = HubLookUps(paths.folders().cache).search(words, limit=limit, refresh=options.refresh)
    if options.json:
        print(json.dumps(_answer_json(answer, [_plain(one) for one in answer.value]), indent=1))
        return 0
    rows: list[tuple[str, ...]] = [("", "Weights", "Architecture", "Downloads", "Changed", "")]
    rows += [_found_row(one) for one in answer.value]
    if answer.value:
        _print_lines(_table(rows, right=(1, 3)))
    else:
        print(f"No GGUF repository has “{words}” in its name.")
    _print_age(answer)
    if answer.value:
        print(f"\n`show hf:{answer.value[0].repo}` lists the quantizations of one.")
    return 0


def _found_row(one: FoundRepository) -> tuple[str, ...]:
    marks = [word for word, on in (("gated", one.gated), ("private", one.private)) if on]
    return (
        one.repo,
        _weights(one.parameters) if one.parameters else "",
        one.architecture,
        f"{one.downloads:,}",
        f"{one.modified:%Y-%m-%d}" if one.modified else "",
        ", ".join(marks),
    )


def show(options: argparse.Namespace, _settings: Settings) -> int:
    """Print a model's page, or the sets of files of a repository."""
    if hub.is_address(options.model):
        return _show_repository(options)
    entry = entries.find(options.model)
    if entry is None:
        if Path(options.model).expanduser().is_file():
            raise AppError(
                f"{options.model} is a file, and has no page.",
                hint=f"`ultra-launcher plan {options.model}` says what is in it.",
                kind=ErrorKind.USAGE,
            )
        raise AppError(
            f"There is no model “{options.model}” in the catalog.",
            hint=f"Name one of {', '.join(e.id for e in entries.entries())}, or a repository as "
            "hf:owner/repo; `models search WORDS` finds some.",
            kind=ErrorKind.USAGE,
        )
    context = options.context or catalog_answers.CONTEXT
    if context < 1:
        raise AppError(
            f"A context of {context} tokens is not possible.",
            hint="Choose 8192, for example.",
            kind=ErrorKind.USAGE,
        )
    if options.json:
        print(json.dumps(page.to_json(entry, context), indent=1, default=str))
    else:
        _print_lines(page.lines(entry, context))
    return 0


def _show_repository(options: argparse.Namespace) -> int:
    """Print the sets of a repository on the Hub."""
    address = hub.parse(options.model)
    look_ups = HubLookUps(paths.folders().cache)
    answer = look_ups.snapshot(address.repo, address.revision, refresh=options.refresh)
    sets: Sequence[FileSet] = repository.file_sets(answer.value)
    if address.path or address.quantization:
        sets = [repository.choose(sets, address)]
    entry = entries.find(options.model)
    if options.json:
        value = {
            "repo": answer.value.repo,
            "revision": answer.value.revision,
            "commit": answer.value.commit,
            "gated": answer.value.gated,
            "private": answer.value.private,
            "model": entry.id if entry else None,
            "sets": [_set_json(one) for one in sets],
            "refused": answer.value.refused,
        }
        print(json.dumps(_answer_json(answer, value), indent=1))
        return 0
    _print_lines(_repository_lines(answer.value, sets, entry))
    _print_age(answer)
    return 0


def _repository_lines(
    snapshot: Snapshot, sets: Sequence[FileSet], entry: ModelEntry | None
) -> Iterator[str]:
    yield f"{snapshot.repo} at {snapshot.commit[:12]}"
    if entry is not None:
        yield f"{entry.name}; `show {entry.id}` tells all about it."
    if snapshot.gated:
        yield "Gated: accept its terms on its page before you download."
    rows = [("", "Size", "Files", "")]
    models = [one for one in sets if one.role is Role.MODEL]
    called = dict(zip(map(id, models), repository.set_names(models), strict=True))
    for one in sets:
        words = PROJECTOR if one.role is Role.PROJECTOR else one.reason
        name = called.get(id(one)) or one.name.rpartition("/")[2]
        rows.append((name, units.format_file_size(one.size_bytes), str(len(one.files)), words))
    yield from _table(rows, right=(1, 2)) if sets else ["It holds no GGUF model."]
    for name in snapshot.refused:
        yield f"Left out because of its name or size: {names.printable(name)}"
    usable = [one for one in models if one.complete]
    if usable:
        named = called[id(usable[0])] == usable[0].quantization
        end = f":{usable[0].quantization}" if named else f"/{usable[0].files[0].path}"
        name = f"hf:{snapshot.repo}{end}"
        yield f"\n`plan {name}` says what would run where, before anything is downloaded."
        if repository.projector(sets, usable[0]) is not None:
            yield "`pull --mmproj` brings the projector along."


def _print_age(answer: Answer[object]) -> None:
    """How old an answer is, where it is not new."""
    if answer.notice:
        print(f"\n{answer.notice} This answer is {units.format_age(answer.age_s)} old.")
    elif answer.age_s >= 1:
        print(f"\nAsked {units.format_age(answer.age_s)} ago; --refresh asks again.")


def _answer_json(answer: Answer[object], value: object) -> dict[str, object]:
    return {"age_s": round(answer.age_s, 1), "notice": answer.notice, "value": value}


def _entry_json(entry: ModelEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "name": entry.name,
        "vendor": entry.vendor,
        "parameters": entry.parameters.value,
        "context_length": entry.context_length.value,
        "structure": entry.structure.value,
        "licence": entry.licence.name,
        "commercial": entry.licence.commercial,
        "gated": entry.licence.gated,
        "quantizations": {
            kind: entries.layout(entry, kind).file_size_bytes
            for kind in entries.quantizations(entry)
        },
        "repositories": [known.repo for known in entry.repositories],
    }


def _set_json(one: FileSet) -> dict[str, object]:
    return _plain(one) | {"size_bytes": one.size_bytes}


def _plain(value: object) -> dict[str, object]:
    """A dataclass as JSON takes it."""
    plain: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(value), default=str))  # type: ignore[call-overload]
    return plain


def _printable(text: object) -> str:
    """A path, or words with one, for a terminal."""
    return names.printable(str(text), 5_000)


def _weights(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def _table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Lines of a table, the columns `right` with their ends in line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)
