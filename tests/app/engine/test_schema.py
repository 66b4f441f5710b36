"""What grammars made of JSON schemas let through, asked of llama.cpp token by token."""

from __future__ import annotations

import ctypes
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import pytest

from app.engine.schema import to_grammar

Accepts = Callable[[dict[str, Any], str], bool]
NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["value", "next"],
}


@pytest.fixture(scope="module")
def vocabulary(starter_model: Path) -> Iterator[int]:
    options = lib.llama_model_default_params()
    options.vocab_only = True
    model = lib.llama_model_load_from_file(str(starter_model).encode(), options)
    yield lib.llama_model_get_vocab(model)
    lib.llama_model_free(model)


@pytest.fixture
def accepts(vocabulary: int) -> Accepts:
    """True if the text is all that the schema asks for."""

    def check(schema: dict[str, Any], text: str) -> bool:
        data = text.encode()
        tokens = (lib.llama_token * len(data))()
        count = lib.llama_tokenize(vocabulary, data, len(data), tokens, len(data), False, False)
        rules = lib.llama_sampler_init_grammar(vocabulary, to_grammar(schema).encode(), b"root")
        assert rules, to_grammar(schema)
        try:
            for token in [*tokens[:count], lib.llama_vocab_eos(vocabulary)]:
                row = (lib.llama_token_data * 1)(lib.llama_token_data(token, 0.0, 0.0))
                candidates = lib.llama_token_data_array(row, 1, -1, False)
                lib.llama_sampler_apply(rules, ctypes.byref(candidates))
                if row[0].logit == -math.inf:
                    return False
                lib.llama_sampler_accept(rules, token)
            return True
        finally:
            lib.llama_sampler_free(rules)

    return check


CASES: list[tuple[dict[str, Any], list[object], list[object]]] = [
    ({"type": "integer", "minimum": 0, "maximum": 7}, [0, 7], [8, -1, 10]),
    ({"type": "integer", "exclusiveMinimum": 3}, [4, 10, 123456], [3, 0, -4]),
    ({"type": "integer", "exclusiveMaximum": -10}, [-11, -99, -100], [-10, 0, 11]),
    ({"type": "integer", "minimum": 0.5, "maximum": 1.5}, [1], [0, 2]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.25], [1.5, -0.5, 2]),
    ({"type": "number", "maximum": -1}, [-1, -1.5, -20], [-0.5, 0, 3]),
    ({"const": '日本\n"x"\\'}, ['日本\n"x"\\'], ["日本"]),
    ({"enum": ['a"b', "c\\d", 1, None, {"x": [1]}]}, ['a"b', "c\\d", None, {"x": [1]}], ["ab"]),
    (
        {"properties": {'a "b"': {"type": "null"}, "é": True}, "required": ['a "b"', "é"]},
        [{'a "b"': None, "é": 1}, {'a "b"': None, "é": {"c": []}}],
        [{}, {"é": 1}],
    ),
    (
        {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
        [{"value": 1, "next": {"value": 2, "next": None}}],
        [{"value": 1}],
    ),
    ({"properties": {"x": {"$ref": "#"}}}, [{}, {"x": {"x": {}}}], [{"y": 1}, {"x": 1}]),
    ({"$ref": "#/d/a~1b%25", "d": {"a/b%": {"type": "null"}}}, [None], [1]),
    ({"type": "array", "minItems": 2}, [[1, "a"]], [[1]]),
    ({"type": "array", "items": {}, "maxItems": 1}, [[], [{}]], [[1, 2]]),
    ({"type": "object", "required": ["a"]}, [{"a": 1}, {"a": "x"}], [{}]),
    ({"type": ["integer", "null"], "minimum": 0}, [5, None], [-1, "a"]),
    ({"type": ["array", "null"], "items": {"type": "boolean"}}, [[True], None], [[1]]),
    ({"type": ["string", "null"], "enum": ["a", None]}, ["a", None], ["b"]),
    ({}, [{"a": 1}], [1]),
    ({"title": "All"}, [1, "a", [None]], []),
    (
        {"properties": {"string": {"type": "string"}, "value": {"title": "V"}}},
        [{"string": "a", "value": "b"}],
        [{"string": 1}],
    ),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), CASES)
def test_what_follows_a_schema(
    accepts: Accepts, schema: dict[str, Any], right: list[object], wrong: list[object]
) -> None:
    for value in right:
        assert accepts(schema, json.dumps(value, ensure_ascii=False)), value
    for value in wrong:
        assert not accepts(schema, json.dumps(value, ensure_ascii=False)), value


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "string", "pattern": "^.+$"}])
def test_strings_are_json(accepts: Accepts, schema: dict[str, Any]) -> None:
    assert accepts(schema, '"a lamp"')
    assert not accepts(schema, '"a\nlamp"')
    assert not accepts(schema, '"a"lamp"')


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"^\d{3}-\d{4}$", ["123-4567"], ["12-4567", "abc-defg"]),
        (r"^\w+@[\w.\-]+\.(?:com|org)$", ["a_b@c.d-e.org"], ["a@b", "a b@c.org"]),
        (r"^ab\(+$", ["ab(", "ab(("], ["ab(ab(", "ab"]),
        ("^yes|no$", ["yes", "no"], ["yesno", "maybe"]),
        ("[0-9]", ["a1b", "7"], ["ab"]),
        ("^a[^b]$", ["ac", "a1"], ["ab", "a"]),
        (r"^1\$$", ["1$"], ["1"]),
    ],
)
def test_patterns(accepts: Accepts, pattern: str, right: list[str], wrong: list[str]) -> None:
    schema = {"type": "string", "pattern": pattern}
    for text in right:
        assert accepts(schema, json.dumps(text)), text
    for text in wrong:
        assert not accepts(schema, json.dumps(text)), text
    assert not accepts(schema, '"a""')


def test_whole_numbers_within_any_bounds(accepts: Accepts) -> None:
    dice = random.Random(5)
    for _ in range(40):
        low = dice.randint(-2000, 2000)
        high = low + dice.randint(0, dice.choice([3, 50, 3000]))
        schema = {"type": "integer", "minimum": low, "maximum": high}
        near = [edge + step for edge in (low, high) for step in (-10, -1, 0, 1, 10)]
        for number in (*near, 0, -1, dice.randint(-9999, 9999)):
            assert accepts(schema, str(number)) == (low <= number <= high), (low, number, high)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": []}, "enum is empty"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum is more than maximum"),
        ({"type": "integer", "exclusiveMinimum": 5, "maximum": 5}, "within its bounds"),
        ({"type": "integer", "minimum": 10**30}, "out of reach"),
        ({"$ref": "#/nowhere"}, "leads nowhere"),
        ({"$ref": "https://example.com/a.json"}, "not in the schema itself"),
        ({"properties": {"a": False}}, "no schema that allows something"),
    ],
)
def test_what_nothing_can_follow_is_said(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_grammar(schema)
