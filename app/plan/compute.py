"""The compute buffer of each device and of the host: llama.cpp's graph, laid out by ggml's rules."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence

from app.plan.graph import Graph, Tensor
from app.plan.layers import Builder
from app.plan.placement import SpanMaximum
from app.plan.shapes import F32, I64, Model, Shape, Shapes, Work, row_bytes

PIPELINE_COPIES = 4
"""Copies of what crosses from one device to the next (GGML_SCHED_MAX_COPIES in ggml-backend.cpp)."""


class Source(enum.Enum):
    """Where the first layer's input comes from."""

    EMBEDDING = enum.auto()
    HOST = enum.auto()
    """Layers in main memory."""
    DEVICE = enum.auto()


class ComputeModel:
    """Compute buffers of one model and one kind of work.

    Args:
        pipelined: Micro-batches overlap: several devices, all layers on them, no tensor overrides
            (llama-context.cpp, `pipeline_parallel`).
    """

    def __init__(self, shapes: Shapes, work: Work, *, pipelined: bool, alignment: int) -> None:
        self.model = Model(shapes, work)
        self._blocks = len(shapes.layers)
        self._copies = PIPELINE_COPIES if pipelined else 1
        self._alignment = alignment

    def inputs(self, shapes: tuple[Shape, ...], *, last: bool) -> dict[str, int]:
        """Inputs that layers read beside the activations, in the order of their first use: bytes by name."""
        model, work = self.model, self.model.work
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
        if last:
            sizes["rows"] = work.tokens * F32
        return sizes

    def _before(self, first: int) -> Shape | None:
        """The last layer before `first` that computes anything."""
        return next((s for s in reversed(self.model.shapes[:first]) if not s.empty), None)

    def _crossing(
        self, first: int, shapes: tuple[Shape, ...], source: Source, builder: Builder
    ) -> dict[str, int]:
        """What comes from the device before, in bytes by name."""
        hidden = self.model.hidden
        sizes = {}
        if shapes and shapes[0].recurrent:
            sizes = {"states": F32, "more states": 0}
        before = self._before(first)
        if source is Source.HOST and before is not None:
            return sizes | builder.crossing(before)
        if source is not Source.DEVICE:
            return sizes | {"source": hidden}
        if self._fetches_early(first):
            sizes["heads"] = self._heads_size(first)
        return sizes | ({"normed": hidden, "source": hidden} if shapes else {"normed": hidden})

    def _fetches_early(self, boundary: int) -> bool:
        """True if the device after the boundary begins to work before the one ahead of it ends.

        Its first layer fetches its recurrent state while the attention before it is still to be
        turned back, so that the heads cross to it and return.
        """
        shapes = self.model.shapes
        if not 0 < boundary < self._blocks or not self.model.rotation_v:
            return False
        return shapes[boundary - 1].attends and shapes[boundary].recurrent

    def _heads_size(self, boundary: int) -> int:
        shape = self.model.shapes[boundary - 1]
        return shape.heads * shape.value * self.model.work.tokens * F32

    def device(self, first: int, end: int, *, source: Source) -> int:
        """Bytes on a device that holds layers `first` to `end - 1`, the output being layer `block_count`.

        Where a device comes before, it computes the first norm of this one, as llama.cpp counts
        without allocating; a real load saves these copies (`ggml_backend_sched_reserve_size`
        forgets where the norms belong).
        """
        shapes = self._shapes(first, end)
        output = end > self._blocks
        if first >= end or (not output and not shapes):
            return 0
        graph = Graph(self._alignment)
        inputs: dict[str, Tensor] = {}
        builder = Builder(self.model, graph, inputs)
        crossing = self._crossing(first, shapes, source, builder)
        names = tuple(crossing)
        late = self.model.late_rows
        rows = output if late and (shapes or source is Source.HOST) else end >= self._blocks
        crossing |= self.inputs(shapes, last=rows and (late or bool(shapes)))
        for name, size in crossing.items():
            if self._copies == 1:
                inputs[name] = graph.input(size)
            else:
                graph.reserve(size, self._copies)
                if name in names:
                    inputs[name] = graph.outside(size)
        if self._fetches_early(end):
            graph.reserve(self._heads_size(end), self._copies)
        normed = inputs.pop("normed", None)
        if source is Source.HOST and self._before(first) is not None:
            current = builder.handed_over(inputs)
        else:
            current = inputs.pop("source") if normed is None or "source" in inputs else normed
        if self._before(first) is None and self.model.scaled_input:
            current = graph.over(current)
        self._layers(builder, shapes, current, normed, end=end, output=output)
        drawn = self._drawn_over(first) if source is Source.HOST else None
        return graph.peak() if drawn is None else max(graph.peak(), self._attention_alone(drawn))

    def _drawn_over(self, boundary: int) -> Shape | None:
        """The attention layer on the host whose attention the first device computes, if there is one.

        It does where its own first layer fetches a recurrent state: that comes before the end of the
        attention, and what has no weights in between follows the device (see `Builder.crossing`).
        """
        shapes = self.model.shapes
        if not 0 < boundary < self._blocks or not shapes[boundary].recurrent:
            return None
        return shapes[boundary - 1] if shapes[boundary - 1].attends else None

    def _attention_alone(self, shape: Shape) -> int:
        """Bytes to compute one layer's attention on copies of what the host holds, its cache too."""
        work, graph = self.model.work, Graph(self._alignment)
        cells = work.local_cells if shape.local else work.cells
        for count, kind in ((shape.key, work.kv_type_k), (shape.value, work.kv_type_v)):
            graph.reserve(shape.kv_heads * cells * row_bytes(count, kind))
        graph.reserve(shape.heads * shape.key * work.tokens * F32)
        for size in self.inputs((shape,), last=False).values():
            graph.reserve(size)
        wide = 0 if work.flash_attention else shape.heads * cells * work.tokens * F32
        graph.reserve(wide + 2 * shape.heads * shape.value * work.tokens * F32)
        return graph.peak()

    def _shapes(self, first: int, end: int) -> tuple[Shape, ...]:
        return tuple(s for s in self.model.shapes[first : min(end, self._blocks)] if not s.empty)

    def _layers(
        self,
        builder: Builder,
        shapes: tuple[Shape, ...],
        current: Tensor,
        normed: Tensor | None,
        *,
        end: int,
        output: bool,
        handed_over: bool = False,
    ) -> None:
        """All layers, and the output or what the next device needs.

        `handed_over` leaves the last operation to the next device, see `Builder.crossing`.
        """
        graph = builder.graph
        for index, shape in enumerate(shapes):
            final = end >= self._blocks and index == len(shapes) - 1
            current = builder.layer(shape, current, last=final, normed=normed)
            normed = None
        if output:
            graph.keep(graph.expand(graph.op(self.model.logits, builder.head(current, normed))))
        elif handed_over:
            graph.expand_operands(current)
        else:
            if any(not shape.empty for shape in self.model.shapes[end:]):
                graph.keep(current)
            else:
                current = builder.wanted(current)
            graph.expand(builder.norm(current))

    def host(self, layers: int, *, output: bool) -> int:
        """Bytes in main memory: the inputs of all devices, and the first `layers` with their output.

        Args:
            layers: Repeating layers that stay on the host.
            output: The output stays there, too.
        """
        model, work = self.model, self.model.work
        graph = Graph(self._alignment)
        sizes = self.inputs(model.shapes, last=True)
        sizes.pop("more states", None)
        graph.reserve(work.tokens * F32, self._copies)
        graph.reserve(model.hidden, self._copies)
        inputs: dict[str, Tensor] = {}
        for name, size in sizes.items():
            if layers >= self._blocks:
                inputs[name] = graph.expand(graph.op(size))
            else:
                graph.reserve(size, self._copies)
        current = graph.expand(graph.op(model.hidden))
        shapes = self._shapes(0, layers)
        if shapes or output:
            if model.scaled_input:
                current = graph.over(current)
            builder = Builder(model, graph, inputs)
            builder.elsewhere = None if output else self._drawn_over(layers)
            end = layers + 1 if output else layers
            self._layers(
                builder, shapes, current, None, end=end, output=output, handed_over=not output
            )
        return graph.peak()

    def alone(self, shape: Shape | None, *, first: bool) -> int:
        """Bytes of one layer, or of the output (None), beside the inputs.

        The input of the `first` one is among those; that of others the layer before has left there.
        """
        graph = Graph(self._alignment)
        builder = Builder(self.model, graph, {})
        hidden = self.model.hidden
        source = graph.outside(hidden) if first else graph.expand(graph.op(hidden))
        shapes = () if shape is None else (shape,)
        end = self._blocks + 1 if shape is None else 0
        self._layers(builder, shapes, source, None, end=end, output=shape is None)
        return graph.peak()

    def shared(self) -> dict[str, int]:
        """Bytes of the inputs that layers of each sort add: `attention`, `local`, `recurrent`."""
        sorts = {
            "attention": [s for s in self.model.shapes if s.attends and not s.local],
            "local": [s for s in self.model.shapes if s.attends and s.local],
            "recurrent": [s for s in self.model.shapes if s.recurrent],
        }
        return {
            name: self._copies * sum(self.inputs((found[0],), last=False).values()) if found else 0
            for name, found in sorts.items()
        }

    @property
    def crossing(self) -> int:
        """Bytes that the activations from the device before take."""
        return self._copies * self.model.hidden


class ComputeTable:
    """Compute buffers of all spans of layers, quick to look up, a little too large rather than too small.

    For a search over many splits; `ComputeModel` has the exact figure for the one that is found.
    """

    def __init__(self, exact: ComputeModel) -> None:
        self.exact = exact
        shapes = exact.model.shapes
        peaks = {
            first: {
                s.signature: exact.alone(s, first=first)
                for s in {s.signature: s for s in shapes if not s.empty}.values()
            }
            for first in (True, False)
        }
        self._blocks = len(shapes)
        self._first = [0 if s.empty else peaks[True][s.signature] for s in shapes]
        self._inner = SpanMaximum([0 if s.empty else peaks[False][s.signature] for s in shapes])
        self._output = exact.alone(None, first=False)
        counts = {
            "attention": _running(shapes, lambda s: s.attends and not s.local),
            "local": _running(shapes, lambda s: s.attends and s.local),
            "recurrent": _running(shapes, lambda s: s.recurrent),
        }
        self._inputs = [(counts[name], size) for name, size in exact.shared().items() if size]
        self._crossing = exact.crossing
        self._filled = _running(shapes, lambda s: not s.empty)
        following = self._blocks
        self._next = [0] * self._blocks
        for index in range(self._blocks - 1, -1, -1):
            following = following if shapes[index].empty else index
            self._next[index] = following

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
def compute_table(shapes: Shapes, work: Work, *, pipelined: bool, alignment: int) -> ComputeTable:
    """The table, made once for all quantizations of a model."""
    return ComputeTable(ComputeModel(shapes, work, pipelined=pipelined, alignment=alignment))
