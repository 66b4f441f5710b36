"""What ggml's graph allocator would need for a sequence of operations: the peak, to the byte.

Follows `ggml_gallocr_alloc_graph_impl` and `ggml_dyn_tallocr_*` (ggml-alloc.c): best fit, results
placed over an operand that nobody needs any more, and everything freed after its last use.
"""

from __future__ import annotations

import bisect

_END = 1 << 62
Tensor = int
"""Index of a tensor in its graph."""


class Graph:
    """Operations of one device. Each runs when it is first expanded, after what it needs.

    Sizes are in bytes. Weights and the KV cache lie in buffers of their own and are no operands.
    """

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self._sizes: list[int] = []
        self._sources: list[tuple[Tensor, ...]] = []
        self._roots: list[Tensor] = []
        self._in_place: list[bool] = []
        self._views: list[bool] = []
        self._kept: set[Tensor] = set()
        self._outside: set[Tensor] = set()
        self._base = 0
        self._order: list[Tensor] = []
        self._done: list[bool] = []

    def reserve(self, size: int, copies: int = 1) -> None:
        """An input that keeps its place from the start to the end of the graph."""
        self._base += copies * self._padded(size)

    def _add(self, size: int, sources: tuple[Tensor, ...], *, in_place: bool, view: bool) -> Tensor:
        self._sizes.append(size)
        self._sources.append(sources)
        self._in_place.append(in_place)
        self._views.append(view)
        self._done.append(False)
        index = len(self._sizes) - 1
        self._roots.append(self._roots[sources[0]] if view else index)
        return index

    def op(self, size: int, *sources: Tensor) -> Tensor:
        """A result with memory of its own."""
        return self._add(size, sources, in_place=False, view=False)

    def over(self, *sources: Tensor, size: int | None = None) -> Tensor:
        """A result in the place of an operand of the same size that nobody else needs, if there is one.

        Args:
            size: Bytes; None for those of the first operand.
        """
        if size is None:
            size = self._sizes[self._roots[sources[0]]]
        return self._add(size, sources, in_place=True, view=False)

    def expand_operands(self, tensor: Tensor) -> None:
        """Let everything run that an operation needs, and keep it for another device that runs this one."""
        for source in self._sources[tensor]:
            self.keep(self.expand(source))

    def outside(self, size: int) -> Tensor:
        """An operand that lies elsewhere, in reserved inputs for example, and must not be overwritten."""
        tensor = self._add(size, (), in_place=False, view=False)
        self._outside.add(tensor)
        return self.expand(tensor)

    def sink(self, *sources: Tensor) -> None:
        """An operation whose result lies elsewhere (a write into the KV cache); it runs at once."""
        tensor = self._add(0, sources, in_place=False, view=False)
        self._outside.add(tensor)
        self.expand(tensor)

    def expand(self, tensor: Tensor) -> Tensor:
        """Let an operation run now, after all that it needs (`ggml_build_forward_expand` in ggml.c)."""
        waiting = [tensor]
        while waiting:
            node = waiting[-1]
            missing = next((s for s in self._sources[node] if not self._done[s]), None)
            if missing is not None:
                waiting.append(missing)
                continue
            waiting.pop()
            if not self._done[node]:
                self._done[node] = True
                self._order.append(node)
        return tensor

    def view(self, source: Tensor) -> Tensor:
        """Another look at the same memory (reshape, permute, part)."""
        return self._add(0, (source,), in_place=False, view=True)

    def size(self, tensor: Tensor) -> int:
        """Bytes of a tensor; of a view, those of what it looks at."""
        return self._sizes[self._roots[tensor]]

    def keep(self, tensor: Tensor) -> None:
        """An output of the graph: never freed, never overwritten."""
        self._kept.add(tensor)

    def _padded(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    def peak(self) -> int:
        """Bytes that the device's compute buffer takes."""
        return self._base + _Simulation(self).run()

    # The simulation reads the graph's lists directly; they change only while the graph is built.


class _Simulation:
    """One run of the allocator over a graph; offsets are relative to the reserved inputs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        count = len(graph._sizes)
        self._children = [0] * count
        self._view_count = [0] * count
        for node in graph._order:
            for source in graph._sources[node]:
                self._children[source] += 1
            if graph._views[node]:
                self._view_count[graph._roots[node]] += 1
        self._places: dict[Tensor, int] = {}
        self._free: list[tuple[int, int]] = [(0, _END)]
        self._peak = 0

    def run(self) -> int:
        graph = self._graph
        for node in graph._order:
            sources = graph._sources[node]
            if not graph._views[node] and node not in graph._outside:
                self._allocate(node, sources)
            for source in sources:
                self._release(source)
        return self._peak

    def _allocate(self, node: Tensor, sources: tuple[Tensor, ...]) -> None:
        graph = self._graph
        if graph._in_place[node]:
            for source in sources:
                # A view never gives its memory away: gallocr counts only the tensor itself as its own.
                if graph._views[source] or source in graph._kept or source not in self._places:
                    continue
                alone = self._children[source] == 1 and self._view_count[source] == 0
                if alone and graph._sizes[source] == graph._sizes[node]:
                    self._places[node] = self._places.pop(source)
                    return
        self._places[node] = self._take(graph._padded(graph._sizes[node]))

    def _release(self, source: Tensor) -> None:
        graph = self._graph
        self._children[source] -= 1
        if self._children[source]:
            return
        root = graph._roots[source]
        if source != root:
            self._view_count[root] -= 1
        if self._children[root] or self._view_count[root] or root not in self._places:
            return
        if root not in graph._kept:
            self._give(self._places.pop(root), graph._padded(graph._sizes[root]))

    def _take(self, size: int) -> int:
        """Offset of the smallest gap that is large enough; the open end comes last."""
        free = self._free
        best, least = len(free) - 1, _END
        for index in range(len(free) - 1):
            length = free[index][1]
            if size <= length <= least:
                best, least = index, length
        offset, length = free[best]
        if length == size:
            del free[best]
        else:
            free[best] = (offset + size, length - size)
        self._peak = max(self._peak, offset + size)
        return offset

    def _give(self, offset: int, size: int) -> None:
        """Join with the first gap that touches, as ggml does, even where one of them is empty."""
        free = self._free
        for index, (start, length) in enumerate(free):
            if start + length == offset:
                length += size
                if index + 1 < len(free) and start + length == free[index + 1][0]:
                    length += free.pop(index + 1)[1]
                free[index] = (start, length)
                return
            if offset + size == start:
                if index and sum(free[index - 1]) == offset:
                    free[index - 1] = (free[index - 1][0], free[index - 1][1] + length + size)
                    del free[index]
                else:
                    free[index] = (offset, length + size)
                return
        free.insert(bisect.bisect_left(free, (offset, -1)), (offset, size))
