from __future__ import annotations

import pytest

from app.engine import template
from app.engine.protocol import ChatMessage
from app.engine.template import TemplateError, render

HELLO = (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi"))


def test_without_a_template_chatml_is_used() -> None:
    assert render("", HELLO).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_rejects_system_gets_it_in_the_first_message() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    assert render(source, HELLO) == "Be brief.\n\nHi"


def test_a_partial_answer_is_left_open() -> None:
    messages = (*HELLO, ChatMessage(role="assistant", content="Hello th"))
    assert render("", messages, continue_last=True).endswith("<|im_start|>assistant\nHello th")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for a in range(10**12) %}x{% endfor %}",
        "{% if",
        "{{ 1 / 0 }}",
        "x" * (template.MAX_TEMPLATE + 1),
    ],
)
def test_hostile_templates_end_in_an_error(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source, HELLO)


def test_a_template_that_fails_has_few_words() -> None:
    with pytest.raises(TemplateError) as error:
        render("{% set x = {} %}{{ x['a' * 1000000].y }}", HELLO)
    assert len(str(error.value)) < 1000


def test_a_template_has_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "TIME_LIMIT_S", 0.3)
    slow = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateError, match="took longer"):
        render(slow, HELLO)
