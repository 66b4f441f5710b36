"""The terminal chat when its context is full."""

from __future__ import annotations

import pytest

from app import paths
from app.settings.model import Settings
from app.settings.store import SettingsStore
from tests.end_to_end.test_command_line import events, run

FACT = (
    "Remember: the lamp of lighthouse number {0} is lit at {0} minutes past six, and put out at dawn."
    " Its keeper is called Anna, she has {0} cats, and a boat that is as blue as the sea in summer."
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    SettingsStore(paths.folders().config / "settings.json").save(Settings(threads=1))


def test_a_question_is_kept_until_there_is_room_and_all_is_told() -> None:
    facts = [FACT.format(number) for number in range(4)]
    lines = [*facts, "/overflow drop", "", "/overflow stop", "/enlarge", "Name a colour."]
    greedy = ("--temperature", "0", "--max-tokens", "8", "--context", "512")
    done = run("chat", "--json", *greedy, stdin="\n".join(lines))
    said = events(done.stdout)
    kinds = [event["type"] for event in said]
    assert done.returncode == 0, done.stderr
    assert "context_warning" in kinds[: kinds.index("question_returned")]
    returned = next(event for event in said if event["type"] == "question_returned")
    assert returned["text"] in facts
    assert "kept for the reply" in returned["error"]
    offered = [event for event in said if event["type"] == "context_offered"][-1]
    assert offered["context"] == 1024
    assert [event["context"] for event in said if event["type"] == "loaded"] == [512, 1024]
    read = [event for event in said if event["type"] == "prompt_read"]
    assert any(event["left_out"] for event in read)
    assert all(event["evaluated"] == event["done"] - event["reused"] for event in read)
    stored, _ = SettingsStore(paths.folders().config / "settings.json").load()
    assert stored.context is None, "--context holds for one run, also once it was enlarged"
    stats = [event["stats"] for event in said if event["type"] == "finished"]
    assert all(s["evaluated_tokens"] + s["reused_tokens"] == s["prompt_tokens"] for s in stats)


def test_a_single_question_that_does_not_fit_ends_with_its_exit_code() -> None:
    done = run("chat", "--context", "256", "--prompt", FACT * 8)
    assert done.returncode == 2
    assert "question does not fit" in done.stderr
    assert "/overflow" not in done.stderr, "to leave out turns would not help"


def test_an_empty_question_is_refused_before_anything_is_loaded() -> None:
    done = run("chat", "--prompt", " \n")
    assert done.returncode == 2
    assert "--prompt: there is nothing to ask in it" in done.stderr
    assert not done.stdout
