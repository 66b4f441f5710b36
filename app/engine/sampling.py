"""How a person wants tokens to be chosen: every option with its bounds and words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic


def _option(default: Any, title: str, description: str, **more: Any) -> Any:  # noqa: ANN401
    return pydantic.Field(default=default, title=title, description=description, **more)


class Sampling(pydantic.BaseModel):
    """How the next token is chosen. Values that change nothing are left out of the chain."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    temperature: float = _option(
        0.7, "Temperature", "Higher is more varied; 0 always takes the likeliest token.", ge=0, le=5
    )
    top_k: int = _option(
        40, "Top-k", "Choose among this many likeliest tokens; 0 means all.", ge=0, le=1_000_000
    )
    top_p: float = _option(
        0.95,
        "Top-p",
        "Choose among the likeliest that together have this probability; 1 is off.",
        gt=0,
        le=1,
    )
    min_p: float = _option(
        0.05,
        "Min-p",
        "Drop what is less likely than this share of the likeliest; 0 is off.",
        ge=0,
        le=1,
    )
    typical_p: float = _option(
        1.0, "Typical-p", "Prefer tokens that surprise as much as expected; 1 is off.", gt=0, le=1
    )
    top_n_sigma: float = _option(
        0.0,
        "Top-n-sigma",
        "Keep what lies within so many standard deviations of the best; 0 is off.",
        ge=0,
        le=100,
    )
    dynatemp_range: float = _option(
        0.0,
        "Temperature range",
        "The temperature varies by this with the certainty; 0 is off.",
        ge=0,
        le=5,
    )
    dynatemp_exponent: float = _option(
        1.0, "Range exponent", "How certainty maps to the temperature.", gt=0, le=10
    )
    repeat_penalty: float = _option(
        1.0, "Repeat penalty", "Above 1, what was just said becomes less likely.", ge=0.5, le=2
    )
    frequency_penalty: float = _option(
        0.0, "Frequency penalty", "Grows with how often a token was said; 0 is off.", ge=-2, le=2
    )
    presence_penalty: float = _option(
        0.0, "Presence penalty", "For every token that was said; 0 is off.", ge=-2, le=2
    )
    penalty_last_n: int = _option(
        64,
        "Penalty window",
        "Tokens that count as just said; -1 means the whole context.",
        ge=-1,
        le=2**24,
    )
    dry_multiplier: float = _option(
        0.0, "DRY multiplier", "Against repeated sequences; 0 is off, 0.8 is usual.", ge=0, le=10
    )
    dry_base: float = _option(
        1.75,
        "DRY base",
        "How fast the penalty grows with the length of the repetition.",
        ge=1,
        le=10,
    )
    dry_allowed_length: int = _option(
        2, "DRY allowed length", "Tokens that may be repeated without penalty.", ge=0, le=1000
    )
    dry_penalty_last_n: int = _option(
        64,
        "DRY window",
        "Tokens searched for repetitions; -1 means the whole context.",
        ge=-1,
        le=2**24,
    )
    dry_sequence_breakers: tuple[str, ...] = _option(
        ("\n", ":", '"', "*"), "DRY breakers", "Texts at which a repeated sequence ends."
    )
    xtc_probability: float = _option(
        0.0,
        "XTC probability",
        "How often the likeliest choices are excluded; 0 is off.",
        ge=0,
        le=1,
    )
    xtc_threshold: float = _option(
        0.1,
        "XTC threshold",
        "What is likelier than this may be excluded; above 0.5 is off.",
        ge=0,
        le=1,
    )
    mirostat: Literal[0, 1, 2] = _option(
        0,
        "Mirostat",
        "Steers the surprise instead of the usual choice; 0 is off, else its version.",
    )
    mirostat_tau: float = _option(5.0, "Mirostat tau", "The surprise to aim at.", gt=0, le=100)
    mirostat_eta: float = _option(0.1, "Mirostat eta", "How fast it is steered.", gt=0, le=1)
    seed: int | None = _option(
        None,
        "Seed",
        "The same seed gives the same answer.",
        ge=0,
        le=2**32 - 2,
        json_schema_extra={"empty": "Random"},
    )
    logit_bias: tuple[tuple[int | str, Annotated[float, pydantic.Field(ge=-100, le=100)]], ...] = (
        _option((), "Logit bias", "Tokens (number or text), each with its bias; -100 means never.")
    )
    grammar: str = _option(
        "",
        "Grammar",
        "The answer follows this grammar (GBNF), which begins with a rule named root.",
    )
    json_schema: dict[str, pydantic.JsonValue] | None = _option(
        None,
        "JSON schema",
        "The answer is JSON that follows this schema; overrides the grammar.",
        json_schema_extra={"empty": "None"},
    )
    ignore_end: bool = _option(
        False,
        "Ignore the end",
        "Go on where the model would end, until a limit, unless a grammar ends it. For measurements.",
    )
