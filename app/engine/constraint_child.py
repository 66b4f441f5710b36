"""Child process: llama.cpp parses a grammar, or a JSON schema turned into one.

stdin: the `Sampling` as JSON and, on a line of its own, the model's file or nothing. stdout: a
JSON object with what is wrong, or "". llama.cpp says more on stderr.
"""

from __future__ import annotations

import json
import os
import sys

import llama_cpp.llama_cpp as lib

from app.engine.protocol import Sampling
from app.engine.sampler import SamplingError, grammar_of


def _vocabulary(path: str) -> int | None:
    """The model's, for grammars that name tokens; its weights are not read."""
    if not path:
        return None
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), parameters)
    found: int | None = lib.llama_model_get_vocab(model) if model else None
    return found


def _problem(sampling: Sampling, path: str) -> str:
    try:
        grammar = grammar_of(sampling)
    except SamplingError as error:
        return str(error)
    for vocabulary in (None, _vocabulary(path) if "<" in grammar else None):
        if lib.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root"):
            return ""
    return "the grammar cannot be parsed"


def main() -> None:
    """Answer on the real stdout: C code prints to it, too."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    options, path = sys.stdin.read().split("\n", 1)
    problem = _problem(Sampling.model_validate_json(options), path.strip())
    private.write(json.dumps({"problem": problem}))
    private.flush()


if __name__ == "__main__":
    main()
