"""The compute buffers of all devices and of the host: llama.cpp's graph, laid out by ggml's rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from app.plan.graph import Graph, Place
from app.plan.layers import Builder
from app.plan.placement import SpanMaximum
from app.plan.rules import CPU, BackendRules
from app.plan.shapes import F32, I64, Model, Shape, Shapes, Work

PIPELINE_COPIES = 4
"""Copies of what crosses from one device to the next (GGML_SCHED_MAX_COPIES in ggml-backend.cpp)."""


def inputs(model: Model, shapes: Sequence[Shape]) -> dict[str, int]:
    """Inputs that layers read beside the activations, in the order of their first use: bytes by name."""
    work = model.work
    sizes: dict[str, int] = {}
    element = 2 if work.flash_attention else F32
    for shape in (shape for shape in shapes if shape.attends):
        scope = " local" if shape.local else ""
        if f"mask{scope}" in sizes:
            continue
        cells = work.local_cells if shape.local else work.cells
        if not model.architecture.startswith("nemotron_h"):
            sizes["positions"] = work.tokens * F32
        for name, side in (("rotation k", model.rotation_k), ("rotation v", model.rotation_v)):
            if side:
                sizes[f"{name}{scope}"] = side * side * F32
        sizes[f"k indices{scope}"] = work.tokens * I64
        if not model.latent:
            rows = 1 if work.flash_attention else model.widest_v
            sizes[f"v indices{scope}"] = work.tokens * rows * I64
        sizes[f"mask{scope}"] = cells * work.tokens * element
    if any(shape.recurrent for shape in shapes):
        sizes |= {"states": F32, "more states": 0}
    return sizes


def buffers(
    shapes: Shapes,
    work: Work,
    layers: Sequence[Place],
    devices: Sequence[BackendRules],
    *,
    pipelined: bool,
    overrides: Mapping[str, Place] | None = None,
) -> tuple[tuple[int, ...], bool]:
    """Bytes of each device's compute buffer, and of the host's, which comes last.

    True as well if flash attention of a layer would run apart from it.

    As llama.cpp counts without allocating (`ggml_backend_sched_reserve_size`). A real load puts each
    layer's first norm on the layer's own device, and may save a copy of the activations by it.

    Args:
        shapes: The model.
        work: What is computed at once.
        layers: Each layer's place, the output's last: an index in `devices`, or their number for
            the host.
        devices: The rules of each device in its order.
        pipelined: Micro-batches overlap: several devices, all layers on them, no tensor overrides
            (llama-context.cpp, `pipeline_parallel`).
        overrides: Places of tensors that lie apart from their layers, by name.
    """
    places = (*devices, CPU)
    model, graph = Model(shapes, work), Graph([rules.alignment for rules in places])
    tokens = graph.input(work.tokens * F32)
    graph.input(model.hidden)  # the other form of a batch, of embeddings, keeps its place
    sizes = inputs(model, model.shapes)
    sizes["rows"] = work.tokens * F32
    tensors = {name: graph.input(size) for name, size in sizes.items()}
    builder = Builder(
        model,
        graph,
        tensors,
        overrides=overrides,
        unpacks=[rules.unpacks_cache for rules in places],
    )
    current = graph.expand(graph.op(model.hidden, tokens, at=graph.host))
    if model.scaled_input:
        current = graph.over(current)
    final = len(model.shapes) - 1
    for index, place in enumerate(layers[:-1]):
        current = builder.layer(index, current, place, last=index == final)
    builder.head(current, layers[-1])
    return graph.peaks(PIPELINE_COPIES if pipelined else 1), graph.drawn


class ComputeTable:
    """Compute buffers of all spans of layers, quick to look up, and mostly a little too large.

    For a search over many splits; `buffers` has the exact figures for the one that is found.
    """

    def __init__(
        self, shapes: Shapes, work: Work, *, pipelined: bool, alignment: int, unpacks: bool
    ) -> None:
        model = self._model = Model(shapes, work)
        self._alignment, self._unpacks = alignment, unpacks
        self._copies = PIPELINE_COPIES if pipelined else 1
        layers = model.shapes
        signatures = {s.signature: i for i, s in enumerate(layers) if not s.empty}
        peaks = {
            first: {key: self._alone(index, first=first) for key, index in signatures.items()}
            for first in (True, False)
        }
        self._blocks = len(layers)
        self._first = [0 if s.empty else peaks[True][s.signature] for s in layers]
        self._inner = SpanMaximum([0 if s.empty else peaks[False][s.signature] for s in layers])
        self._output = self._alone(None, first=False)
        sorts: tuple[Callable[[Shape], bool], ...] = (
            lambda s: s.attends and not s.local,
            lambda s: s.attends and s.local,
            lambda s: s.recurrent,
        )
        self._inputs = []
        for sort in sorts:
            found = next((s for s in layers if sort(s)), None)
            if found is not None:
                size = self._copies * sum(inputs(model, (found,)).values())
                self._inputs.append((_running(layers, sort), size))
        self.all_inputs = sum(size for _, size in self._inputs)
        self._crossing = self._copies * model.hidden
        self._filled = _running(layers, lambda s: not s.empty)
        following = self._blocks
        self._next = [0] * self._blocks
        for index in range(self._blocks - 1, -1, -1):
            following = following if layers[index].empty else index
            self._next[index] = following
        self.host = self._copies * (sum(inputs(model, layers).values()) + 2 * work.tokens * F32)
        self.host += self._crossing + model.hidden

    def _alone(self, index: int | None, *, first: bool) -> int:
        """Bytes of one layer, or of the output (None), beside the inputs.

        The input of the `first` one is among those; that of others the layer before has left there.
        """
        model, graph = self._model, Graph((self._alignment, CPU.alignment))
        builder = Builder(model, graph, {}, unpacks=(self._unpacks, False))
        source = (
            graph.held(model.hidden, 0) if first else graph.expand(graph.op(model.hidden, at=0))
        )
        if index is None:
            builder.head(source, 0)
        else:
            current = builder.layer(index, source, 0, last=False)
            graph.keep(current)
            graph.expand(builder.norm(current))
        return graph.peaks()[0]

    def __call__(self, first: int, end: int) -> int:
        """Bytes for layers `first` to `end - 1`, the output being layer `block_count`; 0 for none."""
        inner = min(end, self._blocks)
        start = self._next[first] if first < self._blocks else inner
        output = self._output if end > self._blocks else 0
        if start >= inner:
            return output + self._crossing if output else 0
        base = self._crossing if self._filled[start] else 0
        for counts, size in self._inputs:
            if counts[inner] > counts[start]:
                base += size
        peak = max(self._first[start], self._inner(start + 1, inner), output)
        return base + self._crossing + peak


def _running(shapes: Sequence[Shape], wanted: Callable[[Shape], bool]) -> list[int]:
    counts = [0]
    for shape in shapes:
        counts.append(counts[-1] + wanted(shape))
    return counts


@functools.lru_cache(maxsize=256)
def compute_table(
    shapes: Shapes, work: Work, *, pipelined: bool, alignment: int, unpacks: bool
) -> ComputeTable:
    """The table, made once for all quantizations of a model."""
    return ComputeTable(shapes, work, pipelined=pipelined, alignment=alignment, unpacks=unpacks)
