"""Two loads of Nemotron Ultra that others published, reproduced from the layout alone.

Run: `python -m tests.end_to_end.benchmarks.published_loads`

Sources: the logs in llama.cpp pull request #12843 (Q4_K_M, one RTX 4090, no layer on it) and in
ik_llama.cpp pull request #377 (Q3_K_XL of another maker, four cards, `-ts 6.5,6,10,4`, 12,288 tokens,
K and V as q6_0, micro-batch 512).
"""

from __future__ import annotations

from app.gguf import bundled
from app.gguf.model import ModelLayout
from app.plan.compute import buffers
from app.plan.model import KvCacheType
from app.plan.placement import by_proportions
from app.plan.rules import rules
from app.plan.shapes import Shapes, Work
from app.units import MIB

ULTRA = "nemotron-ultra-253b:Q4_K_M"
WEIGHTS_MIB = 143_937.13
COPIED_MIB = 10_132.0
SPLIT = (6.5, 6.0, 10.0, 4.0)
CACHE_MIB = (429.02, 292.52, 331.53, 195.01)
COMPUTE_MIB = (412.0, 420.0, 2560.0, 2086.0)
CONTEXT, Q6_0_BITS = 12_288, 6.5


def cache_mib(layout: ModelLayout, counts: tuple[int, ...]) -> list[float]:
    """KV cache of each device with q6_0, which llama.cpp itself does not have."""
    sizes, first = [], 0
    for count in counts:
        layers = layout.layers[first : min(first + count, layout.block_count)]
        row = sum(layer.head_count_kv * (layer.key_length + layer.value_length) for layer in layers)
        sizes.append(row * CONTEXT * Q6_0_BITS / 8 / MIB)
        first += count
    return sizes


def compute_mib(layout: ModelLayout, counts: tuple[int, ...]) -> list[float]:
    """Compute buffers without overlapping micro-batches, as in that engine."""
    work = Work(
        tokens=512,
        cells=CONTEXT,
        local_cells=CONTEXT,
        flash_attention=True,
        kv_type_k=KvCacheType.F16,
        kv_type_v=KvCacheType.F16,
    )
    places = [place for place, count in enumerate(counts) for _ in range(count)]
    cards = [rules("cuda")] * len(counts)
    sizes, _ = buffers(Shapes(layout), work, places, cards, pipelined=False)
    return [size / MIB for size in sizes[:-1]]


def main() -> None:
    """Print both, planned beside published."""
    layout = bundled.layout(ULTRA)
    weights = layout.size_bytes / MIB
    print("llama.cpp #12843, Q4_K_M, no layer on the card")
    print(
        f"  weights: {weights:,.2f} MiB, published {WEIGHTS_MIB:,.2f}: {weights - WEIGHTS_MIB:+.2f}"
    )
    monster = max(layout.layers, key=lambda layer: layer.size_bytes)
    down, gate, _ = sorted((t.size_bytes / MIB for t in monster.tensors), reverse=True)[:3]
    print(
        f"  the card's compute buffer was {COPIED_MIB:,.0f} MiB: copies of layer {monster.index}'s ffn_down "
        f"({down:,.0f}) and of a half of its gate ({gate:,.0f}), and {COPIED_MIB - down - gate:,.0f} of "
        "activations. Batches of layers in main memory are computed on the card there; our loads "
        "leave that off."
    )
    counts = by_proportions(layout.block_count + 1, SPLIT)
    print(f"ik_llama.cpp #377, -ts {','.join(f'{s:g}' for s in SPLIT)}: layers {counts}")
    for index, (ours, theirs) in enumerate(zip(cache_mib(layout, counts), CACHE_MIB, strict=True)):
        print(f"  card {index}: KV cache {ours:.2f} MiB, published {theirs}: {ours - theirs:+.2f}")
    for index, (ours, theirs) in enumerate(
        zip(compute_mib(layout, counts), COMPUTE_MIB, strict=True)
    ):
        print(
            f"  card {index}: compute {ours:.0f} MiB, published {theirs:.0f}: {ours - theirs:+.0f}"
        )
    print(
        "  That engine rounds each cache up a little; its graph lets the activations of one layer "
        "and the inputs lie elsewhere."
    )


if __name__ == "__main__":
    main()
