"""Every setting as a person meets it: words, control, bounds, and its way to text and back.

Made from the fields of `Settings` and `Sampling`: a new field is on the page and on the command
line without another line. Values are in JSON's form; those of options are keyed `sampling.NAME`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pydantic

from app.engine.protocol import Sampling
from app.settings.model import Settings
from app.settings.shown import Control, Section
from app.settings.text import SettingError, format_value, parse_value, spoken

Json = Any
"""A value as in a JSON file."""
_OPTION = "sampling."
_CODE = ("grammar", "json_schema")
NO_ADVICE = Sampling()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One setting.

    Attributes:
        key: Its name in the settings file, `sampling.NAME` for an option.
        control: How it is entered.
        choices: Values of a choice, with their words.
        least, most: Bounds as stored; `above` says that `least` itself is too low.
        longest: Characters of a text.
        unit, scale: What is shown is in `unit`; stored is `scale` times that.
        empty: What it is called that there is no value; "" where there is always one.
        default: In a fresh installation; of an option, where nobody advises another value.
        at_load: It takes effect when the model is loaded.
        replans: A plan may depend on it.
    """

    key: str
    title: str
    description: str
    section: Section
    control: Control
    choices: tuple[tuple[Json, str], ...] = ()
    least: float | None = None
    most: float | None = None
    above: bool = False
    longest: int | None = None
    unit: str = ""
    scale: int = 1
    empty: str = ""
    default: Json = None
    at_load: bool = False
    replans: bool = False

    @property
    def option(self) -> str:
        """The option's name in `Sampling`, or empty."""
        return self.key.removeprefix(_OPTION) if self.key.startswith(_OPTION) else ""

    @property
    def allowed(self) -> str:
        """A sentence that says which values are possible."""
        return spoken(self)

    def value(self, settings: Settings, advice: Sampling = NO_ADVICE) -> Json:
        """What is in force; options that nobody set are as advised."""
        if self.option:
            return settings.sampling.get(self.option, self.advised(advice))
        return _plain(settings)[self.key]

    def advised(self, advice: Sampling) -> Json:
        """The value of an option in what a model's makers advise."""
        return _plain(advice)[self.option]

    def is_set(self, settings: Settings) -> bool:
        """True if it is not as it was in the beginning."""
        if self.option:
            return self.option in settings.sampling
        return bool(self.value(settings) != self.default)

    def put(self, settings: Settings, value: Json) -> Settings:
        """The settings with another value here.

        Raises:
            SettingError: It is not possible.
        """
        if not self.option:
            changes = {self.key: value}
        elif value is None:
            return self.reset(settings)
        else:
            changes = {"sampling": settings.sampling | {self.option: value}}
        try:
            return Settings.model_validate(settings.model_dump() | changes)
        except pydantic.ValidationError as error:
            raise SettingError(self._words(error, value)) from None

    def reset(self, settings: Settings) -> Settings:
        """The settings with the default here; of an option, as advised."""
        if not self.option:
            return self.put(settings, self.default)
        left = {name: v for name, v in settings.sampling.items() if name != self.option}
        return settings.model_copy(update={"sampling": left})

    def parse(self, text: str) -> Json:
        """The value that a text stands for; its bounds are checked by `put`.

        Raises:
            SettingError: It stands for none.
        """
        return parse_value(self, text)

    def format(self, value: Json) -> str:
        """The value as `parse` reads it."""
        return format_value(self, value)

    def _words(self, error: pydantic.ValidationError, value: Json) -> str:
        first = error.errors()[0]
        if first["type"] == "value_error":
            return first["msg"].removeprefix("Value error, ") + "."
        wrong = value if self.control in (Control.TEXT, Control.CODE) else first["input"]
        numeric = isinstance(wrong, int | float) and not isinstance(wrong, bool)
        words = self.format(wrong) if numeric and not self.choices else str(wrong)
        short = words if len(words) < 60 else f"{words[:56]}…"
        return f"{short} is not possible. {self.allowed}"


def _plain(model: pydantic.BaseModel) -> dict[str, Json]:
    return model.model_dump(mode="json")


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of them, section by section."""
    found: list[Entry] = []
    schema = Settings.model_json_schema()
    for name, field in Settings.model_fields.items():
        if name == "sampling":
            options = Sampling.model_json_schema()
            found += [_entry(n, f, options, _OPTION) for n, f in Sampling.model_fields.items()]
        else:
            found.append(_entry(name, field, schema, ""))
    order = list(Section)
    return tuple(sorted(found, key=lambda entry: order.index(entry.section)))


def entry(key: str) -> Entry:
    """The one with this key; an option's prefix may be left out.

    Raises:
        KeyError: There is none.
    """
    by_key = {each.key: each for each in entries()}
    name = key.strip().lower().replace("-", "_")
    return by_key[name if name in by_key else f"{_OPTION}{name}"]


def on_page() -> tuple[Entry, ...]:
    """Those on the page of settings; all others have a dialog of their own."""
    return tuple(each for each in entries() if each.section is not Section.SPLIT)


def waiting(settings: Settings, loaded: Settings | None) -> tuple[Entry, ...]:
    """What was changed since the model was loaded, and takes effect when it is loaded again."""
    if loaded is None:
        return ()
    return tuple(
        each for each in entries() if each.at_load and each.value(settings) != each.value(loaded)
    )


def replans(before: Settings, after: Settings) -> bool:
    """True if what was changed may change a plan."""
    old, new = _plain(before), _plain(after)
    return any(each.replans and old[each.key] != new[each.key] for each in entries())


def _entry(
    name: str, field: pydantic.fields.FieldInfo, schema: dict[str, Any], prefix: str
) -> Entry:
    told: dict[str, Any] = schema["properties"][name]
    kinds = [_resolved(kind, schema) for kind in told.get("anyOf", [told])]
    optional = any(kind.get("type") == "null" for kind in kinds)
    kind = told | next(kind for kind in kinds if kind.get("type") != "null")
    default = field.default
    if isinstance(default, pydantic.BaseModel):
        default = _plain(default)
    marked = "section" in told
    section = Section.SAMPLING if prefix else Section(told.get("section", Section.OTHER))
    words = told.get("words", {})
    least = kind.get("minimum", kind.get("exclusiveMinimum"))
    return Entry(
        key=prefix + name,
        title=field.title or name,
        description=field.description or "",
        section=section,
        control=_control(name, told, kind),
        choices=tuple((v, words.get(str(v)) or _word(v)) for v in kind.get("enum", ())),
        least=least,
        most=kind.get("maximum", kind.get("exclusiveMaximum")),
        above="exclusiveMinimum" in kind,
        longest=kind.get("maxLength"),
        unit=told.get("unit", ""),
        scale=told.get("scale", 1),
        empty=told.get("empty", "Automatic") if optional else "",
        default=list(default) if isinstance(default, tuple) else default,
        at_load=told.get("at_load", False),
        replans=not prefix and (not marked or told["at_load"]),
    )


def _resolved(kind: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = kind.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else kind


def _word(value: Json) -> str:
    """What is stored as `by_memory` is called `By memory`; types such as `q8_0` stay."""
    text = str(value)
    if any(letter.isdigit() for letter in text):
        return text
    return text[:1].upper() + text[1:].replace("_", " ")


def _control(name: str, told: dict[str, Any], kind: dict[str, Any]) -> Control:
    if "control" in told:
        return Control(told["control"])
    if "enum" in kind:
        return Control.CHOICE
    if name in _CODE:
        return Control.CODE if kind["type"] == "string" else Control.JSON
    if kind.get("type") == "array":
        return Control.BIASES if "prefixItems" in kind["items"] else Control.LINES
    simple = {
        "boolean": Control.SWITCH,
        "integer": Control.WHOLE,
        "number": Control.NUMBER,
        "string": Control.TEXT,
    }
    return simple.get(kind.get("type", ""), Control.JSON)
