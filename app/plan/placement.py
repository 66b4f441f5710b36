"""Contiguous placement of layers over devices, exact: the fullest device is as empty as can be."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

_CLOSE_BITS = 16
"""Bounds are close once they differ by less than a 65,536th."""
MOST_STATES = 1024
"""Of the search over orders: ten devices of which no two are alike."""
Found = TypeVar("Found")
Cost = Callable[[int, int, int], int]
"""`cost(device, first, end)`: bytes that layers first to end - 1 take on the device."""


class SpanMaximum:
    """The greatest of `values[first:end]`, in constant time, 0 for none (a sparse table)."""

    def __init__(self, values: Sequence[int]) -> None:
        """Take n log n steps."""
        self._rows = [list(values)]
        width = 1
        while 2 * width <= len(values):
            row = self._rows[-1]
            self._rows.append([max(row[i], row[i + width]) for i in range(len(row) - width)])
            width *= 2

    def __call__(self, first: int, end: int) -> int:
        """Of indices `first` to `end - 1`."""
        if end <= first:
            return 0
        level = (end - first).bit_length() - 1
        row = self._rows[level]
        return max(row[first], row[end - (1 << level)])


def balanced(count: int, first: int, budgets: Sequence[int], cost: Cost) -> tuple[int, ...] | None:
    """Layers for each device so that the least of what is left anywhere is greatest.

    Layers `first` to `count - 1` are placed in order, devices in order; a device may stay empty and
    then counts for nothing. Costs never shrink with more layers, so for a least left of `floor` it is
    best that each device takes as many layers as it can, and the greatest `floor` that works is found
    by bisection, to the byte. None if the layers do not fit.
    """

    def fill(floor: int) -> tuple[int, ...] | None:
        return _fill(count, first, budgets, cost, floor=floor)

    def least(counts: tuple[int, ...]) -> int:
        start, lowest = first, max(budgets, default=0)
        for device, number in enumerate(counts):
            if number:
                lowest = min(lowest, budgets[device] - cost(device, start, start + number))
            start += number
        return lowest

    return _highest(fill, least, max(budgets, default=0) + 1)


def fits(count: int, first: int, budgets: Sequence[int], cost: Cost) -> bool:
    """True if the layers fit on the devices in this order."""
    return _fill(count, first, budgets, cost, floor=0) is not None


def last_found(low: int, high: int, at: Callable[[int], Found | None]) -> Found | None:
    """What `at` finds for the greatest number between `low` and `high` for which it finds anything.

    Both ends are excluded; `at` finds something up to some number, and nothing beyond. None if for none.
    """
    best = None
    while high - low > 1:
        middle = (low + high) // 2
        found = at(middle)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    return best


def _highest(
    at: Callable[[int], Found | None], least: Callable[[Found], int], limit: int
) -> Found | None:
    """What `at` finds for the greatest floor below `limit` for which it finds anything.

    Each find may reach a higher floor than was asked for (`least`); once the bounds are close, one
    question more tells whether that was the highest, which spares most of the bisection.
    """
    best = at(0)
    if best is None:
        return None
    low, high = least(best), limit
    while high - low > 1:
        close = high - low <= max(1, high >> _CLOSE_BITS)
        middle = low + 1 if close else (low + high) // 2
        found = at(middle)
        if found is not None:
            low, best = max(middle, least(found)), found
        elif close:
            break
        else:
            high = middle
    return best


def balanced_any_order(
    count: int, first: int, budgets: Sequence[int], cost: Cost
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The same, over all orders of devices: the order (indices), and layers for each in that order.

    Devices of the same budget are interchangeable, so the search is over how many of each kind
    stand before a cut; `cost` must not depend on the device. Where there are very many kinds, those
    that are nearly alike count as one, of the least budget among them.
    """
    exact, budgets = list(budgets), _alike(budgets)
    kinds = sorted(set(budgets), reverse=True)
    amounts = tuple(budgets.count(kind) for kind in kinds)

    def reach(floor: int) -> list[tuple[int, int]] | None:
        return _reach(count, first, kinds, amounts, cost, floor=floor)

    def least(found: list[tuple[int, int]]) -> int:
        start, lowest = first, max(budgets, default=0)
        for kind, number in found:
            if number:
                lowest = min(lowest, kinds[kind] - cost(0, start, start + number))
            start += number
        return lowest

    best = _highest(reach, least, max(budgets, default=0) + 1)
    if best is None:
        return None
    waiting = {kind: [i for i, b in enumerate(budgets) if b == kind] for kind in kinds}
    order = tuple(waiting[kinds[kind]].pop(0) for kind, _ in best)
    counts = tuple(layers for _, layers in best)
    if budgets != exact:
        counts = balanced(count, first, [exact[index] for index in order], cost) or counts
    return order, counts


def _alike(budgets: Sequence[int]) -> list[int]:
    """The budgets with the most similar ones made equal, until the search is short enough."""
    groups = [[budget] * budgets.count(budget) for budget in sorted(set(budgets))]
    while math.prod(len(group) + 1 for group in groups) > MOST_STATES:
        steps = [after[0] - before[0] for before, after in itertools.pairwise(groups)]
        place = steps.index(min(steps))
        groups[place : place + 2] = [groups[place] + groups[place + 1]]
    lowest = {budget: group[0] for group in groups for budget in group}
    return [lowest[budget] for budget in budgets]


def _reach(
    count: int,
    first: int,
    kinds: Sequence[int],
    amounts: tuple[int, ...],
    cost: Cost,
    *,
    floor: int,
) -> list[tuple[int, int]] | None:
    """(kind, layers) for each device in an order that places all, each left with `floor`, or None.

    The further the devices used so far reach, the better for all that follow, so one number is
    enough for each set of devices.
    """

    @functools.cache
    def end_of(kind: int, start: int) -> int:
        low, high = start, count + 1
        while high - low > 1:
            middle = (low + high) // 2
            if kinds[kind] - cost(0, start, middle) >= floor:
                low = middle
            else:
                high = middle
        return low

    reached: dict[tuple[int, ...], tuple[int, int]] = {tuple(0 for _ in kinds): (first, -1)}
    states = itertools.product(*(range(amount + 1) for amount in amounts))
    for used in sorted(states, key=sum):
        for kind in range(len(kinds)):
            if used[kind]:
                before = _less(used, kind)
                end = end_of(kind, reached[before][0])
                if used not in reached or end > reached[used][0]:
                    reached[used] = (end, kind)
    if reached[amounts][0] < count:
        return None
    result: list[tuple[int, int]] = []
    used = amounts
    while any(used):
        end, kind = reached[used]
        used = _less(used, kind)
        result.append((kind, end - reached[used][0]))
    return result[::-1]


def _less(used: tuple[int, ...], kind: int) -> tuple[int, ...]:
    return (*used[:kind], used[kind] - 1, *used[kind + 1 :])


def _fill(
    count: int, first: int, budgets: Sequence[int], cost: Cost, *, floor: int
) -> tuple[int, ...] | None:
    """Each device in turn takes all layers that leave it `floor`; None if some remain."""
    counts, start = [], first
    for device, budget in enumerate(budgets):
        low, high = start, count + 1  # `low` leaves the floor, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            if budget - cost(device, start, middle) >= floor:
                low = middle
            else:
                high = middle
        counts.append(low - start)
        start = low
    return tuple(counts) if start == count else None


def fastest(
    count: int,
    first: int,
    budgets: Sequence[int],
    cost: Cost,
    seconds: Callable[[int, int, int], float],
) -> tuple[float, tuple[int, ...]] | None:
    """The time, and layers for each device so that one token takes least: the sum over devices, in order.

    Exact by dynamic programming over devices and layers. None if the layers do not fit. `seconds` is,
    as `cost`, what the layers take on the device: a sum over them.
    """
    best: dict[int, tuple[float, tuple[int, ...]]] = {first: (0.0, ())}
    for device, budget in enumerate(budgets):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (spent, counts) in best.items():
            for end in range(start, count + 1):
                if end > start and cost(device, start, end) > budget:
                    break
                total = spent + seconds(device, start, end)
                if end not in following or total < following[end][0]:
                    following[end] = (total, (*counts, end - start))
        best = following
    return best.get(count)


def even(total: int, devices: int) -> tuple[int, ...]:
    """As many layers on each device; the first ones take the rest."""
    if devices == 0:
        return ()
    share, rest = divmod(total, devices)
    return tuple(share + (1 if index < rest else 0) for index in range(devices))


def by_proportions(layers: int, proportions: Sequence[float]) -> tuple[int, ...]:
    """Layers for each device as llama.cpp cuts them for `--tensor-split`, in its 32-bit arithmetic.

    Source: `load_tensors` in llama-model.cpp, `get_layer_buft_list`.
    """
    ends: list[float] = []
    total = 0.0
    for value in proportions:
        total = _single(total + _single(value))
        ends.append(total)
    ends = [_single(end / total) for end in ends]
    counts = [0] * len(ends)
    for layer in range(layers):
        # All layers that round to the end go to the last device.
        place = bisect.bisect_right(ends, _single(_single(layer) / _single(layers)))
        counts[min(place, len(ends) - 1)] += 1
    return tuple(counts)


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def by_memory(total: int, free: Sequence[int]) -> tuple[int, ...]:
    """Layers in proportion to free memory, as llama.cpp does by itself (llama-model.cpp)."""
    whole = sum(free)
    if whole <= 0:
        return even(total, len(free))
    counts, done, seen = [], 0, 0
    for value in free:
        seen += value
        upto = round(total * seen / whole)
        counts.append(upto - done)
        done = upto
    return tuple(counts)
