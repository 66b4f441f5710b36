"""Sampling options as a person sets them, seen in what the real worker answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from app.engine.protocol import Sampling
from app.errors import AppError, ErrorKind
from tests.helpers.engines import Answer, answer, engine, is_end, is_loaded, load, talk, text_of

QUESTION = "Write one sentence about the sea."
Ask = Callable[..., Answer]


def with_engine(model: Path, check: Callable[[Ask], None]) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(model))
        events.until(is_loaded)

        def ask(text: str = QUESTION, *, limit: int = 24, **options: object) -> Answer:
            sampling = Sampling.model_validate({"temperature": 0} | options)
            return answer(supervisor, events, talk(text), limit=limit, sampling=sampling)

        check(ask)


def test_choice(starter_model: Path) -> None:
    def check(ask: Ask) -> None:
        ask()  # from here on the whole prompt but its last token is in the cache
        greedy = ask().text
        varied = {seed: ask(temperature=1.5, seed=seed).text for seed in (1, 2, 3)}
        assert len(set(varied.values())) == 3
        assert ask(temperature=1.5, seed=2).text == varied[2]
        for one_choice in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0001}, {"top_n_sigma": 1e-6}):
            assert ask(temperature=1.5, **one_choice).text == greedy, one_choice
        wide = {"temperature": 0.3, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
        plain = ask(**wide).text
        for change in (
            {"typical_p": 0.1},
            {"xtc_probability": 1.0, "xtc_threshold": 0.05},
            {"mirostat": 1, "mirostat_tau": 9.0},
            {"mirostat": 2, "mirostat_tau": 9.0},
            {"dynatemp_range": 2.0, "temperature": 2.0},
        ):
            changed = ask(**wide | change).text
            assert changed
            assert changed != plain, change
            assert ask(**wide | change).text == changed, "the seed fixes it"

    with_engine(starter_model, check)


def test_penalties(starter_model: Path) -> None:
    def check(ask: Ask) -> None:
        text = "Say the word tick again and again, without any other word: tick tick tick tick"
        # Bias makes the model want nothing else, so that only a penalty can change its mind.
        loop = {"logit_bias": ((" tick", 8.0), ("tick", 8.0)), "ignore_end": True}
        plain = ask(text, **loop).text
        assert plain.count("tick") >= 20
        for change in (
            {"repeat_penalty": 2.0},
            {"frequency_penalty": 2.0},
            {"dry_multiplier": 10.0, "dry_base": 4.0, "dry_penalty_last_n": -1},
        ):
            assert ask(text, **loop | change).text.count("tick") < plain.count("tick"), change

    with_engine(starter_model, check)


def test_what_an_option_is_refined_by_acts_too(starter_model: Path) -> None:
    """Windows, breakers, exponents and thresholds: each changes what the option it belongs to does."""

    def check(ask: Ask) -> None:
        ask()
        varied = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
        repeats = (
            "Repeat this to the letter, many times: one two three four one two three four one two"
        )
        for text, base, change in (
            (QUESTION, {"dynatemp_range": 0.9}, {"dynatemp_exponent": 8.0}),
            (QUESTION, {"xtc_probability": 1.0, "xtc_threshold": 0.02}, {"xtc_threshold": 0.6}),
            (QUESTION, {"mirostat": 2, "mirostat_tau": 5.0}, {"mirostat_tau": 0.5}),
            (QUESTION, {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.01}, {"mirostat_eta": 1.0}),
            (repeats, {}, {"presence_penalty": 2.0}),
            (repeats, {"repeat_penalty": 1.8}, {"penalty_last_n": 1}),
            (repeats, {"dry_multiplier": 5.0, "dry_penalty_last_n": -1}, {"dry_penalty_last_n": 2}),
            (repeats, {"dry_multiplier": 5.0, "dry_penalty_last_n": -1}, {"dry_allowed_length": 900}),
            (repeats, {"dry_multiplier": 5.0, "dry_penalty_last_n": -1},
             {"dry_sequence_breakers": [" one", " two", " three", " four"]}),
            (repeats, {"dry_multiplier": 0.3, "dry_penalty_last_n": -1}, {"dry_base": 9.0}),
        ):  # fmt: skip
            fixed = varied if text is QUESTION else {"seed": 1}
            plain = ask(text, **fixed | base).text
            assert ask(text, **fixed | base | change).text != plain, (base, change)
        once = ask(logit_bias=((500, 100.0),), limit=1).text
        assert once, "a token by its number"
        assert ask(logit_bias=((500, 100.0),), limit=6).text == 6 * once

    with_engine(starter_model, check)


def test_bias_and_end(starter_model: Path) -> None:
    def check(ask: Ask) -> None:
        plain = ask()
        assert "the" in plain.text
        assert "the" not in ask(logit_bias=((" the", -100), ("the", -100))).text.split()
        assert set(ask(logit_bias=((" sea", 100.0),)).text.split()) == {"sea"}
        short = ask("Answer with one word: is water wet?", limit=200)
        assert short.finished.reason == "stop"
        more = short.finished.generated_tokens + 10
        long = ask("Answer with one word: is water wet?", limit=more, ignore_end=True)
        assert (long.finished.reason, long.finished.generated_tokens) == ("length", more)

    with_engine(starter_model, check)


def test_grammar_and_json_schema(starter_model: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
    }

    def check(ask: Ask) -> None:
        assert ask(grammar='root ::= "yes" | "no"').text in ("yes", "no")
        found = json.loads(ask("Describe a lighthouse as JSON.", limit=80, json_schema=schema).text)
        assert set(found) == {"name", "old"}
        assert isinstance(found["old"], bool)
        for broken in ({"grammar": "root ::= ("}, {"json_schema": {"type": "nothing"}}):
            with pytest.raises(AppError) as error:
                ask(**broken)
            assert error.value.kind is ErrorKind.SETTINGS
        for ending in ({"grammar": 'root ::= "yes"'}, {"json_schema": {"const": "yes"}}):
            assert ask(limit=8, ignore_end=True, **ending).text.strip('"') == "yes"
        assert ask().text, "the worker lives"

    with_engine(starter_model, check)


def test_a_grammar_that_leaves_nothing_costs_neither_the_model_nor_what_was_said(
    starter_model: Path,
) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        pid = supervisor.pid
        ends = Sampling(temperature=0, grammar='root ::= "yes" <|im_end|>')
        supervisor.generate(protocol.Generate(turn=1, messages=talk(QUESTION), sampling=ends))
        seen = events.until(is_end)
        assert text_of(seen) == "yes"
        last = seen[-1]
        assert isinstance(last, TurnEnded)
        assert last.error is not None
        assert last.error.kind is ErrorKind.SETTINGS
        never = tuple((token, -100.0) for token in range(49152))
        nothing = Sampling(grammar='root ::= "yes"', logit_bias=never)
        with pytest.raises(AppError, match="sampling options") as error:
            answer(supervisor, events, talk(QUESTION), sampling=nothing)
        assert "grammar allows nothing" in error.value.detail
        assert answer(supervisor, events, talk(QUESTION)).text
        assert supervisor.pid == pid


def test_every_option_has_words_and_bounds() -> None:
    for name, field in Sampling.model_fields.items():
        assert field.title, name
        assert field.description, name
    for name, values in {
        "temperature": (-0.1, 5.1),
        "top_k": (-1,),
        "top_p": (0, 1.1),
        "mirostat": (3,),
        "seed": (-1, 2**32 - 1),
        "dry_base": (0.5,),
        "logit_bias": (((1, 101),), ((1, -101),)),
    }.items():
        for value in values:
            with pytest.raises(pydantic.ValidationError):
                Sampling.model_validate({name: value})


def test_reasoning_of_the_real_worker_is_a_part_of_its_own(starter_model: Path) -> None:
    """The model is made to think by a grammar; its tags come as several tokens."""
    grammar = r'root ::= "<think>" [a-z ]{12} "</think>\n\n" [A-Z] [a-z ]{8}'
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(
            protocol.Generate(
                turn=1,
                messages=talk(QUESTION),
                sampling=Sampling(temperature=0, grammar=grammar),
                max_tokens=60,
            )
        )
        seen = events.until(is_end)
    messages = [
        e.message
        for e in seen
        if isinstance(e, TurnProgressed) and isinstance(e.message, protocol.TokensGenerated)
    ]
    thought = "".join(m.text for m in messages if m.part is protocol.PartKind.REASONING)
    said = "".join(m.text for m in messages if m.part is protocol.PartKind.TEXT)
    assert len(thought) == 12
    assert len(said) == 9
    assert "think" not in said
    end = seen[-1]
    assert isinstance(end, TurnEnded)
    assert end.finished is not None
    assert 0 < end.finished.reasoning_tokens < end.finished.generated_tokens
    assert end.finished.reasoning_s > 0
    assert sum(m.tokens for m in messages) == end.finished.generated_tokens


def test_an_answer_that_was_cut_off_in_its_reasoning_goes_on_there(starter_model: Path) -> None:
    partial = protocol.ChatMessage(role="assistant", content="", reasoning_content="so far")
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)
        supervisor.generate(
            protocol.Generate(
                turn=1,
                messages=(*talk(QUESTION), partial),
                sampling=Sampling(temperature=0, grammar='root ::= " on" "</think>" "Yes"'),
                continue_last=True,
            )
        )
        parts = [
            (e.message.part, e.message.text)
            for e in events.until(is_end)
            if isinstance(e, TurnProgressed) and isinstance(e.message, protocol.TokensGenerated)
        ]
    assert "".join(t for part, t in parts if part is protocol.PartKind.REASONING) == " on"
    assert "".join(t for part, t in parts if part is protocol.PartKind.TEXT) == "Yes"
