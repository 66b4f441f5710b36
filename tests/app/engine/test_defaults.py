from __future__ import annotations

import dataclasses
from pathlib import Path

from app.engine.defaults import NEMOTRON, reasoning_switch, sampling_for
from app.engine.protocol import Sampling
from app.gguf import bundled
from app.gguf.reader import read_layout

ULTRA = "nemotron-ultra-253b:Q4_K_M"


def test_ultra_reasons_with_advised_values_and_answers_greedily_without() -> None:
    layout = bundled.layout(ULTRA)
    assert reasoning_switch(layout) is NEMOTRON
    on = sampling_for(layout, system_prompt="You are kind.\nDetailed thinking on")
    assert (on.temperature, on.top_p) == (0.6, 0.95)
    for prompt in ("", "detailed thinking off"):
        assert sampling_for(layout, system_prompt=prompt).temperature == 0


def test_other_models_have_what_their_file_says(starter_model: Path) -> None:
    layout = read_layout(starter_model)
    assert reasoning_switch(layout) is None
    assert sampling_for(layout) == Sampling()
    keys = {"general.sampling.temp": 0.3, "general.sampling.top_k": 7}
    told = dataclasses.replace(layout, metadata={**layout.metadata, **keys})
    assert sampling_for(told) == Sampling(temperature=0.3, top_k=7)
    odd = dataclasses.replace(layout, metadata={"general.sampling.temp": "hot"})
    assert sampling_for(odd) == Sampling()
