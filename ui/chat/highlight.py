"""Colours of code, by Pygments: pieces of text with a role of the theme."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Operator, String, _TokenType
from pygments.util import ClassNotFound

MOST_CHARACTERS = 40_000
"""Longer code stays plain: colouring it would hold up the window."""
_ROLES = (
    (Comment, "comment"),
    (String, "string"),
    (Keyword, "keyword"),
    (Operator.Word, "keyword"),
    (Name.Function, "function"),
    (Name.Class, "function"),
    (Name.Builtin, "function"),
    (Name.Decorator, "function"),
)


@functools.lru_cache(maxsize=32)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def spans(code: str, language: str) -> Iterator[tuple[str, str]]:
    """Pieces of `code` in order, each with `keyword`, `function`, `string`, `comment` or empty."""
    lexer = _lexer(language.lower()) if language and len(code) <= MOST_CHARACTERS else None
    if lexer is None:
        yield code, ""
        return
    for kind, text in lexer.get_tokens(code):
        yield text, _role(kind)


def _role(kind: _TokenType) -> str:
    return next((role for parent, role in _ROLES if kind is parent or parent in kind.split()), "")
