"""Tiny models with random weights, whose answers depend on all that a layer of their kind can see.

Every byte is a token, so that text always comes back as the tokens that it was.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, FEED_FORWARD, HEADS, BYTES = 64, 128, 4, 256
VOCABULARY = 3 + BYTES
LETTERS = "root ::= [a-z]*"
ENDLESS_LETTERS = "root ::= [a-z] root"
"""A grammar that keeps answers readable, and their text the same as their tokens."""


class _Model:
    def __init__(self, path: Path, architecture: str, layers: int) -> None:
        self.writer = gguf.GGUFWriter(path, architecture)
        self._random = np.random.default_rng(7)
        writer = self.writer
        writer.add_block_count(layers)
        writer.add_context_length(4096)
        writer.add_embedding_length(WIDTH)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(BYTES))])
        writer.add_token_scores([0.0] * VOCABULARY)
        writer.add_token_types([2, 3, 3] + [6] * BYTES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_space_prefix(False)
        self.random("token_embd.weight", VOCABULARY, WIDTH)
        self.random("output.weight", VOCABULARY, WIDTH)
        self.ones("output_norm.weight", WIDTH)

    def random(self, name: str, *shape: int) -> None:
        """Weights that keep the size of what goes through them; numpy's order, rows first."""
        values = self._random.standard_normal(shape) / np.sqrt(shape[-1])
        self.writer.add_tensor(name, values.astype(np.float32))

    def ones(self, name: str, *shape: int, value: float = 1.0) -> None:
        """The same weight everywhere."""
        self.writer.add_tensor(name, np.full(shape, value, np.float32))

    def close(self) -> None:
        """Write all."""
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def sliding_window(
    path: Path, *, window: int = 32, layers: int = 6, template: str = "", kv_heads: int = HEADS
) -> Path:
    """Gemma 3: five of six layers see `window` tokens only."""
    model = _Model(path, "gemma3", layers)
    if template:
        model.writer.add_chat_template(template)
    writer, head = model.writer, WIDTH // HEADS
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_sliding_window(32)
    for index in range(layers):
        block = f"blk.{index}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            model.ones(f"{block}{name}.weight", WIDTH)
        for name in ("attn_q_norm", "attn_k_norm"):
            model.ones(f"{block}{name}.weight", head, value=2.0)
        for name in ("attn_q", "attn_output"):
            model.random(f"{block}{name}.weight", WIDTH, WIDTH)
        for name in ("attn_k", "attn_v"):
            model.random(f"{block}{name}.weight", kv_heads * head, WIDTH)
        model.random(f"{block}ffn_gate.weight", FEED_FORWARD, WIDTH)
        model.random(f"{block}ffn_up.weight", FEED_FORWARD, WIDTH)
        model.random(f"{block}ffn_down.weight", WIDTH, FEED_FORWARD)
    model.close()
    return path


def recurrent(path: Path) -> Path:
    """Mamba: a state instead of a KV cache."""
    layers = 2
    model = _Model(path, "mamba", layers)
    inner, state, rank, kernel = 2 * WIDTH, 8, 4, 4
    writer = model.writer
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    for index in range(layers):
        block = f"blk.{index}."
        model.ones(f"{block}attn_norm.weight", WIDTH)
        model.random(f"{block}ssm_in.weight", 2 * inner, WIDTH)
        model.random(f"{block}ssm_conv1d.weight", inner, kernel)
        model.ones(f"{block}ssm_conv1d.bias", inner, value=0.0)
        model.random(f"{block}ssm_x.weight", rank + 2 * state, inner)
        model.random(f"{block}ssm_dt.weight", inner, rank)
        model.ones(f"{block}ssm_dt.bias", inner, value=-3.0)
        model.ones(f"{block}ssm_a", inner, state, value=-0.02)
        model.ones(f"{block}ssm_d", inner)
        model.random(f"{block}ssm_out.weight", WIDTH, inner)
    model.close()
    return path
