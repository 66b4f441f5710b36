"""Frozen values of the catalog: what is known of a model, each fact with where it is from."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterator
from typing import Generic, TypeVar

from pydantic import ConfigDict, with_config

T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid")


class Structure(enum.StrEnum):
    """Whether each token meets all weights."""

    DENSE = "dense"
    MIXTURE_OF_EXPERTS = "mixture of experts"


class RelationKind(enum.StrEnum):
    """What another model is to this one."""

    FAMILY = "family"
    DISTILLED_FROM = "distilled from"
    ALTERNATIVE = "alternative"


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a fact is from.

    Attributes:
        title: What was read, or "from memory, to be checked" in words.
        url: Its address; empty if it has none.
        reviewed: When it was last looked at.
    """

    title: str
    url: str = ""
    reviewed: datetime.date


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[T]):
    """A value and its source."""

    value: T
    source: Source


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """On what terms a model may be used.

    Attributes:
        commercial: One plain sentence about commercial use.
        gated: True if the vendor's own repository lets people in one by one.
    """

    name: str
    url: str
    commercial: str
    gated: bool
    source: Source


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """How a model is told to think before it answers.

    Attributes:
        on_prompt: The exact system prompt that turns it on; empty if it needs none.
        off_prompt: The exact system prompt that turns it off.
        default_on: What holds without any system prompt.
        note: What else to know.
    """

    on_prompt: str
    off_prompt: str
    default_on: bool
    note: str = ""
    source: Source

    @property
    def words(self) -> str:
        """The prompts and what holds without either, in one line."""
        on = f"system prompt “{self.on_prompt}”" if self.on_prompt else "no system prompt"
        default = "on" if self.default_on else "off"
        return f"on: {on}; off: system prompt “{self.off_prompt}”; without either it is {default}"


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Recommended sampling in one mode; a temperature of 0 is greedy."""

    mode: str
    temperature: float
    top_p: float | None = None
    source: Source

    @property
    def words(self) -> str:
        """Mode and values: `thinking: temperature 0.6, top-p 0.95`."""
        top_p = "" if self.top_p is None else f", top-p {self.top_p:g}"
        value = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}"
        return f"{self.mode}: {value}{top_p}"


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository with GGUF files of a model.

    Attributes:
        naming: How its files are called, `{quant}` being the quantization.
    """

    repo: str
    naming: str
    source: Source


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Another model of the catalog. Which one is larger is computed, never written down."""

    model: str
    kind: RelationKind
    note: str = ""
    source: Source


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A usual question; in the answer `{verb:argument|argument}` stands for what is computed."""

    question: str
    answer: str
    source: Source


@with_config(_STRICT)
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model.

    Attributes:
        id: Its name on the command line.
        aliases: Other names for it, in lower case.
        shapes: The bundled layout that has its shapes; None if none has.
        starter: True for the model that comes with the app.
        repositories: The most usual one first.
    """

    id: str
    name: str
    vendor: str
    aliases: tuple[str, ...] = ()
    flagship: bool = False
    starter: bool = False
    shapes: Fact[str] | None = None
    parameters: Fact[int]
    architecture: Fact[str]
    structure: Fact[Structure]
    context_length: Fact[int]
    licence: Licence
    positioning: Fact[str]
    strengths: tuple[Fact[str], ...]
    limits: tuple[Fact[str], ...]
    reasoning: Reasoning | None = None
    sampling: tuple[Sampling, ...]
    tool_calls: Fact[str]
    repositories: tuple[Repository, ...]
    relations: tuple[Relation, ...] = ()
    questions: tuple[Question, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its facts are from, each source once."""

        def below(value: object) -> Iterator[Source]:
            if isinstance(value, Source):
                yield value
            elif isinstance(value, tuple):
                for item in value:
                    yield from below(item)
            elif dataclasses.is_dataclass(value):
                for field in dataclasses.fields(value):
                    yield from below(getattr(value, field.name))

        return tuple(dict.fromkeys(below(self)))
