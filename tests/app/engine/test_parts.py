"""Reasoning and tool calls, however their tags are cut into tokens."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.parts import PartParser
from app.engine.protocol import ChatMessage, PartKind
from app.engine.template import render

TEXT, REASONING, CALL = PartKind.TEXT, PartKind.REASONING, PartKind.TOOL_CALL
Parts = list[tuple[PartKind, object]]


def parts(pieces: list[str], *, prompt: str = "", tools: bool = False) -> tuple[Parts, bool]:
    """All pieces of one kind joined, calls as (name, arguments); and whether reasoning was closed."""
    parser = PartParser(prompt, tools=tools)
    found: Parts = []
    for piece in [p for text in pieces for p in parser.feed(text)] + parser.end():
        if piece.call is not None:
            found.append((CALL, (piece.call.name, piece.call.arguments)))
        elif found and found[-1][0] is piece.kind:
            found[-1] = (piece.kind, f"{found[-1][1]}{piece.text}")
        elif piece.text:
            found.append((piece.kind, piece.text))
    return found, parser.closed


SUM = (CALL, ("add", {"a": 1, "b": 2}))
CASES: list[tuple[str, str, bool, Parts]] = [
    ("Hello.", "", False, [(TEXT, "Hello.")]),
    ("<think>\nhm\n</think>\n\nYes.", "", False, [(REASONING, "\nhm\n"), (TEXT, "Yes.")]),
    ("hm</think>Yes.", "…<think>\n", False, [(REASONING, "hm"), (TEXT, "Yes.")]),
    ("[THINK]hm[/THINK]Yes.", "", False, [(REASONING, "hm"), (TEXT, "Yes.")]),
    ("<think>a</think>\n</think>\nYes.", "", False, [(REASONING, "a"), (TEXT, "Yes.")]),
    ("<think>a</think>b</think>c", "", False, [(REASONING, "a"), (TEXT, "bc")]),
    ("<think>a</think><think>b</think>c", "", False, [(REASONING, "ab"), (TEXT, "c")]),
    ("a < b and c <th d", "", False, [(TEXT, "a < b and c <th d")]),
    ("Write `<think>` first.", "", False, [(TEXT, "Write `<think>` first.")]),
    (
        "<think>a</think>Close with `</think>` so:\n```\n</think>\n```",
        "",
        False,
        [(REASONING, "a"), (TEXT, "Close with `</think>` so:\n```\n</think>\n```")],
    ),
    (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
        "",
        False,
        [SUM],
    ),
    (
        'Now.\n<TOOLCALL>[{"name": "add", "arguments": {"a": 1, "b": 2}}]</TOOLCALL>',
        "",
        False,
        [(TEXT, "Now.\n"), SUM],
    ),
    (
        '<think>sum</think>\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>\n'
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>',
        "",
        False,
        [(REASONING, "sum"), SUM, SUM],
    ),
    ('<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}', "", False, [SUM]),
    ('<function=add>{"a": 1, "b": 2}</function>', "", False, [SUM]),
    ('[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}]', "", False, [SUM]),
    ('{"name": "add", "parameters": {"a": 1, "b": 2}}', "", True, [SUM]),
    ('```json\n{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}\n```', "", True, [SUM]),
    ('{"name": "add"}', "", True, [(TEXT, '{"name": "add"}')]),
    ('{"name": "add", "parameters": {}}', "", False, [(TEXT, '{"name": "add", "parameters": {}}')]),
    ("[1] is a list.", "", True, [(TEXT, "[1] is a list.")]),
    ("<tool_call>no json</tool_call> x", "", False, [(TEXT, "<tool_call>no json</tool_call> x")]),
    ("<tool_call>{", "", False, [(TEXT, "<tool_call>{")]),
    ("<|python_tag|>print(1)", "", False, [(TEXT, "<|python_tag|>print(1)")]),
    ("<think>\nhm</think>Yes.", "…<think>\n", False, [(REASONING, "\nhm"), (TEXT, "Yes.")]),
    (
        '<think>hm</think>\n{"name": "add", "parameters": {"a": 1, "b": 2}}',
        "",
        True,
        [(REASONING, "hm"), SUM],
    ),
    (
        'hm</think>{"name": "add", "parameters": {"a": 1, "b": 2}}',
        "<think>",
        True,
        [(REASONING, "hm"), SUM],
    ),
    (
        '<tool_call>{"name": "say", "arguments": {"t": "</tool_call>"}}</tool_call> Done.',
        "",
        False,
        [(CALL, ("say", {"t": "</tool_call>"})), (TEXT, "Done.")],
    ),
    (
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}\n'
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>',
        "",
        False,
        [SUM, SUM],
    ),
    (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        False,
        [SUM],
    ),
    ("<function=now>{}</function>", "", False, [(CALL, ("now", {}))]),
    (
        "<function=say>\n<parameter=t>\nGood day\n</parameter>\n</function>",
        "",
        False,
        [(CALL, ("say", {"t": "Good day"}))],
    ),
    (
        '<|python_tag|>{"name": "say", "parameters": {"t": "a;b"}}; {"name": "add", "parameters": '
        '{"a": 1, "b": 2}}',
        "",
        False,
        [(CALL, ("say", {"t": "a;b"})), SUM],
    ),
    (
        'So:\n```xml\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n```\nDone.',
        "",
        False,
        [
            (
                TEXT,
                'So:\n```xml\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n```\nDone.',
            )
        ],
    ),
    (
        "Write `<function=now>{}</function>` or `x`: <function=now>{}</function>",
        "",
        False,
        [(TEXT, "Write `<function=now>{}</function>` or `x`: "), (CALL, ("now", {}))],
    ),
    ("<think><think>\n<think>a</think>b", "…<think>", False, [(REASONING, "a"), (TEXT, "b")]),
    (
        '<tool_call>{"name": </tool_call> x',
        "",
        False,
        [(TEXT, '<tool_call>{"name": </tool_call> x')],
    ),
]


@pytest.mark.parametrize(("text", "prompt", "tools", "expected"), CASES)
def test_parts_of_an_answer(text: str, prompt: str, tools: bool, expected: Parts) -> None:
    assert parts([text], prompt=prompt, tools=tools) == (expected, True)
    assert parts(list(text), prompt=prompt, tools=tools) == (expected, True)


@given(case=st.sampled_from(CASES), data=st.data())
def test_how_the_tokens_are_cut_changes_nothing(
    case: tuple[str, str, bool, Parts], data: st.DataObject
) -> None:
    text, prompt, tools, expected = case
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parts(pieces, prompt=prompt, tools=tools)[0] == expected


def test_reasoning_that_is_never_closed_stays_reasoning() -> None:
    assert parts(list("<think>on and on")) == ([(REASONING, "on and on")], False)
    assert parts(list("on </thi"), prompt="<think>") == ([(REASONING, "on </thi")], False)


def test_text_is_shown_as_soon_as_it_can_be_no_tag() -> None:
    parser = PartParser()
    assert [piece.text for piece in parser.feed("Hello <")] == ["Hello "]
    assert [piece.text for piece in parser.feed("b>")] == ["<b>"]


def test_the_template_decides_what_becomes_of_reasoning() -> None:
    messages = (
        ChatMessage(role="user", content="q"),
        ChatMessage(role="assistant", content="a", reasoning_content="r"),
        ChatMessage(role="user", content="p"),
    )
    assert "r" not in render("{% for m in messages %}{{ m.content }};{% endfor %}", messages)
    keeping = "{% for m in messages %}{{ m.reasoning_content }}{{ m.content }};{% endfor %}"
    assert render(keeping, messages) == "q;ra;p;"
    opening = "{% for m in messages %}{{ m.content }};{% endfor %}<think>"
    going_on = render(opening, messages[:2], continue_last=True)
    assert going_on == "q;<think>r</think>\n\na"
    unfinished = (messages[0], messages[1].model_copy(update={"content": ""}))
    assert render(keeping, unfinished, continue_last=True) == "q;<think>r"


@pytest.mark.parametrize(
    "arguments", ['{"a": ' + "[" * depth + "]" * depth + "}" for depth in (150, 250, 50_000)]
)
def test_arguments_that_no_message_can_carry_stay_text(arguments: str) -> None:
    text = f'<tool_call>{{"name": "say", "arguments": {arguments}}}</tool_call>'
    assert parts([text]) == ([(TEXT, text)], True)


@pytest.mark.parametrize("name", ["say", "\\ud83d"])
def test_half_a_character_is_no_argument(name: str) -> None:
    text = f'<tool_call>{{"name": "{name}", "arguments": {{"t": "\\ud83d"}}}}</tool_call>'
    assert parts([text]) == ([(TEXT, text)], True)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "say", ' + "</tool_call>\n" * 3000,
        '<tool_call>{"name": "say", "arguments": {"t": "' + "word </tool_call>" * 3000,
        "<function=say>" + "<parameter=x>\n" * 20_000 + "</function>",
        "<tool_call><function=say></function>" + " " * 100_000 + "x</tool_call>",
        "```json\n" + " " * 100_000 + "x",
    ],
)
def test_a_model_that_loops_in_a_call_does_not_hold_up_the_worker(text: str) -> None:
    started = time.process_time()
    found, _ = parts([text[at : at + 6] for at in range(0, len(text), 6)], tools=True)
    assert time.process_time() - started < 5
    assert len("".join(str(value) for _, value in found)) >= len(text.strip()) / 2
