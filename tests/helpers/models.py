"""Model headers of many architectures, made up but true to llama.cpp's rules, with no weights behind them.

Each file is sparse: it has the size that the model would have, and takes a few kB of disk.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np

from app.gguf.types import TENSOR_TYPES

_BY_NAME = {name: (number, block, size) for number, (name, block, size) in TENSOR_TYPES.items()}
QUANTIZED = ("Q4_K", "Q6_K", "Q8_0", "Q5_K", "IQ4_XS", "Q3_K", "F16")


@dataclasses.dataclass(slots=True)
class Header:
    """What a file will say: metadata below the architecture's prefix, and tensors in ggml's order."""

    architecture: str
    vocabulary: int
    numbers: dict[str, int | float | bool | Sequence[int]] = dataclasses.field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...], str]] = dataclasses.field(default_factory=list)

    def add(self, name: str, *shape: int, kind: str = "F32") -> None:
        """A tensor; a quantized type that does not divide the row becomes F16."""
        if shape[0] % _BY_NAME[kind][1]:
            kind = "F16"
        self.tensors.append((name, shape, kind))

    def write(self, path: Path) -> Path:
        """Write the header and stretch the file to the model's size."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.numbers.items():
            _add(writer, f"{self.architecture}.{key}", value)
        writer.add_vocab_size(self.vocabulary)
        writer.add_tokenizer_model("no_vocab")
        end = 0
        for name, shape, kind in self.tensors:
            number, block, block_bytes = _BY_NAME[kind]
            elements = 1
            for length in shape:
                elements *= length
            size = elements // block * block_bytes
            row = shape[0] // block * block_bytes
            raw = kind not in ("F32", "F16")
            stored = (*reversed(shape[1:]), row if raw else shape[0])
            dtype = (
                np.dtype(np.uint8) if raw else np.dtype(np.float32 if kind == "F32" else np.float16)
            )
            writer.add_tensor_info(
                name,
                stored,
                dtype,
                size,
                raw_dtype=gguf.GGMLQuantizationType(number) if raw else None,
            )
            end += size + -size % 32
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("r+b") as stream:
            stream.seek(0, 2)
            start = stream.tell()
            stream.truncate(start + -start % 32 + end)
        return path


def _add(writer: gguf.GGUFWriter, key: str, value: int | float | bool | Sequence[int]) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))


class _Maker:
    """Draws the numbers of one model and lays out its tensors."""

    def __init__(self, chance: random.Random, architecture: str) -> None:
        self.chance = chance
        self.layers = chance.choice((2, 3, 5, 8, 13))
        self.head = chance.choice((64, 80, 96, 128))
        self.heads = chance.choice((8, 16, 32, 40))
        self.kv_heads = chance.choice([n for n in (1, 2, 4, 8, self.heads) if not self.heads % n])
        self.hidden = chance.choice((1024, 2048, 3072, 4096, 5120))
        self.width = chance.choice((2048, 5632, 8192, 14336, 27648, 53248))
        self.kind = chance.choice(QUANTIZED)
        self.out_kind = chance.choice(QUANTIZED)
        vocabulary = chance.choice((32_000, 49_152, 128_256, 152_064, 256_000))
        self.header = Header(architecture, vocabulary)
        self.tied = False

    def square(self) -> None:
        """Heads that fill the hidden size, for architectures that take this for granted."""
        self.hidden = self.heads * self.head

    def number(self, **values: int | float | bool | Sequence[int]) -> None:
        self.header.numbers.update({key.replace("__", "."): v for key, v in values.items()})

    def common(self, *, epsilon: str = "layer_norm_rms_epsilon") -> None:
        self.number(
            block_count=self.layers,
            context_length=131_072,
            embedding_length=self.hidden,
            feed_forward_length=self.width,
            attention__head_count=self.heads,
            attention__head_count_kv=self.kv_heads,
            rope__freq_base=10_000.0,
            rope__dimension_count=self.head,
            attention__key_length=self.head,
            attention__value_length=self.head,
        )
        self.header.numbers[f"attention.{epsilon}"] = 1e-5

    def outside(self, *, bias: bool = False, norm_bias: bool = False) -> None:
        add = self.header.add
        add("token_embd.weight", self.hidden, self.header.vocabulary, kind=self.out_kind)
        add("output_norm.weight", self.hidden)
        if norm_bias:
            add("output_norm.bias", self.hidden)
        if not self.tied:
            add("output.weight", self.hidden, self.header.vocabulary, kind=self.out_kind)
        if bias:
            add("output.bias", self.header.vocabulary)

    def layer(self, index: int, name: str, *shape: int, bias: bool = False) -> None:
        """A tensor of a layer: matrices take the model's type, vectors stay F32."""
        kind = "F32" if len(shape) == 1 else self.kind
        self.header.add(f"blk.{index}.{name}.{'bias' if bias else 'weight'}", *shape, kind=kind)

    def qkv(self, i: int, *, bias: bool = False, fused: bool = False) -> None:
        q, kv = self.heads * self.head, self.kv_heads * self.head
        if fused:
            self.layer(i, "attn_qkv", self.hidden, q + 2 * kv)
            if bias:
                self.layer(i, "attn_qkv", q + 2 * kv, bias=True)
            return
        for name, size in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            self.layer(i, name, self.hidden, size)
            if bias:
                self.layer(i, name, size, bias=True)

    def attention(self, i: int, **how: bool) -> None:
        self.layer(i, "attn_norm", self.hidden)
        self.qkv(i, **how)
        self.layer(i, "attn_output", self.heads * self.head, self.hidden)

    def feed_forward(self, i: int, *, gate: bool = True, width: int | None = None) -> None:
        width = width or self.width
        self.layer(i, "ffn_norm", self.hidden)
        if gate:
            self.layer(i, "ffn_gate", self.hidden, width)
        self.layer(i, "ffn_up", self.hidden, width)
        self.layer(i, "ffn_down", width, self.hidden)

    def experts(self, i: int, count: int, width: int, *, gate: bool = True) -> None:
        self.header.add(f"blk.{i}.ffn_gate_inp.weight", self.hidden, count)
        if gate:
            self.layer(i, "ffn_gate_exps", self.hidden, width, count)
        self.layer(i, "ffn_up_exps", self.hidden, width, count)
        self.layer(i, "ffn_down_exps", width, self.hidden, count)


def _dense(maker: _Maker) -> None:
    """llama, mistral3, qwen2, qwen3."""
    name = maker.header.architecture
    if name != "qwen3":
        maker.square()
    maker.tied = maker.chance.random() < 0.3
    maker.common()
    maker.outside()
    for i in range(maker.layers):
        maker.attention(i, bias=name == "qwen2")
        if name == "qwen3":
            maker.layer(i, "attn_q_norm", maker.head)
            maker.layer(i, "attn_k_norm", maker.head)
        maker.feed_forward(i)


def _mixtral(maker: _Maker) -> None:
    maker.square()
    maker.width = maker.chance.choice((1792, 7168, 14336))
    count, used = maker.chance.choice(((8, 2), (16, 4)))
    maker.common()
    maker.number(expert_count=count, expert_used_count=used)
    maker.outside()
    for i in range(maker.layers):
        maker.attention(i)
        maker.layer(i, "ffn_norm", maker.hidden)
        maker.experts(i, count, maker.width)


def _deci(maker: _Maker) -> None:
    maker.square()
    maker.layers = maker.chance.choice((6, 9, 14))
    kinds = [
        maker.chance.choice(("both", "both", "empty", "wide", "linear"))
        for _ in range(maker.layers)
    ]
    kinds[0] = kinds[-2] = "both"
    heads = [maker.heads if k in ("both", "linear") else 0 for k in kinds]
    kv = [maker.kv_heads if k == "both" else 0 for k in kinds]
    widths = [
        0 if k == "empty" else maker.width * (maker.chance.choice((1, 3)) if k == "wide" else 1)
        for k in kinds
    ]
    maker.common()
    maker.number(
        attention__head_count=heads, attention__head_count_kv=kv, feed_forward_length=widths
    )
    maker.outside()
    maker.header.add("rope_freqs.weight", maker.head // 2)
    for i, kind in enumerate(kinds):
        if kind == "both":
            maker.attention(i)
        elif kind == "linear":
            maker.layer(i, "attn_norm", maker.hidden)
            maker.layer(i, "attn_output", maker.hidden, maker.hidden)
        if widths[i]:
            maker.feed_forward(i, width=widths[i])


def _qwen_moe(maker: _Maker) -> None:
    name = maker.header.architecture
    if name == "qwen2moe":
        maker.square()
    count, used = maker.chance.choice(((60, 4), (128, 8), (64, 8)))
    width = maker.chance.choice((768, 1408, 2560))
    maker.common()
    maker.number(expert_count=count, expert_used_count=used, expert_feed_forward_length=width)
    if name == "qwen2moe":
        maker.number(expert_shared_feed_forward_length=4 * width)
    maker.outside()
    for i in range(maker.layers):
        maker.attention(i, bias=name == "qwen2moe")
        if name == "qwen3moe":
            maker.layer(i, "attn_q_norm", maker.head)
            maker.layer(i, "attn_k_norm", maker.head)
        maker.layer(i, "ffn_norm", maker.hidden)
        maker.experts(i, count, width)
        if name == "qwen2moe":
            maker.layer(i, "ffn_gate_inp_shexp", maker.hidden)
            maker.layer(i, "ffn_gate_shexp", maker.hidden, 4 * width)
            maker.layer(i, "ffn_up_shexp", maker.hidden, 4 * width)
            maker.layer(i, "ffn_down_shexp", 4 * width, maker.hidden)


def _gemma(maker: _Maker) -> None:
    name = maker.header.architecture
    maker.head = maker.chance.choice((64, 128, 256))
    maker.tied = True
    maker.common()
    maker.number(attention__sliding_window=maker.chance.choice((512, 1024, 4096)))
    if name == "gemma2":
        maker.number(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    maker.outside()
    for i in range(maker.layers):
        maker.attention(i)
        maker.layer(i, "post_attention_norm", maker.hidden)
        if name == "gemma3":
            maker.layer(i, "attn_q_norm", maker.head)
            maker.layer(i, "attn_k_norm", maker.head)
        maker.feed_forward(i)
        maker.layer(i, "post_ffw_norm", maker.hidden)


def _phi2(maker: _Maker) -> None:
    maker.square()
    maker.common(epsilon="layer_norm_epsilon")
    maker.outside(bias=True, norm_bias=True)
    for i in range(maker.layers):
        maker.layer(i, "attn_norm", maker.hidden)
        maker.layer(i, "attn_norm", maker.hidden, bias=True)
        maker.qkv(i, bias=True)
        maker.layer(i, "attn_output", maker.hidden, maker.hidden)
        maker.layer(i, "attn_output", maker.hidden, bias=True)
        maker.layer(i, "ffn_up", maker.hidden, maker.width)
        maker.layer(i, "ffn_up", maker.width, bias=True)
        maker.layer(i, "ffn_down", maker.width, maker.hidden)
        maker.layer(i, "ffn_down", maker.hidden, bias=True)


def _phi3(maker: _Maker) -> None:
    maker.square()
    maker.common()
    maker.number(rope__scaling__original_context_length=4096)
    maker.outside()
    for i in range(maker.layers):
        maker.layer(i, "attn_norm", maker.hidden)
        maker.qkv(i, fused=True)
        maker.layer(i, "attn_output", maker.hidden, maker.hidden)
        maker.layer(i, "ffn_norm", maker.hidden)
        maker.layer(i, "ffn_up", maker.hidden, 2 * maker.width)
        maker.layer(i, "ffn_down", maker.width, maker.hidden)


def _phimoe(maker: _Maker) -> None:
    maker.square()
    maker.width = maker.chance.choice((1792, 6400))
    count, used = 16, 2
    maker.common()
    maker.number(
        expert_count=count, expert_used_count=used, rope__scaling__original_context_length=4096
    )
    maker.outside(bias=True, norm_bias=True)
    for i in range(maker.layers):
        maker.attention(i)
        maker.layer(i, "attn_norm", maker.hidden, bias=True)
        maker.layer(i, "attn_output", maker.hidden, bias=True)
        maker.layer(i, "ffn_norm", maker.hidden)
        maker.layer(i, "ffn_norm", maker.hidden, bias=True)
        maker.experts(i, count, maker.width)


def _nemotron(maker: _Maker) -> None:
    maker.square()
    maker.common(epsilon="layer_norm_epsilon")
    maker.outside(norm_bias=True)
    for i in range(maker.layers):
        maker.attention(i)
        maker.layer(i, "attn_norm", maker.hidden, bias=True)
        maker.feed_forward(i, gate=False)
        maker.layer(i, "ffn_norm", maker.hidden, bias=True)


def _nemotron_h(maker: _Maker) -> None:
    maker.layers = maker.chance.choice((6, 9, 12))
    moe = maker.header.architecture == "nemotron_h_moe"
    kinds = [("ssm", "ffn", "attention")[i % 3] for i in range(maker.layers)]
    if maker.chance.random() < 0.6:
        maker.chance.shuffle(kinds)
    inner, state, groups = 64 * maker.chance.choice((32, 64, 128)), 128, 8
    ranks = inner // 64
    maker.common()
    count, used, width, shared = 64, 6, 1856, 3712
    maker.number(
        attention__layer_norm_epsilon=1e-5,
        attention__head_count=maker.heads,
        attention__head_count_kv=[maker.kv_heads if k == "attention" else 0 for k in kinds],
        feed_forward_length=[maker.width if k == "ffn" else 0 for k in kinds],
        ssm__conv_kernel=4,
        ssm__inner_size=inner,
        ssm__state_size=state,
        ssm__time_step_rank=ranks,
        ssm__group_count=groups,
    )
    if moe:
        maker.number(
            expert_count=count, expert_used_count=used, expert_feed_forward_length=width,
            expert_shared_feed_forward_length=shared, expert_shared_count=1,
            expert_weights_norm=True, expert_weights_scale=2.5,
        )  # fmt: skip
    maker.outside()
    mixed = inner + 2 * groups * state
    for i, kind in enumerate(kinds):
        maker.layer(i, "attn_norm", maker.hidden)
        if kind == "ssm":
            maker.layer(i, "ssm_in", maker.hidden, inner + mixed + ranks)
            maker.header.add(f"blk.{i}.ssm_conv1d.weight", 4, mixed)
            maker.layer(i, "ssm_conv1d", mixed, bias=True)
            maker.layer(i, "ssm_dt", ranks, bias=True)
            maker.header.add(f"blk.{i}.ssm_a", 1, ranks)
            maker.header.add(f"blk.{i}.ssm_d", 1, ranks)
            maker.header.add(f"blk.{i}.ssm_norm.weight", inner // groups, groups)
            maker.layer(i, "ssm_out", inner, maker.hidden)
        elif kind == "attention":
            maker.qkv(i)
            maker.layer(i, "attn_output", maker.heads * maker.head, maker.hidden)
        elif moe:
            maker.experts(i, count, width, gate=False)
            maker.layer(i, "exp_probs_b", count, bias=True)
            maker.layer(i, "ffn_up_shexp", maker.hidden, shared)
            maker.layer(i, "ffn_down_shexp", shared, maker.hidden)
        else:
            maker.layer(i, "ffn_up", maker.hidden, maker.width)
            maker.layer(i, "ffn_down", maker.width, maker.hidden)


def _deepseek2(maker: _Maker) -> None:
    maker.hidden = maker.chance.choice((2048, 5120, 7168))
    maker.heads = maker.chance.choice((16, 64, 128))
    rope, nope, value, rank, q_rank = 64, 128, 128, 512, 1536
    count, used, width = maker.chance.choice(((64, 6, 1408), (160, 6, 1536), (256, 8, 2048)))
    absorbed, lite = maker.chance.random() < 0.7, maker.chance.random() < 0.4
    maker.common()
    maker.number(
        attention__head_count_kv=1 if absorbed else maker.heads,
        attention__key_length=rank + rope if absorbed else nope + rope,
        attention__value_length=rank if absorbed else value,
        attention__q_lora_rank=0 if lite else q_rank,
        attention__kv_lora_rank=rank,
        rope__dimension_count=rope,
        leading_dense_block_count=1,
        expert_count=count,
        expert_used_count=used,
        expert_feed_forward_length=width,
        expert_shared_count=2,
        expert_weights_scale=2.5,
        expert_weights_norm=True,
        expert_gating_func=2,
    )
    if absorbed:
        maker.number(attention__key_length_mla=nope + rope, attention__value_length_mla=value)
    maker.outside()
    for i in range(maker.layers):
        maker.layer(i, "attn_norm", maker.hidden)
        maker.layer(i, "attn_kv_a_norm", rank)
        if lite:
            maker.layer(i, "attn_q", maker.hidden, maker.heads * (nope + rope))
        else:
            maker.layer(i, "attn_q_a_norm", q_rank)
            maker.layer(i, "attn_q_a", maker.hidden, q_rank)
            maker.layer(i, "attn_q_b", q_rank, maker.heads * (nope + rope))
        maker.layer(i, "attn_kv_a_mqa", maker.hidden, rank + rope)
        if absorbed:
            maker.layer(i, "attn_k_b", nope, rank, maker.heads)
            maker.layer(i, "attn_v_b", rank, value, maker.heads)
        else:
            maker.layer(i, "attn_kv_b", rank, maker.heads * (nope + value))
        maker.layer(i, "attn_output", maker.heads * value, maker.hidden)
        if i == 0:
            maker.feed_forward(i)
            continue
        maker.layer(i, "ffn_norm", maker.hidden)
        maker.experts(i, count, width)
        maker.layer(i, "exp_probs_b", count, bias=True)
        maker.layer(i, "ffn_gate_shexp", maker.hidden, 2 * width)
        maker.layer(i, "ffn_up_shexp", maker.hidden, 2 * width)
        maker.layer(i, "ffn_down_shexp", 2 * width, maker.hidden)


def _gpt_oss(maker: _Maker) -> None:
    maker.head, maker.heads, maker.kv_heads = 64, 64, 8
    maker.hidden = maker.chance.choice((2816, 2880))
    count, used = maker.chance.choice(((32, 4), (128, 4)))
    width = maker.hidden
    maker.kind = "MXFP4"
    maker.common()
    maker.number(
        expert_count=count, expert_used_count=used, expert_feed_forward_length=width,
        attention__sliding_window=128,
    )  # fmt: skip
    maker.outside()
    for i in range(maker.layers):
        maker.attention(i, bias=True)
        maker.layer(i, "attn_output", maker.hidden, bias=True)
        maker.layer(i, "post_attention_norm", maker.hidden)
        maker.header.add(f"blk.{i}.attn_sinks.weight", maker.heads)
        maker.experts(i, count, width)
        maker.header.add(f"blk.{i}.ffn_gate_inp.bias", count)
        for name, size in (("gate", width), ("up", width), ("down", maker.hidden)):
            maker.header.add(f"blk.{i}.ffn_{name}_exps.bias", size, count)


_MAKERS: dict[str, Callable[[_Maker], None]] = {
    "llama": _dense, "mixtral": _mixtral, "mistral3": _dense, "deci": _deci, "qwen2": _dense,
    "qwen3": _dense, "qwen2moe": _qwen_moe, "qwen3moe": _qwen_moe, "gemma2": _gemma, "gemma3": _gemma,
    "phi2": _phi2, "phi3": _phi3, "phimoe": _phimoe, "nemotron": _nemotron, "nemotron_h": _nemotron_h,
    "nemotron_h_moe": _nemotron_h, "deepseek2": _deepseek2, "gpt-oss": _gpt_oss,
}  # fmt: skip
FAMILIES = tuple(_MAKERS)


def random_model(chance: random.Random, family: str) -> Header:
    """A model of `family` (one of `FAMILIES`) with numbers drawn from `chance`."""
    maker = _Maker(chance, "llama" if family == "mixtral" else family)
    _MAKERS[family](maker)
    return maker.header
