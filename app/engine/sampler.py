"""llama.cpp's sampler chain for a `Sampling`. Only the worker imports this."""

from __future__ import annotations

import ctypes
import functools
import json
import math
from collections.abc import Callable

import llama_cpp.llama_cpp as lib

from app.engine.protocol import Sampling

NEVER = -100.0
"""A bias that forbids a token, as in other programs' interfaces."""
_RANDOM_SEED = 0xFFFFFFFF


class SamplingError(ValueError):
    """The options cannot be used; the message says why."""


def make_sampler(
    sampling: Sampling,
    model: int,
    tokenize: Callable[[str], list[int]],
    end_tokens: frozenset[int],
) -> int:
    """A chain in llama.cpp's own order (common/sampling.cpp), without the parts that change nothing.

    Free it with `llama_sampler_free`.

    Args:
        sampling: The options.
        model: The `llama_model` whose tokens are chosen.
        tokenize: Turns the text of a logit bias into tokens.
        end_tokens: Tokens that end an answer.

    Raises:
        SamplingError: Grammar or JSON schema are broken.
    """
    vocabulary = lib.llama_model_get_vocab(model)
    chain: int = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    add = functools.partial(lib.llama_sampler_chain_add, chain)
    try:
        biases = _biases(sampling, tokenize, end_tokens)
        if biases:
            rows = (lib.llama_logit_bias * len(biases))(*biases.items())
            size = lib.llama_vocab_n_tokens(vocabulary)
            add(lib.llama_sampler_init_logit_bias(size, len(rows), rows))
        grammar = _grammar(sampling)
        if grammar:
            rules = lib.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
            if not rules:
                raise SamplingError("the grammar cannot be parsed")
            add(rules)
        seed = _RANDOM_SEED if sampling.seed is None else sampling.seed
        if sampling.mirostat and sampling.temperature > 0:
            _add_mirostat(add, sampling, vocabulary, seed)
        else:
            _add_usual(add, sampling, model, seed)
    except BaseException:
        lib.llama_sampler_free(chain)
        raise
    return chain


def _add_mirostat(
    add: Callable[[int], None], sampling: Sampling, vocabulary: int, seed: int
) -> None:
    add(lib.llama_sampler_init_temp(sampling.temperature))
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.mirostat == 1:
        size = lib.llama_vocab_n_tokens(vocabulary)
        add(lib.llama_sampler_init_mirostat(size, seed, tau, eta, 100))
    else:
        add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta))


def _add_usual(add: Callable[[int], None], sampling: Sampling, model: int, seed: int) -> None:
    vocabulary = lib.llama_model_get_vocab(model)
    s = sampling
    last = lib.llama_model_n_ctx_train(model) if s.penalty_last_n == -1 else s.penalty_last_n
    if last and (s.repeat_penalty != 1 or s.frequency_penalty or s.presence_penalty):
        size = lib.llama_vocab_n_tokens(vocabulary)
        penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
        add(lib.llama_sampler_init_penalties(size, last, *penalties))
    if s.dry_multiplier and s.dry_base and s.dry_penalty_last_n:
        last = s.dry_penalty_last_n
        last = lib.llama_model_n_ctx_train(model) if last == -1 else last
        breakers = [text.encode() for text in s.dry_sequence_breakers]
        texts = (ctypes.c_char_p * len(breakers))(*breakers)
        options = (s.dry_multiplier, s.dry_base, s.dry_allowed_length, last)
        add(lib.llama_sampler_init_dry(vocabulary, *options, texts, len(breakers)))
    if s.temperature == 0:
        add(lib.llama_sampler_init_greedy())
        return
    if s.top_n_sigma:
        add(lib.llama_sampler_init_top_n_sigma(s.top_n_sigma))
    if s.top_k:
        add(lib.llama_sampler_init_top_k(s.top_k))
    if s.typical_p < 1:
        add(lib.llama_sampler_init_typical(s.typical_p, 0))
    if s.top_p < 1:
        add(lib.llama_sampler_init_top_p(s.top_p, 0))
    if s.min_p:
        add(lib.llama_sampler_init_min_p(s.min_p, 0))
    if s.xtc_probability:
        add(lib.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 0, seed))
    add(lib.llama_sampler_init_temp_ext(s.temperature, s.dynatemp_range, s.dynatemp_exponent))
    add(lib.llama_sampler_init_dist(seed))


def _biases(
    sampling: Sampling, tokenize: Callable[[str], list[int]], end_tokens: frozenset[int]
) -> dict[int, float]:
    biases: dict[int, float] = {}
    for what, bias in sampling.logit_bias:
        for token in [what] if isinstance(what, int) else tokenize(what):
            biases[token] = -math.inf if bias <= NEVER else bias
    if sampling.ignore_end:
        biases |= dict.fromkeys(end_tokens, -math.inf)
    return biases


def _grammar(sampling: Sampling) -> str:
    if sampling.json_schema is None:
        return sampling.grammar
    from llama_cpp import llama_grammar

    try:
        text: str = llama_grammar.json_schema_to_gbnf(json.dumps(sampling.json_schema))
    except Exception as error:
        # The converter asserts, indexes and recurses without a word of its own.
        raise SamplingError(f"the JSON schema cannot be used: {error}") from error
    return text
