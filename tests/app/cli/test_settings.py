"""The command that shows and changes settings, and options of sampling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli import main

Captured = pytest.CaptureFixture[str]


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def facts(capsys: Captured, *arguments: str) -> dict[str, dict[str, object]]:
    code, out, err = run(capsys, "settings", *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, dict[str, object]] = json.loads(out)
    return found


def test_settings_are_shown_changed_and_reset(capsys: Captured) -> None:
    assert facts(capsys)["context"]["value"] is None
    assert facts(capsys, "context", "32k")["context"]["value"] == 32_768
    assert facts(capsys, "download-limit", "12.5")["download_limit"]["value"] == 12.5
    assert facts(capsys, "top_p", "0.8")["sampling.top_p"]["set"] is True
    _code, out, _err = run(capsys, "settings")
    assert "* context                         32,768 tokens" in out
    assert "* download_limit                  12.5 MB/s" in out
    assert "  sampling.top_k                  40" in out
    _code, out, _err = run(capsys, "settings", "context")
    assert "It takes effect when the model is loaded." in out
    assert "Now      32,768 tokens\nDefault  Automatic" in out
    for key in ("system_prompt", "sampling.logit_bias", "sampling.grammar"):
        value = '[["a", 1]]' if key.endswith("bias") else 'root ::= "a"'
        assert facts(capsys, key, value)[key]["set"]
        assert not facts(capsys, key, "none")[key]["value"], (
            "as the list shows it where it is empty"
        )
        facts(capsys, "--reset", key)
    found = facts(capsys, "--reset", "context", "--reset", "sampling.top_p")
    assert found.keys() == {"context", "sampling.top_p"}
    assert facts(capsys)["download_limit"]["set"] is True
    assert facts(capsys, "--reset", "all").keys() == {"download_limit"}
    assert not any(one["set"] for one in facts(capsys).values())


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("rpc_servers", "10.0.0.2:50052, 10.0.0.3:50052", "10.0.0.2:50052, 10.0.0.3:50052"),
        ("layers", '{"a": 3}', '{"a": 3}'),
        ("logit_bias", "[[42, -1]]", "[[42, -1.0]]"),
    ],
)
def test_a_setting_that_holds_several_values_is_shown_changed_and_reset(
    capsys: Captured, key: str, value: str, shown: str
) -> None:
    code, out, err = run(capsys, "settings", key, value)
    assert (code, err) == (0, "")
    assert out.startswith("* ")
    assert out.endswith(f" {shown}\n")
    assert list(facts(capsys, "--reset", key)) == list(facts(capsys, key))
    assert "Now      none" in run(capsys, "settings", key)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tempreature",), "Is it sampling.temperature?"),
        (("temperature", "9"), "9 is not possible. It is a number from 0 to 5."),
        (("grammar", "root ::= ("), "expecting ')'"),
        (("--reset", "nothing"), "There is no setting nothing."),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(
    capsys: Captured, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, "settings", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not list(home.rglob("settings.json"))


def test_an_answer_is_as_the_options_say(capsys: Captured, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"yes": {"type": "boolean"}},
                                  "required": ["yes"]}))  # fmt: skip
    chat = ("chat", "--context", "512", "--prompt", "Is water wet?")
    options = ("--json-schema-file", str(schema), "--temperature", "0.8", "--seed", "3")
    code, out, _err = run(capsys, *chat, *options)
    assert code == 0
    assert set(json.loads(out)) == {"yes"}
    for wrong, words in (
        (("--temperature", "9"), "from 0 to 5"),
        (("--grammar-file", str(tmp_path / "none")), "cannot be read"),
        (("--json-schema-file", str(Path(__file__))), "This is not JSON"),
        (("--seed", "-5"), "from 0 to"),
    ):
        code, _out, err = run(capsys, *chat, *wrong)
        assert (code, words in err) == (2, True), err
