"""Sampling options that a model's makers advise: from the file itself, or known by family."""

from __future__ import annotations

import dataclasses

from app.engine.protocol import Sampling
from app.gguf.model import ModelLayout

_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "penalty_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
"""`general.sampling.*` of a GGUF file (llama-arch.cpp), each with the option of ours."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSwitch:
    """System prompts that switch a model's reasoning."""

    on: str
    off: str


NEMOTRON = ReasoningSwitch(on="detailed thinking on", off="detailed thinking off")


def reasoning_switch(layout: ModelLayout) -> ReasoningSwitch | None:
    """How the model's reasoning is switched by the system prompt; None if it is not."""
    nemotron = "nemotron" in layout.name.lower() and layout.architecture in ("deci", "llama")
    return NEMOTRON if nemotron else None


def stored_options(layout: ModelLayout) -> dict[str, object]:
    """Options that the model's file itself names."""
    return {
        name: layout.metadata[f"general.sampling.{key}"]
        for key, name in _KEYS.items()
        if f"general.sampling.{key}" in layout.metadata
    }


def advice_words(layout: ModelLayout) -> str:
    """Who advises which options, as a sentence or two; "" if nobody does."""
    if stored_options(layout):
        return f"The file of {layout.name} names its own options; they hold where you set none."
    switch = reasoning_switch(layout)
    if switch is None:
        return ""
    on = sampling_for(layout, system_prompt=switch.on)
    return (
        f"The makers of {layout.name} advise temperature {on.temperature:g} and top-p {on.top_p:g} "
        f"with reasoning on (“{switch.on}” in the system prompt), and greedy with it off. "
        "That holds where you set nothing."
    )


def sampling_for(layout: ModelLayout, *, system_prompt: str = "") -> Sampling:
    """The options to begin with; whether it reasons stands in the system prompt.

    NVIDIA's model cards of the Llama Nemotron family advise 0.6 and 0.95 with reasoning, and
    greedy decoding without.
    """
    stored = stored_options(layout)
    if stored:
        try:
            return Sampling.model_validate(stored)
        except ValueError:
            return Sampling()
    switch = reasoning_switch(layout)
    if switch is None:
        return Sampling()
    if switch.on in system_prompt.lower():
        return Sampling(temperature=0.6, top_p=0.95, top_k=0, min_p=0)
    return Sampling(temperature=0)
