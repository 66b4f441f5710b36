"""Fills in the types of the bundled layouts: which type llama.cpp gives each tensor of each quantization.

For each file of `resources/layouts` it writes a BF16 model without weights (a few kilobytes of
disk) and lets llama.cpp's own quantizer say in a dry run what it would make of each tensor, with
an importance matrix at hand. To add a model, give its hyper-parameters in a new file first.

Usage: .venv/bin/python packaging/make_layouts.py [FILE ...]
"""

from __future__ import annotations

import ctypes
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import llama_cpp.llama_cpp as lib

from app.gguf import bundled
from app.gguf.model import ModelLayout, TensorInfo
from app.gguf.types import FILE_TYPES
from app.gguf.writer import write_sparse

QUANTIZATIONS = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "IQ3_XXS",
    "IQ3_XS", "Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_0",
    "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16",
)  # fmt: skip
SORTS = (
    "token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output",
    "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
_TENSOR = re.compile(r"\] +(\S+) +- \[.*\], type = +(\w+), size = .* MiB(?: \((\w+)\))?")


def main(files: list[str]) -> None:
    """Rewrite the files, all of them if none is named."""
    for file in map(Path, files) if files else sorted(bundled.FOLDER.glob("*.json")):
        table = json.loads(file.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "bf16.gguf"
            layout = unquantized(table, source)
            write_sparse(layout, source)
            quantizations = {kind: types(source, kind, layout) for kind in QUANTIZATIONS}
        built = {k: bundled.build(table, k, t, source) for k, t in quantizations.items()}
        table["quantizations"] = dict(
            sorted(quantizations.items(), key=lambda item: built[item[0]].size_bytes)
        )
        file.write_text(compact(table), encoding="utf-8")
        for kind in table["quantizations"]:
            print(f"{file.stem} {kind}: {built[kind].size_bytes:,} bytes")


def unquantized(table: dict[str, Any], file: Path) -> ModelLayout:
    """The layout with all matrices in BF16."""
    return bundled.build(table, "BF16", dict.fromkeys(SORTS, "BF16*1000"), file)


def types(source: Path, kind: str, layout: ModelLayout) -> dict[str, str]:
    """Types by sort of tensor, as runs over the layers."""
    found = quantize(source, kind)
    by_sort: dict[str, list[str]] = {sort: [] for sort in SORTS}
    for tensor in matrices(layout):
        by_sort[tensor.name.split(".")[-2]].append(found[tensor.name])
    return {
        sort: " ".join(f"{name}*{len([*run])}" for name, run in itertools.groupby(names))
        for sort, names in by_sort.items()
    }


def matrices(layout: ModelLayout) -> list[TensorInfo]:
    """Whatever can be quantized."""
    inside = [tensor for layer in layout.layers for tensor in layer.tensors]
    everything = [*layout.token_embedding, *layout.output, *inside]
    return [tensor for tensor in everything if len(tensor.shape) > 1]


def quantize(source: Path, kind: str) -> dict[str, str]:
    """Types by tensor's name, from the log of a dry run (`llama_model_quantize_impl`)."""
    text: list[str] = []
    listen = lib.llama_log_callback(lambda _level, part, _data: text.append(part.decode()))
    lib.llama_log_set(listen, ctypes.c_void_p(0))
    params = lib.llama_model_quantize_default_params()
    params.ftype = next(number for number, name in FILE_TYPES.items() if name == kind)
    params.dry_run = True
    matrix = (lib.llama_model_imatrix_data * 1)()  # its end alone: there, and empty
    params.imatrix = matrix
    failed = lib.llama_model_quantize(
        str(source).encode(), str(source.with_suffix(".out")).encode(), ctypes.byref(params)
    )
    lines = "".join(text)
    if failed:
        raise SystemExit(f"llama.cpp could not quantize to {kind}:\n{lines[-2000:]}")
    return {name: (new or old).upper() for name, old, new in _TENSOR.findall(lines)}


def compact(table: dict[str, Any]) -> str:
    """JSON with one line for a list and one for a sort's types."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: _one_line(found[0]), text) + "\n"


def _one_line(text: str) -> str:
    return "[" + " ".join(text.strip("[]").split()) + "]"


if __name__ == "__main__":
    lib.llama_backend_init()
    main(sys.argv[1:])
