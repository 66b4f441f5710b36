"""Takes an answer apart while it arrives: what the model thinks, what it says, which tools it calls.

Tags are text, not tokens: `<think>` may come as `<`, `think` and `>`, so what may become a tag is
held back until it is one or cannot be one any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from app.engine.protocol import PartKind, ToolCall

REASONING = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}
"""Tags around reasoning, each with the one that closes it."""
TOOLS = {
    "<tool_call>": "</tool_call>",
    "<TOOLCALL>": "</TOOLCALL>",
    "[TOOL_CALLS]": "",
    "<|python_tag|>": "",
    "<function=": "</function>",
}
"""What begins a tool call, with what ends it; without, the answer's end does. Hermes and Qwen,
Nemotron, Mistral, Llama 3.1 twice."""
TAGS = frozenset((*REASONING, *REASONING.values(), *TOOLS, *TOOLS.values())) - {""}
_FIRST = frozenset(tag[0] for tag in TAGS)
_JSON_BEGUN = re.compile(r"<[\w=]+>\s*[{\[]")
_XML_CALL = re.compile(r"<function=([\w.-]+)>(.*)</function>", re.DOTALL)
_XML_ARGUMENT = re.compile(r"<parameter=([\w.-]+)>\n?(.*?)\n?", re.DOTALL)
_BETWEEN = re.compile(r"\s*(?:;|<tool_call>)?\s*")
"""What parts several calls: Llama 3.1's semicolon, or a tag that was not closed before."""
_DECODER = json.JSONDecoder()
MOST_DEPTH = 100
"""Arguments that are nested deeper are none: no JSON of the protocol could carry them."""
_HALF = re.compile("[\ud800-\udfff]")
_NAMES, _ARGUMENTS = ("name", "function"), ("arguments", "parameters", "args")


class Piece(NamedTuple):
    """Some text of one kind; a whole tool call also as `call`."""

    kind: PartKind
    text: str
    call: ToolCall | None = None


class PartParser:
    """Feed it an answer's text as it comes; it gives pieces in order, with no tags in them.

    Attributes:
        kind: What the answer is in the middle of.
        closed: False while reasoning is open, also at the very end.
    """

    def __init__(self, prompt: str = "", *, tools: bool = False, goes_on: bool = False) -> None:
        """Begin.

        Args:
            prompt: The end of the prompt, in which the template may have opened the reasoning.
            tools: The model was told of tools, so that an answer that is nothing but JSON may be a call.
            goes_on: Something was said before, so that what comes may begin with a space.
        """
        self._held = ""
        self._close = ""
        self._said = goes_on
        self._reasoned = self._thought = False
        self._line, self._in_fence = "", False
        self._json_possible = tools
        self._tried = 0
        """Up to here the held text ends no call, wherever it is cut."""
        self.kind = PartKind.TEXT
        opened = next((tag for tag in REASONING if prompt.rstrip().endswith(tag)), None)
        if opened is not None:
            self._open(opened)

    @property
    def closed(self) -> bool:
        """True unless the answer is in the middle of reasoning."""
        return self.kind is not PartKind.REASONING

    def feed(self, text: str) -> list[Piece]:
        """What is certain by now."""
        plain = not self._held and _FIRST.isdisjoint(text)
        if plain and self.kind is PartKind.REASONING and self._thought:
            return [Piece(PartKind.REASONING, text)] if text else []
        if plain and self.kind is PartKind.TEXT and self._said:
            return list(self._say(text))
        self._held += text
        return list(self._take(final=False))

    def end(self) -> list[Piece]:
        """The rest, once no more comes."""
        return list(self._take(final=True))

    def _take(self, *, final: bool) -> Iterator[Piece]:
        while self._held or final:
            before = (self.kind, self._held)
            if self.kind is PartKind.REASONING:
                yield from self._reasoning(final=final)
            elif self.kind is PartKind.TOOL_CALL:
                yield from self._tool_call(final=final)
            else:
                yield from self._text(final=final)
            if (self.kind, self._held) == before:
                return

    def _open(self, tag: str) -> None:
        self.kind, self._close, self._reasoned = PartKind.REASONING, REASONING[tag], True

    def _reasoning(self, *, final: bool) -> Iterator[Piece]:
        if not self._thought:
            # Opened by the template and once more by the model, maybe twice.
            start = self._held.lstrip()
            while again := next((tag for tag in REASONING if start.startswith(tag)), None):
                self._held = start[len(again) :]
                start = self._held.lstrip()
            if not final and any(tag.startswith(start) for tag in REASONING):
                return
        text, tag, rest = _split(self._held, (self._close,), final=final)
        if text:
            self._thought = True
            yield Piece(PartKind.REASONING, text)
        self._held = rest
        if tag:
            self.kind, self._said = PartKind.TEXT, False

    def _text(self, *, final: bool) -> Iterator[Piece]:
        if not self._said:
            start = self._held.lstrip()
            tag = next((tag for tag in REASONING if start.startswith(tag)), None)
            if tag is not None:
                self._open(tag)
                self._held = start[len(tag) :]
                return
            if not final and any(tag.startswith(start) for tag in REASONING):
                return
            if self._json_possible and self._may_be_json(final=final):
                return
        closing = (*REASONING.values(),) if self._reasoned else ()
        text, tag, self._held = _split(self._held, (*closing, *TOOLS), final=final)
        # Between reasoning, answer and calls, empty lines say nothing.
        yield from self._say(text)
        if tag in TOOLS and self._in_code:
            yield from self._say(tag)
        elif tag in TOOLS:
            self.kind, self._close = PartKind.TOOL_CALL, TOOLS[tag]
            self._held = tag + self._held
        elif tag and not self._is_stray():
            yield from self._say(tag)

    def _say(self, text: str) -> Iterator[Piece]:
        if not self._said:
            text = text.lstrip()
        if text:
            self._said = True
            self._follow(text)
            yield Piece(PartKind.TEXT, text)

    def _follow(self, text: str) -> None:
        """Keep the last line, and whether it is in a block of code."""
        *lines, last = (self._line + text).split("\n")
        fences = sum(line.lstrip().startswith("```") for line in lines)
        self._in_fence ^= fences % 2 == 1
        self._line = last[-1000:]

    @property
    def _in_code(self) -> bool:
        """True in a block of code, or in quotes of code: what stands there is shown, and no call."""
        return self._in_fence or self._line.count("`") % 2 == 1

    def _is_stray(self) -> bool:
        """A closing tag where nothing is open was written twice, unless the text is about tags."""
        return not self._in_fence and "`" not in self._line and '"' not in self._line

    def _may_be_json(self, *, final: bool) -> bool:
        """True while all of the answer may be a call in JSON, or once it was taken as one."""
        start = self._held.lstrip()
        if not start.startswith(("{", "[{", "```json", "```\n{")) and not (
            not final and any(s.startswith(start) for s in ("[{", "```json", "```\n{"))
        ):
            self._json_possible = False
            return False
        if not final:
            return True
        self._json_possible = False
        raw = self._held.strip()
        if raw.startswith("```") and raw.endswith("```"):
            raw = raw[3:-3].removeprefix("json").strip()
        if not parse_calls(raw):
            return False
        self._held = raw
        self.kind, self._close = PartKind.TOOL_CALL, ""
        return True

    def _tool_call(self, *, final: bool) -> Iterator[Piece]:
        if not final and (not self._close or self._close not in self._held):
            return
        raw, rest = self._held, ""
        calls: list[ToolCall] = []
        if self._close in self._held and self._close:
            # The tag may also stand in an argument: the call ends where it makes sense.
            begun = _JSON_BEGUN.match(self._held)
            for end in _ends(self._held, self._close, self._tried):
                raw, rest = end
                calls = parse_calls(raw)
                if calls or not begun:
                    break
                self._tried = len(raw)
            if not calls and not final and begun:
                return
            if not calls:
                raw, rest = next(_ends(self._held, self._close))
        else:
            calls = parse_calls(raw)
        self._held, self.kind, self._tried = rest, PartKind.TEXT, 0
        if not calls:
            # Broken, or no call at all: nothing that was written gets lost.
            yield from self._say(raw)
        for call in calls:
            yield Piece(PartKind.TOOL_CALL, "", call)


def _ends(text: str, tag: str, start: int = 0) -> Iterator[tuple[str, str]]:
    """What may be the whole call, and what follows it, for each place of the tag that ends it."""
    end = start - 1
    while (end := text.find(tag, end + 1)) >= 0:
        yield text[: end + len(tag)], text[end + len(tag) :]


def _split(text: str, tags: tuple[str, ...], *, final: bool) -> tuple[str, str, str]:
    """The text before the first of `tags`, that tag, and what follows; what may become one is held."""
    found = min(((text.find(tag), tag) for tag in tags if tag in text), default=None)
    if found is not None:
        index, tag = found
        return text[:index], tag, text[index + len(tag) :]
    if not final:
        longest = max(map(len, tags), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[-size:]
            if any(tag.startswith(end) for tag in tags):
                return text[:-size], "", end
    return text, "", ""


def parse_calls(raw: str) -> list[ToolCall]:
    """The tool calls in `raw`: Hermes, Nemotron, Mistral, Llama 3.1 or plain JSON; empty if it is none."""
    text = raw.strip()
    xml = text.removeprefix("<tool_call>").removesuffix("</tool_call>").strip()
    if named := _XML_CALL.fullmatch(xml):
        arguments = _json(named[2].strip() or "{}")
        arguments = _xml_arguments(named[2]) if arguments is None else arguments
        call = _call({"name": named[1], "arguments": arguments})
        return [] if call is None else [call]
    for start, end in TOOLS.items():
        text = text.removeprefix(start)
        text = text.removesuffix(end) if end else text
    values = _values(text)
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    calls = [_call(row) for row in rows]
    return [] if None in calls else [call for call in calls if call is not None]


def _values(text: str) -> list[object]:
    """The JSON in `text`, one after the other; empty if there is anything else."""
    found: list[object] = []
    text, start = text.strip(), 0
    try:
        while start < len(text):
            value, end = _DECODER.raw_decode(text, start)
            found.append(value)
            between = _BETWEEN.match(text, end)
            start = between.end() if between else end
    except (ValueError, RecursionError):
        return []
    return found


def _xml_arguments(text: str) -> dict[str, object] | None:
    """Arguments as Qwen 3 Coder and Nemotron 3 write them; each is JSON, or else text."""
    *parts, rest = text.split("</parameter>")
    matches = [_XML_ARGUMENT.fullmatch(part.lstrip()) for part in parts]
    if rest.strip() or None in matches:
        return None
    found = {m[1]: m[2] for m in matches if m is not None}
    return {name: value if (it := _json(value)) is None else it for name, value in found.items()}


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sendable(value: object, depth: int = MOST_DEPTH) -> bool:
    """True if the protocol can carry it: not nested too deep, and no half of a character."""
    if isinstance(value, dict):
        return depth > 0 and all(_sendable(v, depth - 1) for pair in value.items() for v in pair)
    if isinstance(value, list):
        return depth > 0 and all(_sendable(each, depth - 1) for each in value)
    return not isinstance(value, str) or not _HALF.search(value)


def _call(value: object) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not name or not isinstance(arguments, dict) or not _sendable([name, arguments]):
        return None
    return ToolCall(name=name, arguments=arguments)
