"""What ggml's graph allocator would need for a sequence of operations: the peak, to the byte.

Follows `ggml_gallocr_alloc_graph_impl` and `ggml_dyn_tallocr_*` (ggml-alloc.c): best fit, results
placed over an operand that nobody needs any more, and everything freed after its last use.
"""

from __future__ import annotations

import bisect

_END = 1 << 62
Tensor = int
"""Index of a tensor in its graph."""


class _Nodes:
    """All tensors of a graph, by their index."""

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.sizes: list[int] = []
        self.sources: list[tuple[Tensor, ...]] = []
        self.roots: list[Tensor] = []
        self.in_place: list[bool] = []
        self.views: list[bool] = []
        self.done: list[bool] = []
        self.kept: set[Tensor] = set()
        self.outside: set[Tensor] = set()
        self.order: list[Tensor] = []
        self.inputs: set[Tensor] = set()
        self.first_uses: list[Tensor] = []

    def padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


class Graph:
    """Operations of one device. Each runs when it is first expanded, after what it needs.

    Sizes are in bytes. Weights and the KV cache lie in buffers of their own and are no operands.
    """

    def __init__(self, alignment: int) -> None:
        self._nodes = _Nodes(alignment)
        self._base = 0

    def reserve(self, size: int, copies: int = 1) -> None:
        """An input that keeps its place from the start to the end of the graph."""
        self._base += copies * self._nodes.padded(size)

    def _add(self, size: int, sources: tuple[Tensor, ...], *, in_place: bool, view: bool) -> Tensor:
        self._nodes.sizes.append(size)
        self._nodes.sources.append(sources)
        self._nodes.in_place.append(in_place)
        self._nodes.views.append(view)
        self._nodes.done.append(False)
        index = len(self._nodes.sizes) - 1
        self._nodes.roots.append(self._nodes.roots[sources[0]] if view else index)
        return index

    def op(self, size: int, *sources: Tensor) -> Tensor:
        """A result with memory of its own."""
        return self._add(size, sources, in_place=False, view=False)

    def over(self, *sources: Tensor, size: int | None = None) -> Tensor:
        """A result in the place of an operand of the same size that nobody else needs, if there is one.

        Without `size`, in bytes, it is as large as the first operand.
        """
        if size is None:
            size = self._nodes.sizes[self._nodes.roots[sources[0]]]
        return self._add(size, sources, in_place=True, view=False)

    def _use(self, source: Tensor) -> None:
        nodes = self._nodes
        if source in nodes.inputs:
            nodes.inputs.discard(source)
            nodes.first_uses.append(source)

    def expand_operands(self, tensor: Tensor) -> None:
        """Let everything run that an operation needs, and keep it for another device that runs this one."""
        for source in self._nodes.sources[tensor]:
            self.keep(self.expand(source))

    def input(self, size: int) -> Tensor:
        """A copy of what another device or the host computed.

        All copies are made before the first operation, in the order of their first use, and freed
        after their last (`ggml_backend_sched_split_graph`).
        """
        tensor = self._add(size, (), in_place=False, view=False)
        self._nodes.inputs.add(tensor)
        self._nodes.done[tensor] = True
        return tensor

    def outside(self, size: int) -> Tensor:
        """An operand that lies elsewhere, in reserved inputs for example, and must not be overwritten."""
        tensor = self._add(size, (), in_place=False, view=False)
        self._nodes.outside.add(tensor)
        return self.expand(tensor)

    def sink(self, *sources: Tensor) -> None:
        """An operation whose result lies elsewhere (a write into the KV cache); it runs at once."""
        tensor = self._add(0, sources, in_place=False, view=False)
        self._nodes.outside.add(tensor)
        self.expand(tensor)

    def expand(self, tensor: Tensor) -> Tensor:
        """Let an operation run now, after all that it needs (`ggml_build_forward_expand` in ggml.c)."""
        waiting = [tensor]
        while waiting:
            node = waiting[-1]
            missing = next((s for s in self._nodes.sources[node] if not self._nodes.done[s]), None)
            if missing is not None:
                waiting.append(missing)
                continue
            waiting.pop()
            if not self._nodes.done[node]:
                self._nodes.done[node] = True
                self._nodes.order.append(node)
                for source in self._nodes.sources[node]:
                    self._use(source)
        return tensor

    def view(self, source: Tensor) -> Tensor:
        """Another look at the same memory (reshape, permute, part)."""
        return self._add(0, (source,), in_place=False, view=True)

    def size(self, tensor: Tensor) -> int:
        """Bytes of a tensor; of a view, those of what it looks at."""
        return self._nodes.sizes[self._nodes.roots[tensor]]

    def keep(self, tensor: Tensor) -> None:
        """An output of the graph: never freed, never overwritten."""
        self._nodes.kept.add(tensor)

    def peak(self) -> int:
        """Bytes that the device's compute buffer takes."""
        nodes = self._nodes
        nodes.order[:0] = nodes.first_uses
        nodes.first_uses = []
        return self._base + _Simulation(nodes).run()


class _Simulation:
    """One run of the allocator over a graph; offsets are relative to the reserved inputs."""

    def __init__(self, nodes: _Nodes) -> None:
        self._nodes = nodes
        count = len(nodes.sizes)
        self._children = [0] * count
        self._view_count = [0] * count
        for node in nodes.order:
            for source in nodes.sources[node]:
                self._children[source] += 1
            if nodes.views[node]:
                self._view_count[nodes.roots[node]] += 1
        self._places: dict[Tensor, int] = {}
        self._free: list[tuple[int, int]] = [(0, _END)]
        self._peak = 0

    def run(self) -> int:
        nodes = self._nodes
        for node in nodes.order:
            sources = nodes.sources[node]
            if not nodes.views[node] and node not in nodes.outside:
                self._allocate(node, sources)
            for source in sources:
                self._release(source)
        return self._peak

    def _allocate(self, node: Tensor, sources: tuple[Tensor, ...]) -> None:
        nodes = self._nodes
        if nodes.in_place[node]:
            for source in sources:
                # A view never gives its memory away: gallocr counts only the tensor itself as its own.
                if nodes.views[source] or source in nodes.kept or source not in self._places:
                    continue
                alone = self._children[source] == 1 and self._view_count[source] == 0
                if alone and nodes.sizes[source] == nodes.sizes[node]:
                    self._places[node] = self._places.pop(source)
                    return
        self._places[node] = self._take(nodes.padded(nodes.sizes[node]))

    def _release(self, source: Tensor) -> None:
        nodes = self._nodes
        self._children[source] -= 1
        if self._children[source]:
            return
        root = nodes.roots[source]
        if source != root:
            self._view_count[root] -= 1
        if self._children[root] or self._view_count[root] or root not in self._places:
            return
        if root not in nodes.kept:
            self._give(self._places.pop(root), nodes.padded(nodes.sizes[root]))

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
