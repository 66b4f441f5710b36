"""JSON schemas as grammars: llama-cpp-python's converter, without what it gets wrong.

By itself it ignores the bounds of numbers, escapes constants only in part, lets strings hold what no JSON
does, and knows neither recursive references nor `true`. Only children of the app import this.
"""

from __future__ import annotations

import json
import math
import urllib.parse
from typing import Any

from llama_cpp import llama_grammar

MOST_BOUND = 10**18
"""A bound beyond this counts as none: the converter's own numbers have sixteen digits."""
_WORDS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_WORDS |= {"$schema", "$id", "$comment", "$defs", "definitions"}
"""Keys that allow and forbid nothing."""
_ANYTHING = {"description": "anything"}
"""Allows all; the converter takes `{}` for an object, or for nothing that is there."""
_PAIRS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
)
_CHARACTER = r'[^"\\\x00-\x1F\x7F]'
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_PUNCTUATION = frozenset("!#$%&'()*+,-./:;<=>?@[]^_`{|}~ ")
"""What a backslash makes literal in a regular expression; a quote and itself are written otherwise in JSON."""
_NOT = r'[^"\\\x00-\x1F\x7F'
_BETTER = {
    llama_grammar.DOT: _CHARACTER,
    llama_grammar.PRIMITIVE_RULES["char"].content: (
        rf'{_CHARACTER} | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{{4}})'
    ),
}
"""Rules of the converter whose strings may hold quotes or line breaks, each with what JSON allows."""


def to_grammar(schema: dict[str, Any]) -> str:
    """The grammar of the JSON that follows `schema`, in GBNF.

    Raises:
        Exception: It cannot be turned into one; the converter asserts, indexes and recurses.
    """
    converter = _Converter(schema)
    converter.visit(schema, "")
    text: str = converter.format_grammar()
    return text


class _References(dict[str, Any]):
    """What a schema's references lead to."""

    def __init__(self, root: dict[str, Any]) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, reference: str) -> Any:  # noqa: ANN401
        if reference != "#" and not reference.startswith("#/"):
            raise ValueError(f"{reference} is not in the schema itself")
        target: Any = self._root
        for part in urllib.parse.unquote(reference).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(key) if isinstance(target, list) else key]
            except (LookupError, TypeError, ValueError):
                raise ValueError(f"{reference} leads nowhere") from None
        return target


_Base: Any = llama_grammar.SchemaConverter  # which has no types


class _Converter(_Base):  # type: ignore[misc]
    def __init__(self, root: dict[str, Any]) -> None:
        super().__init__(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        self._refs = _References(root)
        self._named: dict[str, str] = {}

    def visit(self, schema: Any, name: str) -> str:  # noqa: ANN401
        """The name of the rule for `schema`."""
        schema = {} if schema is True else schema
        if not isinstance(schema, dict):
            raise ValueError(f"{json.dumps(schema)} is no schema that allows something")  # noqa: TRY004
        _check(schema)
        kind = schema.get("type")
        rule = f"{name}-" if name in llama_grammar.RESERVED_NAMES else name or "root"
        added: str
        if not schema.keys() - _WORDS and (name or schema):
            added = self._add_rule(rule, self._add_primitive("value", _primitive("value")))
        elif isinstance(kind, list) and "$ref" not in schema:
            rest = {key: value for key, value in schema.items() if key != "type"}
            if rest.keys() & {"enum", "const", "anyOf", "oneOf"}:
                return self.visit(rest, name)
            each = [{**rest, "type": one} for one in kind]
            added = self._add_rule(rule, self._generate_union_rule(name, each))
        elif kind in ("integer", "number") and not schema.keys() & {"enum", "const", "$ref"}:
            low, high = _bounds(schema)
            if low is None and high is None:
                added = super().visit(schema, name)
            else:
                added = self._add_rule(
                    rule, f"({_numbers(low, high, whole=kind == 'integer')}) space"
                )
        else:
            added = super().visit(_completed(schema), name)
        return added

    def _resolve_ref(self, reference: str) -> str:
        """The name of the rule for what it leads to, which may lead there again."""
        if reference not in self._named:
            name = next(
                f"ref-{i}" for i in range(len(self._rules) + 1) if f"ref-{i}" not in self._rules
            )
            self._named[reference] = name
            self._rules[name] = ""
            self._rules[name] = self.visit(self._refs[reference], name)
        return self._named[reference]

    def _visit_pattern(self, pattern: str, name: str) -> str:
        added: str = super()._visit_pattern(_simple(pattern), name)
        return added

    def _add_rule(self, name: str, rule: str) -> str:
        added: str = super()._add_rule(name, _BETTER.get(rule, rule))
        return added

    def _format_literal(self, literal: str) -> str:
        """A constant or a name, in JSON, as GBNF quotes it."""
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'


def _simple(pattern: str) -> str:
    """A regular expression in what the converter knows, and which no character of JSON itself matches."""
    end = pattern.endswith("$") and not pattern.endswith("\\$")
    body = pattern.removeprefix("^")
    body = body[:-1] if end else body
    found, inside, index = [], False, 0
    while index < len(body):
        two = body[index : index + 2]
        step = 2
        if two[0] == "\\" and two[1:] in _CLASSES:
            found.append(_CLASSES[two[1]] if inside else f"[{_CLASSES[two[1]]}]")
        elif two[0] == "\\" and two[1:] in _PUNCTUATION:
            code = f"\\x{ord(two[1]):02X}"
            found.append(code if inside else f"[{code}]")
        elif two == "[^" and not inside:
            found.append(_NOT)
            inside = True
        elif body.startswith("(?:", index) and not inside:
            found.append("(")
            step = 3
        else:
            inside = two[0] == "[" or (inside and two[0] != "]")
            step = 2 if two[0] == "\\" else 1
            found.append(two[:step])
        index += step
    before, after = "" if pattern.startswith("^") else ".*", "" if end else ".*"
    return f"^{before}({''.join(found)}){after}$"


def _primitive(kind: str) -> Any:  # noqa: ANN401
    return llama_grammar.PRIMITIVE_RULES[kind]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with what the converter takes for granted."""
    kind, keys = schema.get("type"), schema.keys()
    if kind in (None, "array") and schema.get("items") in (True, {}):
        return {**schema, "items": _ANYTHING}
    if kind == "array" and not keys & {
        "items",
        "prefixItems",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "$ref",
    }:
        return {**schema, "items": _ANYTHING}
    if kind in (None, "object") and not keys & {"allOf", "enum", "const", "anyOf", "oneOf", "$ref"}:
        known = schema.get("properties", {})
        more = {name: _ANYTHING for name in schema.get("required", []) if name not in known}
        if schema.get("additionalProperties") is True:
            schema = {**schema, "additionalProperties": _ANYTHING}
        return {**schema, "properties": {**known, **more}} if more else schema
    return schema


def _check(schema: dict[str, Any]) -> None:
    for key in ("enum", "anyOf", "oneOf"):
        if schema.get(key) == []:
            raise ValueError(f"{key} is empty")
    for least, most in _PAIRS:
        low, high = schema.get(least), schema.get(most)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise ValueError(f"{least} is more than {most}")


# --- numbers ----------------------------------------------------------------


def _bounds(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    """The least and the greatest whole number; of a number that need not be whole, rounded outward."""
    whole = schema["type"] == "integer"
    found: list[int | None] = []
    for key, exclusive, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        bound, beyond = schema.get(key), schema.get(exclusive)
        limits = [] if bound is None else [_limit(bound, sign, whole=whole, beyond=beyond is True)]
        if beyond is not None and not isinstance(beyond, bool):
            limits.append(_limit(beyond, sign, whole=whole, beyond=True))
        tightest = max(limits, default=None)
        if tightest is not None and tightest > MOST_BOUND:
            raise ValueError(f"{key} is out of reach")
        found.append(None if tightest is None or tightest < -MOST_BOUND else sign * tightest)
    low, high = found
    if low is not None and high is not None and low > high:
        raise ValueError("no number is within its bounds")
    return low, high


def _limit(bound: float, sign: int, *, whole: bool, beyond: bool) -> int:
    """The least whole number that is allowed, where `sign` turns greatest into least."""
    if not whole:
        return math.floor(sign * bound)
    return math.floor(sign * bound) + 1 if beyond else math.ceil(sign * bound)


def _numbers(low: int | None, high: int | None, *, whole: bool) -> str:
    """Numbers from `low` to `high`, those below zero with their sign."""
    ranges = []
    if low is None or low < 0:
        least = 1 if whole else 0
        least = least if high is None or high >= 0 else -high
        below = _positive(least, None if low is None else -low, whole=whole)
        ranges.append(f'"-" ({below})')
    if high is None or high >= 0:
        ranges.append(_positive(max(low or 0, 0), high, whole=whole))
    return " | ".join(ranges)


def _positive(low: int, high: int | None, *, whole: bool) -> str:
    if whole:
        return _integers(low, high)
    if high is None:
        return f'({_integers(low, None)}) ("." [0-9]{{1,16}})?'
    parts = [f'{_digits(str(high))} ("." "0"{{1,16}})?']
    if low < high:
        parts.append(f'({_integers(low, high - 1)}) ("." [0-9]{{1,16}})?')
    return " | ".join(parts)


def _integers(low: int, high: int | None) -> str:
    """Whole numbers from `low`, not below zero, to `high`."""
    parts = []
    for length in range(len(str(low)), len(str(high if high is not None else low)) + 1):
        first = max(low, 0 if length == 1 else 10 ** (length - 1))
        last = 10**length - 1 if high is None else min(high, 10**length - 1)
        parts.append(_same_length(str(first), str(last)))
    if high is None:
        parts.append(f"[1-9] [0-9]{{{len(str(low))},18}}")
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """Numbers between two of as many digits."""
    if not low:
        return ""
    if low[0] == high[0]:
        return f"{_digits(low[0])} {_same_length(low[1:], high[1:])}".rstrip()
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != zeros:
        parts.append(f"{_digits(low[0])} {_same_length(low[1:], nines)}")
        first += 1
    if high[1:] != nines:
        parts.append(f"{_digits(high[0])} {_same_length(zeros, high[1:])}")
        last -= 1
    if first <= last:
        rest = f"[0-9]{{{len(nines)}}}" if nines else ""
        parts.append(f"[{first}-{last}] {rest}".rstrip())
    return f"({' | '.join(parts)})"


def _digits(text: str) -> str:
    return f'"{text}"'
