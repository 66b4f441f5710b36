"""A turn computes only what is new, and what is reused never changes the answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from app.chat.message import Message
from app.chat.session import ChatSession
from app.engine import protocol
from app.engine.model import TurnEnded, TurnProgressed
from tests.helpers import small_models
from tests.helpers.engines import Answer, answer, engine, is_end, is_loaded, load, talk

LETTERS = protocol.Sampling(temperature=0, grammar=small_models.LETTERS)


def fresh(path: Path, messages: tuple[protocol.ChatMessage, ...], **options: object) -> Answer:
    """The answer of an engine that has seen nothing before."""
    with engine() as (supervisor, events):
        supervisor.load(load(path, micro_batch=64))
        events.until(is_loaded)
        return answer(supervisor, events, messages, **options)  # type: ignore[arg-type]


def test_follow_up_edit_regenerate_and_branch(starter_model: Path) -> None:
    with engine() as (supervisor, events):
        supervisor.load(load(starter_model))
        events.until(is_loaded)

        def ask(*texts: str) -> Answer:
            return answer(supervisor, events, talk(*texts))

        question = "Name three colours, and say why you like each of them."
        first = ask(question)
        again = ask(question)
        # The texts may differ: kernels for one token round otherwise than those for many.
        assert again.evaluated == 1, "regenerating computes only the token that gives the logits"
        follow = ask(question, first.text, "And a fourth?")
        seen = first.finished.prompt_tokens + first.finished.generated_tokens
        # The last token of an answer that was cut off is not in the cache.
        assert follow.finished.reused_tokens >= seen - 1
        edited = ask(question, first.text, "And a fifth, please?")
        assert seen - 1 <= edited.finished.reused_tokens < follow.finished.prompt_tokens
        branch = ask(question, "Red, green and blue.", "And a fourth?")
        assert first.finished.prompt_tokens - 2 <= branch.finished.reused_tokens < seen


@pytest.fixture(params=[small_models.sliding_window, small_models.recurrent])
def forgetful(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model that cannot go back as far as it likes."""
    make: Callable[[Path], Path] = request.param
    return make(tmp_path / "forgetful.gguf")


def test_models_that_forget_compute_again_what_is_gone(forgetful: Path) -> None:
    letters = random.Random(1)
    story = "".join(letters.choice("abcdefghij klm") for _ in range(600))
    other = story[:60] + "z" * 300 + story[360:]

    with engine() as (supervisor, events):
        supervisor.load(load(forgetful, micro_batch=64))
        events.until(is_loaded)

        def ask(*texts: str) -> Answer:
            return answer(supervisor, events, talk(*texts), sampling=LETTERS)

        first = ask(story)
        follow = ask(story, first.text, "go on")
        assert follow.finished.reused_tokens >= first.finished.prompt_tokens, "appending is free"
        again = ask(story, first.text, "go on")
        edited = ask(other, first.text, "go on")
    assert edited.finished.reused_tokens == 0, "the beginning has been forgotten"
    for texts, got in (
        ((story, first.text, "go on"), follow),
        ((story, first.text, "go on"), again),
        ((other, first.text, "go on"), edited),
    ):
        assert fresh(forgetful, talk(*texts), sampling=LETTERS).text == got.text
    assert len({first.text, follow.text, edited.text}) == 3, "the answers depend on the prompt"


def test_a_stop_in_the_middle_leaves_a_cache_that_is_true(forgetful: Path) -> None:
    letters = random.Random(2)
    story = "".join(letters.choice("abcdefghij klm") for _ in range(700))
    with engine() as (supervisor, events):
        supervisor.load(load(forgetful, micro_batch=64))
        events.until(is_loaded)
        supervisor.generate(protocol.Generate(turn=9, messages=talk(story), sampling=LETTERS))
        events.until(
            lambda e: (
                isinstance(e, TurnProgressed)
                and isinstance(e.message, protocol.PrefillProgressed)
                and e.message.done >= 128
            )
        )
        supervisor.cancel()
        events.until(is_end)
        got = answer(supervisor, events, talk(story, "x", "go on"), sampling=LETTERS)
    assert fresh(forgetful, talk(story, "x", "go on"), sampling=LETTERS).text == got.text


DROPS_REASONING = (
    "{% for m in messages %}[{{ m.role }}]"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Nemotron's way: what was thought is not part of later prompts."""
THINKS = protocol.Sampling(
    temperature=0,
    grammar='root ::= "<think>" [a-z] [a-z] [a-z] [a-z] [a-z] [a-z] "</think>" [a-z] [a-z] [a-z] [a-z]',
)


def test_reasoning_that_the_template_drops_costs_its_own_answer_only(tmp_path: Path) -> None:
    path = small_models.sliding_window(
        tmp_path / "thinks.gguf", window=4096, template=DROPS_REASONING
    )
    story = "once upon a time " * 20
    session = ChatSession()
    with engine() as (supervisor, events):
        supervisor.load(load(path, micro_batch=64))
        events.until(is_loaded)

        def ask(text: str) -> Message:
            session.begin(text, now_s=0)
            supervisor.generate(
                protocol.Generate(
                    turn=session.turn, messages=session.prompt(), sampling=THINKS, max_tokens=64
                )
            )
            for event in events.until(is_end):
                if isinstance(event, TurnEnded | TurnProgressed):
                    session.receive(event, now_s=0)
            return session.messages[-1]

        first = ask(story)
        second = ask("then")
    assert len(first.reasoning) == 6
    assert len(first.text) == 4
    assert first.stats is not None
    assert second.stats is not None
    assert first.stats.reasoning_tokens >= 6
    assert second.stats.reused_tokens == first.stats.prompt_tokens, "all up to the thought"
    assert second.stats.evaluated_tokens == len(f"{first.text}\n[user]then\n[assistant]")
    alone = fresh(path, talk(story, first.text, "then"), sampling=THINKS, limit=64)
    assert alone.text == second.reasoning + second.text
