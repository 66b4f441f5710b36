"""Answers of the Hub, kept as JSON files so that they are at hand again at once, and offline."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import pydantic

from app.errors import AppError, ErrorKind

MAX_ANSWERS = 300
MAX_ANSWER_BYTES = 16 * 1024 * 1024

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T_co]):
    """What the Hub said, and when.

    Attributes:
        age_s: Seconds since it was asked; 0 if just now.
        notice: Why it is an old one although a new one was wanted; empty otherwise.
    """

    value: T_co
    age_s: float = 0.0
    notice: str = ""


class AnswerCache(Generic[T]):
    """Answers of one kind, in a folder that anybody may delete at any time."""

    def __init__(
        self,
        folder: Path,
        kind: type[T],
        *,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep answers of type `kind` in `folder`; up to `max_age_s` they are as good as new."""
        self._folder = folder
        self._adapter = pydantic.TypeAdapter(kind)
        self._max_age_s = max_age_s
        self._clock = clock

    def get(self, question: str, ask: Callable[[], T], *, refresh: bool = False) -> Answer[T]:
        """The answer to `question`: a kept one, else what `ask` says, else an old one with a notice.

        Args:
            question: All that the answer depends on.
            ask: Asks the Hub.
            refresh: A kept answer is only taken where there is no new one.

        Raises:
            AppError: What `ask` raises, where it is no trouble of the network or none is kept.
        """
        # Names of files need be no UTF-8.
        digest = hashlib.sha256(question.encode(errors="surrogatepass")).hexdigest()
        path = self._folder / f"{digest[:40]}.json"
        kept = self._read(path, question)
        if kept is not None and not refresh and kept.age_s <= self._max_age_s:
            return kept
        try:
            value = ask()
        except AppError as error:
            if kept is None or error.kind is not ErrorKind.NETWORK:
                raise
            return dataclasses.replace(kept, notice=error.title)
        self._write(path, question, value)
        return Answer(value=value)

    def _read(self, path: Path, question: str) -> Answer[T] | None:
        """The kept answer; None if there is none that makes sense."""
        try:
            if path.stat().st_size > MAX_ANSWER_BYTES:
                return None
            held = json.loads(path.read_bytes())
            if held["question"] != question:
                return None
            value = self._adapter.validate_python(held["value"])
            age_s = max(0.0, self._clock() - float(held["asked"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return Answer(value=value, age_s=age_s)

    def _write(self, path: Path, question: str, value: T) -> None:
        """Keep an answer; that it cannot be kept harms nobody."""
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        held = {
            "question": question,
            "asked": self._clock(),
            "value": self._adapter.dump_python(value, mode="json"),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("x", encoding="utf-8") as stream:
                os.chmod(part, 0o600)  # noqa: PTH101 - names of private repositories are in it
                json.dump(held, stream)
            part.replace(path)
            self._prune()
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def _prune(self) -> None:
        """Delete the oldest answers where there are too many."""
        files = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MAX_ANSWERS]:
            file.unlink(missing_ok=True)
