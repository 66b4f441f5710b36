"""Settings as a person meets them: made from the fields alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest

from app.engine.protocol import Sampling
from app.settings import entries as made
from app.settings.entries import entries, entry, on_page, replans, waiting
from app.settings.model import LoadMode, Settings
from app.settings.shown import Control, Section
from app.settings.text import SettingError


def test_every_field_and_option_has_an_entry_with_words() -> None:
    keys = {one.key for one in entries()}
    assert keys == (Settings.model_fields.keys() - {"sampling"}) | {
        f"sampling.{name}" for name in Sampling.model_fields
    }
    for one in entries():
        assert one.title, one.key
        assert one.description.endswith("."), one.key
        assert one.allowed.endswith("."), one.key


def test_a_field_that_nobody_placed_is_on_the_page_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class More(Settings):
        idle_minutes: int | None = pydantic.Field(
            default=None, ge=1, le=1440, title="Idle", description="Unload after so long."
        )

    monkeypatch.setattr(made, "Settings", More)
    made.entries.cache_clear()
    try:
        one = entry("idle-minutes")
        assert (one.section, one.control, one.least, one.most) == (
            Section.OTHER,
            Control.WHOLE,
            1,
            1440,
        )
        assert one in on_page()
        assert one.replans, "nobody said that it does not matter to plans"
        assert one.put(More(), one.parse("10")).model_dump()["idle_minutes"] == 10
        with pytest.raises(SettingError, match="from 1 to 1,440"):
            one.put(More(), 0)
    finally:
        made.entries.cache_clear()


@pytest.mark.parametrize(
    ("key", "text", "value", "written"),
    [
        ("context", "32k", 32_768, "32,768"),
        ("context", "32,768", 32_768, "32,768"),
        ("context", "Automatic", None, "Automatic"),
        ("temperature", "0,7", 0.7, "0.7"),
        ("sampling.top_p", ".9", 0.9, "0.9"),
        ("seed", "none", None, "Random"),
        ("kv_type_k", "Q8_0", "q8_0", "q8_0"),
        ("split_mode", "by memory", "by_memory", "By memory"),
        ("mirostat", "2", 2, "2"),
        ("high_contrast", "on", True, "on"),
        ("download_limit", "12.5", 12_500_000, "12.5"),
        ("download_hours", "22-6:30", {"start": "22:00:00", "end": "06:30:00"}, "22:00–06:30"),
        ("download_hours", "always", None, "Always"),
        ("rpc_servers", "a:1, b.org:2", ["a:1", "b.org:2"], "a:1, b.org:2"),
        ("dry_sequence_breakers", r"\n, *", ["\n", "*"], r"\n, *"),
        ("logit_bias", '[[" the", -5], [42, 1.5]]', [[" the", -5.0], [42, 1.5]], None),
        ("json_schema", '{"type": "object"}', {"type": "object"}, None),
        ("reserves", '{"gpu-1": 5}', {"gpu-1": 5}, None),
        ("system_prompt", "none of it", "none of it", "none of it"),
    ],
)
def test_text_and_back(key: str, text: str, value: object, written: str | None) -> None:
    one = entry(key)
    changed = one.put(Settings(), one.parse(text))
    assert one.value(changed) == value
    formatted = one.format(one.value(changed))
    if written is not None:
        assert formatted == written
    assert one.parse(formatted) == value
    assert one.reset(changed) == Settings()


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("temperature", "9", "from 0 to 5"),
        ("temperature", "warm", "“warm” is not possible. It is a number from 0 to 5."),
        ("temperature", "nan", "from 0 to 5"),
        ("top_p", "0", "above 0, up to 1"),
        (
            "context",
            "100",
            "100 is not possible. It is a whole number from 256 to 16,777,216 tokens.",
        ),
        ("context", "1.5", "whole number"),
        ("context", "", "whole number"),
        ("download_limit", "0.0001", "from 0.001 to 1,000,000 MB/s"),
        ("download_hours", "25:00-6:00", "22:00–06:00"),
        ("download_hours", "6-6", "22:00–06:00"),
        ("kv_type_k", "q9", "q8_0"),
        ("high_contrast", "maybe", "on or off"),
        ("rpc_servers", "a:1, b", "“b” is not an address"),
        ("model_folders", "/there/is/none", "There is no folder “/there/is/none”"),
        ("logit_bias", '[["a", 101]]', "from -100 to 100"),
        ("json_schema", '{"a": ', "This is not JSON: Expecting value, line 1, column 7."),
        ("json_schema", "[1]", "JSON object"),
        ("json_schema", "[" * 100_000, "nested too deeply"),
        ("seed", str(2**32), "4,294,967,294"),
        ("system_prompt", "x" * 100_001, "at most 100,000 characters"),
    ],
)
def test_what_is_wrong_says_what_is_possible(key: str, text: str, words: str) -> None:
    one = entry(key)
    with pytest.raises(SettingError) as error:
        one.put(Settings(), one.parse(text))
    assert words in str(error.value)
    assert len(str(error.value)) < 200


def test_folders_are_whole_paths_that_are_there(tmp_path: Path) -> None:
    one = entry("model_folders")
    assert one.parse(str(tmp_path)) == [str(tmp_path)]
    with pytest.raises(SettingError, match="no folder “tests”"):
        one.parse("tests")


def test_options_that_nobody_set_are_as_advised() -> None:
    advice = Sampling(temperature=0.6, top_k=0)
    one = entry("temperature")
    settings = one.put(Settings(), 0.7)
    assert (one.value(settings, advice), one.is_set(settings)) == (0.7, True)
    assert settings.sampling == {"temperature": 0.7}
    assert entry("top_k").value(settings, advice) == 0
    back = one.reset(settings)
    assert (one.value(back, advice), one.is_set(back)) == (0.6, False)


def test_a_whole_sampling_stands_for_what_was_set_in_it() -> None:
    given: Any = Sampling(temperature=1.2)
    settings = Settings(sampling=given)
    assert settings.sampling == {"temperature": 1.2}
    assert Settings.model_validate(settings.model_dump()) == settings


def test_what_waits_for_a_load_and_what_plans_depend_on() -> None:
    before = Settings()
    after = Settings(threads=2, load_mode=LoadMode.READ, sampling={"seed": 1}, reply_reserve=5)
    assert [one.key for one in waiting(after, before)] == ["threads", "load_mode"]
    assert waiting(after, None) == ()
    assert replans(before, after)
    assert not replans(before, Settings(sampling={"seed": 1}, system_prompt="x"))
