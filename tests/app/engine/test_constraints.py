"""Grammars and JSON schemas are checked by llama.cpp itself before an answer needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import processes
from app.engine.constraints import problem_of
from app.engine.protocol import Sampling


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, ""),
        ({"grammar": "root ::= ("}, "cannot be parsed: expecting ')'."),
        ({"grammar": "root ::= missing"}, "Undefined rule identifier 'missing'"),
        ({"grammar": 'other ::= "a"'}, "no rule named root"),
        ({"grammar": 'root ::= root "a"'}, "begins with itself"),
        ({"json_schema": {"type": "nothing"}}, "JSON schema cannot be used"),
        ({"json_schema": {"type": "string", "maxLength": 1000}}, ""),
        ({"json_schema": {"type": "string", "pattern": "^[0-9]{2,1000}$"}}, ""),
        ({"json_schema": {"items": [{"minItems": 10**9}]}}, "minItems asks for more than 10,000"),
        (
            {"json_schema": {"type": "string", "pattern": "^(((a{999}){999}){999}){999}$"}},
            "pattern asks for more than 10,000",
        ),
    ],
)
def test_what_is_broken_is_said(options: dict[str, object], words: str) -> None:
    problem = problem_of(Sampling.model_validate(options))
    assert words in problem
    assert bool(words) == bool(problem)


def test_a_grammar_that_names_tokens_needs_the_model(starter_model: Path) -> None:
    sampling = Sampling(grammar='root ::= <|im_start|> "a"')
    assert "no vocab" in problem_of(sampling)
    assert problem_of(sampling, starter_model) == ""


def test_without_a_constraint_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "child_command", lambda _module: ["/no/such/file"])
    assert problem_of(Sampling(temperature=0)) == ""
    assert "could not be checked" in problem_of(Sampling(grammar="root ::= ("))
    crash = ["/bin/sh", "-c", "kill -SEGV $$"]
    monkeypatch.setattr(processes, "child_command", lambda _module: crash)
    assert "llama.cpp ended" in problem_of(Sampling(grammar="root ::= ("))
