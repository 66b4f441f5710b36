"""llama.cpp's sampler chain for a `Sampling`. Only children of the app import this."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from pydantic import JsonValue

from app.engine.protocol import Sampling

NEVER = -100.0
"""A bias that forbids a token, as in other programs' interfaces."""
MOST_REPEATS = 10_000
"""llama.cpp itself refuses more than 2,000 of what may be there or not (llama-grammar.cpp)."""
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_REPEATED = re.compile(r"(?<=[{,])\d+(?=[,}])")
_RANDOM_SEED = 0xFFFFFFFF
_ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama.h, `llama_token_data`."""


class SamplingError(ValueError):
    """The options cannot be used; the message says why."""


class Sampler:
    """A chain in llama.cpp's own order (common/sampling.cpp), without the parts that change nothing.

    Attributes:
        sample: Chooses the next token.
    """

    def __init__(
        self,
        sampling: Sampling,
        context: int,
        tokenize: Callable[[str], list[int]],
        end_tokens: Iterable[int],
    ) -> None:
        """Build the chain; `close` it.

        Args:
            sampling: The options.
            context: The `llama_context` whose tokens are chosen.
            tokenize: Turns the text of a logit bias into tokens.
            end_tokens: Tokens that end an answer.

        Raises:
            SamplingError: Grammar or JSON schema are broken.
        """
        self._options = sampling
        self._vocabulary = lib.llama_model_get_vocab(lib.llama_get_model(context))
        self._vocabulary_size: int = lib.llama_vocab_n_tokens(self._vocabulary)
        self._context_size: int = lib.llama_n_ctx(context)
        self._seed = _RANDOM_SEED if sampling.seed is None else sampling.seed
        self._history: list[int] = []
        self._chain: int = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self.sample: Callable[[], int] = functools.partial(
            lib.llama_sampler_sample, self._chain, context, -1
        )
        try:
            grammar = grammar_of(sampling)
            if grammar:
                self.sample = functools.partial(self._allowed, context, *self._candidates())
            # Where a grammar has ended it allows nothing but the end.
            ends = () if grammar else end_tokens
            self._add_constraints(_biases(sampling, tokenize, ends), grammar)
            if sampling.mirostat and sampling.temperature > 0:
                self._add_mirostat()
            else:
                self._add_penalties()
                self._add_choice()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the chain back."""
        lib.llama_sampler_free(self._chain)

    def _candidates(self) -> tuple[Any, Any, Any]:
        """All tokens' numbers, and room for what llama.cpp weighs of each: prepared once."""
        rows = np.zeros(self._vocabulary_size, _ROW)
        data = rows.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        return np.arange(self._vocabulary_size, dtype=np.int32), rows, data

    def _allowed(self, context: int, ids: Any, rows: Any, data: Any) -> int:  # noqa: ANN401
        """As `llama_sampler_sample`, which aborts where the grammar allows none of the tokens."""
        size = self._vocabulary_size
        # The chain may have put them in another order the last time.
        rows["id"] = ids
        rows["logit"] = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (size,))
        found = lib.llama_token_data_array(data, size, -1, False)
        lib.llama_sampler_apply(self._chain, ctypes.byref(found))
        chosen = found.data[found.selected]
        if chosen.logit == -math.inf:
            raise SamplingError("the grammar allows nothing that the other options leave")
        lib.llama_sampler_accept(self._chain, chosen.id)
        return int(chosen.id)

    def read(self, tokens: list[int]) -> None:
        """Penalties look at the end of the prompt too."""
        for part in self._history:
            for token in tokens:
                lib.llama_sampler_accept(part, token)

    def _add(self, part: int) -> int:
        lib.llama_sampler_chain_add(self._chain, part)
        return part

    def _add_constraints(self, biases: dict[int, float], grammar: str) -> None:
        if biases:
            rows = (lib.llama_logit_bias * len(biases))(
                *(lib.llama_logit_bias(*b) for b in biases.items())
            )
            self._add(lib.llama_sampler_init_logit_bias(self._vocabulary_size, len(rows), rows))
        if grammar:
            rules = lib.llama_sampler_init_grammar(self._vocabulary, grammar.encode(), b"root")
            if not rules:
                raise SamplingError("the grammar cannot be parsed")
            self._add(rules)

    def _add_mirostat(self) -> None:
        s = self._options
        self._add(lib.llama_sampler_init_temp(s.temperature))
        options = (self._seed, s.mirostat_tau, s.mirostat_eta)
        if s.mirostat == 1:
            self._add(lib.llama_sampler_init_mirostat(self._vocabulary_size, *options, 100))
        else:
            self._add(lib.llama_sampler_init_mirostat_v2(*options))

    def _add_penalties(self) -> None:
        s = self._options
        last = self._context_size if s.penalty_last_n == -1 else s.penalty_last_n
        if last and (s.repeat_penalty != 1 or s.frequency_penalty or s.presence_penalty):
            penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
            part = lib.llama_sampler_init_penalties(self._vocabulary_size, last, *penalties)
            self._history.append(self._add(part))
        last = self._context_size if s.dry_penalty_last_n == -1 else s.dry_penalty_last_n
        if last and s.dry_multiplier:
            breakers = [text.encode() for text in s.dry_sequence_breakers]
            texts = (ctypes.c_char_p * len(breakers))(*breakers)
            options = (s.dry_multiplier, s.dry_base, s.dry_allowed_length, last)
            part = lib.llama_sampler_init_dry(self._vocabulary, *options, texts, len(breakers))
            self._history.append(self._add(part))

    def _add_choice(self) -> None:
        s = self._options
        if s.temperature == 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if s.top_n_sigma:
            self._add(lib.llama_sampler_init_top_n_sigma(s.top_n_sigma))
        if s.top_k:
            self._add(lib.llama_sampler_init_top_k(s.top_k))
        if s.typical_p < 1:
            self._add(lib.llama_sampler_init_typical(s.typical_p, 0))
        if s.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(s.top_p, 0))
        if s.min_p:
            self._add(lib.llama_sampler_init_min_p(s.min_p, 0))
        if s.xtc_probability:
            xtc = (s.xtc_probability, s.xtc_threshold, 0, self._seed)
            self._add(lib.llama_sampler_init_xtc(*xtc))
        temperature = (s.temperature, s.dynatemp_range, s.dynatemp_exponent)
        self._add(lib.llama_sampler_init_temp_ext(*temperature))
        self._add(lib.llama_sampler_init_dist(self._seed))


def _biases(
    sampling: Sampling, tokenize: Callable[[str], list[int]], end_tokens: Iterable[int]
) -> dict[int, float]:
    biases: dict[int, float] = {}
    for what, bias in sampling.logit_bias:
        for token in [what] if isinstance(what, int) else tokenize(what):
            biases[token] = -math.inf if bias <= NEVER else bias
    if sampling.ignore_end:
        biases |= dict.fromkeys(end_tokens, -math.inf)
    return biases


def grammar_of(sampling: Sampling) -> str:
    """The grammar that the answer follows, in GBNF; "" if none.

    Raises:
        SamplingError: The JSON schema cannot be turned into one.
    """
    if sampling.json_schema is None:
        return sampling.grammar
    from app.engine import schema

    try:
        _check_counts(sampling.json_schema)
        return schema.to_grammar(sampling.json_schema)
    except Exception as error:
        # The converter asserts, indexes and recurses without a word of its own.
        why = str(error) or type(error).__name__
        raise SamplingError(f"the JSON schema cannot be used: {why}") from error


def _check_counts(schema: JsonValue) -> None:
    """The converter writes out what is repeated, which may take all memory.

    Raises:
        ValueError: Something is repeated too often for any grammar.
    """
    if isinstance(schema, list):
        for each in schema:
            _check_counts(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            counts = [value] if key in _COUNTS and isinstance(value, int | float) else []
            if key == "pattern" and isinstance(value, str):
                # One in the other multiplies.
                counts = [math.prod(int(n[:9]) or 1 for n in _REPEATED.findall(value)[:99])]
            if counts and counts[0] > MOST_REPEATS:
                raise ValueError(f"{key} asks for more than {MOST_REPEATS:,} repetitions")
            _check_counts(value)
