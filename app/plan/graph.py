"""What ggml's scheduler and graph allocator would need for a graph over several devices, to the byte.

Follows `ggml_backend_sched_split_graph` (ggml-backend.cpp): operations run where their weights lie,
others beside their neighbours, and what one place needs of another is copied there. Then
`ggml_gallocr_alloc_graph_impl` and `ggml_dyn_tallocr_*` (ggml-alloc.c): best fit, results placed over
an operand that nobody needs any more, and everything freed after its last use.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

_END = 1 << 62
_NOWHERE = -1
Tensor = int
"""Index of a tensor in its graph."""
Place = int
"""Index of a device; the last place is main memory."""


class Graph:
    """Operations in the order of llama.cpp's graph; each runs when it is first expanded.

    Sizes are in bytes. Weights are no operands: `at` says where the weight of an operation lies.

    Args:
        alignments: Of each place's buffers, in bytes; the last place is main memory.
    """

    def __init__(self, alignments: Sequence[int]) -> None:
        self.alignments = tuple(alignments)
        self.host: Place = len(self.alignments) - 1
        self.sizes: list[int] = []
        self.sources: list[tuple[Tensor, ...]] = []
        self.roots: list[Tensor] = []
        self.places: list[Place] = []
        self.in_place: list[bool] = []
        self.views: list[bool] = []
        self.done: list[bool] = []
        self.kept: set[Tensor] = set()
        self.outside: set[Tensor] = set()
        self.inputs: list[Tensor] = []
        self.order: list[Tensor] = []
        self.bound: list[tuple[Tensor, Place]] = []
        """Operations that belong to a place, whether they come to run there or not."""

    def _add(
        self,
        size: int,
        sources: tuple[Tensor, ...] = (),
        *,
        at: Place | None = None,
        in_place: bool = False,
        view: bool = False,
        done: bool = False,
    ) -> Tensor:
        index = len(self.sizes)
        self.sizes.append(size)
        self.sources.append(sources)
        self.places.append(_NOWHERE if at is None else at)
        self.in_place.append(in_place)
        self.views.append(view)
        self.done.append(done)
        self.roots.append(self.roots[sources[0]] if view else index)
        return index

    def op(self, size: int, *sources: Tensor, at: Place | None = None) -> Tensor:
        """A result with memory of its own."""
        return self._add(size, sources, at=at)

    def over(self, *sources: Tensor, size: int | None = None, at: Place | None = None) -> Tensor:
        """A result in the place of an operand of the same size that nobody else needs, if there is one.

        Without `size`, in bytes, it is as large as the first operand.
        """
        size = self.size(sources[0]) if size is None else size
        return self._add(size, sources, at=at, in_place=True)

    def view(self, source: Tensor, size: int | None = None) -> Tensor:
        """Another look at the same memory (reshape, permute), or at `size` bytes of it."""
        return self._add(self.sizes[source] if size is None else size, (source,), view=True)

    def input(self, size: int) -> Tensor:
        """What the program fills in before the graph runs; it lies in main memory."""
        tensor = self._add(size, at=self.host, done=True)
        self.inputs.append(tensor)
        return tensor

    def held(self, size: int, at: Place) -> Tensor:
        """An operand with a buffer of its own: `size` bytes of a KV cache, say."""
        tensor = self._add(size, at=at, done=True)
        self.outside.add(tensor)
        return tensor

    def sink(self, *sources: Tensor, at: Place) -> None:
        """An operation whose result has a buffer of its own (a write into the KV cache); it runs at once."""
        tensor = self._add(0, sources, at=at)
        self.outside.add(tensor)
        self.expand(tensor)

    def bind(self, tensor: Tensor, at: Place) -> Tensor:
        """Remember where an operation belongs; see `drawn`."""
        self.bound.append((tensor, at))
        return tensor

    @property
    def drawn(self) -> bool:
        """True if an operation runs apart from where it belongs; known after `peaks`."""
        return any(self.places[tensor] != at for tensor, at in self.bound)

    def keep(self, tensor: Tensor) -> None:
        """An output of the graph: never freed, never overwritten."""
        self.kept.add(tensor)

    def size(self, tensor: Tensor) -> int:
        """Bytes of a tensor; of a view, those of what it looks at."""
        return self.sizes[self.roots[tensor]]

    def expand(self, tensor: Tensor) -> Tensor:
        """Let an operation run now, after all that it needs (`ggml_build_forward_expand` in ggml.c)."""
        waiting = [tensor]
        done, sources = self.done, self.sources
        while waiting:
            node = waiting[-1]
            missing = next((s for s in sources[node] if not done[s]), None)
            if missing is not None:
                waiting.append(missing)
                continue
            waiting.pop()
            if not done[node]:
                done[node] = True
                self.order.append(node)
        return tensor

    def peaks(self, copies: int = 1) -> tuple[int, ...]:
        """Bytes of each place's compute buffer; the graph is used up.

        Args:
            copies: Of inputs and of what crosses between places, so that micro-batches overlap.
        """
        _assign(self)
        allocation = _Allocation(self)
        if copies == 1:
            allocation.lay_down(self.inputs)
            allocation.run(_with_copies(self, kept=False)[0])
        else:
            order, crossing = _with_copies(self, kept=True)
            self.kept.update(self.inputs)
            for _ in range(copies - 1):
                allocation.reserve([*self.inputs, *crossing])
            allocation.lay_down([*self.inputs, *crossing])
            allocation.run(order)
        return tuple(allocation.peaks)


def _assign(graph: Graph) -> None:
    """Give each operation its place (passes 2 and 4)."""
    places, host = graph.places, graph.host
    running = [node for node in graph.order if not graph.views[node]]
    for sequence, skip_host in (
        (running, True),
        (running[::-1], True),
        (running, False),
        (running[::-1], False),
    ):
        current = _NOWHERE
        for node in sequence:
            place = places[node]
            if place != _NOWHERE:
                current = _NOWHERE if skip_host and place == host else place
            elif current != _NOWHERE:
                places[node] = current
    for node in graph.order:
        if graph.views[node]:
            places[node] = places[graph.roots[node]]


def _with_copies(graph: Graph, *, kept: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The order of work with copies where places change (pass 5), and all these copies."""
    places, sources = graph.places, graph.sources
    copied: dict[tuple[Tensor, Place], Tensor] = {}
    order: list[Tensor] = []
    pieces: list[Tensor] = []
    needed: list[Tensor] = []
    crossing: list[Tensor] = []
    current = _NOWHERE

    def close() -> None:
        for copy in needed:
            # The source is not freed before the copy is made, which nothing reads at that moment.
            order.extend((-1 - sources[copy][0], copy))
            sources[copy] = ()
        order.extend(pieces)
        pieces.clear()
        needed.clear()

    for node in graph.order:
        if not graph.views[node]:
            place = places[node]
            if place != current:
                close()
                current = place
            for number, source in enumerate(sources[node]):
                if places[source] == place:
                    continue
                copy = copied.get((source, place))
                if copy is None:
                    copy = graph._add(graph.sizes[source], (source,), at=place)  # noqa: SLF001
                    copied[source, place] = copy
                    needed.append(copy)
                    crossing.append(copy)
                    if kept:
                        graph.kept.add(copy)
                changed = list(sources[node])
                changed[number] = copy
                sources[node] = tuple(changed)
        pieces.append(node)
    close()
    return order, crossing


class _Allocation:
    """One run of the allocator over a graph whose operations have places."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.peaks = [0] * len(graph.alignments)
        self._free: list[list[tuple[int, int]]] = [[(0, _END)] for _ in graph.alignments]
        self._offsets: dict[Tensor, int] = {}
        self._children: list[int] = []
        self._view_count: list[int] = []

    def _padded(self, tensor: Tensor) -> int:
        alignment = self._graph.alignments[self._graph.places[tensor]]
        return -(-self._graph.sizes[tensor] // alignment) * alignment

    def reserve(self, tensors: Sequence[Tensor]) -> None:
        """Room as for these, never to be freed."""
        for tensor in tensors:
            self._take(self._graph.places[tensor], self._padded(tensor))

    def lay_down(self, tensors: Sequence[Tensor]) -> None:
        """Place these before anything runs."""
        for tensor in tensors:
            if tensor not in self._offsets and tensor not in self._graph.outside:
                place = self._graph.places[tensor]
                self._offsets[tensor] = self._take(place, self._padded(tensor))

    def run(self, order: Sequence[Tensor]) -> None:
        """Lay down all results; a negative entry, -1 - tensor, is a moment at which that is still needed."""
        graph = self._graph
        self._children = [0] * len(graph.sizes)
        self._view_count = [0] * len(graph.sizes)
        children = self._children
        for node in order:
            if node < 0:
                children[-1 - node] += 1
                continue
            for source in graph.sources[node]:
                children[source] += 1
            if graph.views[node]:
                self._view_count[graph.roots[node]] += 1
        for node in order:
            if node < 0:
                self._release(-1 - node)
                continue
            sources = graph.sources[node]
            if not graph.views[node] and node not in graph.outside and node not in self._offsets:
                self._allocate(node, sources)
            for source in sources:
                self._release(source)

    def _allocate(self, node: Tensor, sources: tuple[Tensor, ...]) -> None:
        graph = self._graph
        if graph.in_place[node]:
            for source in sources:
                # A view never gives its memory away: gallocr counts only the tensor itself as its own.
                if graph.views[source] or source in graph.kept or source not in self._offsets:
                    continue
                alone = self._children[source] == 1 and self._view_count[source] == 0
                if alone and graph.sizes[source] == graph.sizes[node]:
                    self._offsets[node] = self._offsets.pop(source)
                    return
        self._offsets[node] = self._take(graph.places[node], self._padded(node))

    def _release(self, source: Tensor) -> None:
        graph = self._graph
        self._children[source] -= 1
        if self._children[source]:
            return
        root = source
        if graph.views[source]:
            root = graph.roots[source]
            self._view_count[root] -= 1
        if self._children[root] or self._view_count[root] or root not in self._offsets:
            return
        if root not in graph.kept:
            self._give(graph.places[root], self._offsets.pop(root), self._padded(root))

    def _take(self, place: Place, size: int) -> int:
        """Offset of the smallest gap that is large enough; the open end comes last."""
        free = self._free[place]
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
        self.peaks[place] = max(self.peaks[place], offset + size)
        return offset

    def _give(self, place: Place, offset: int, size: int) -> None:
        """Join with the first gap that touches, as ggml does, even where one of them is empty."""
        free = self._free[place]
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
