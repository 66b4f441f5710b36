"""Grammars and JSON schemas are checked by llama.cpp itself before an answer needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine.constraints import problem_of
from app.engine.protocol import Sampling


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"grammar": 'root ::= "yes" | "no"'}, ""),
        ({"grammar": "root ::= ("}, "expecting ')'"),
        ({"grammar": "root ::= missing"}, "Undefined rule identifier 'missing'"),
        ({"grammar": 'other ::= "a"'}, "no rule named root"),
        ({"grammar": 'root ::= root "a"'}, "begins with itself"),
        ({"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}, ""),
        ({"json_schema": {"type": "nothing"}}, "JSON schema cannot be used"),
    ],
)
def test_what_is_broken_is_said(options: dict[str, object], words: str) -> None:
    problem = problem_of(Sampling.model_validate(options))
    assert words in problem
    assert bool(words) == bool(problem)


def test_a_grammar_that_names_tokens_needs_the_model(starter_model: Path) -> None:
    sampling = Sampling(grammar='root ::= <|im_start|> "a"')
    unknown = problem_of(sampling)
    assert "cannot be parsed" in unknown
    assert problem_of(sampling, starter_model) == "" or "token" in problem_of(
        sampling, starter_model
    )
