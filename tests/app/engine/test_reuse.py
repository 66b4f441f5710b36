"""A turn computes only what is new, and what is reused never changes the answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from app.engine import protocol
from app.engine.model import TurnProgressed
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
