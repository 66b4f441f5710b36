"""Contiguous placement of layers over devices, exact: the fullest device is as empty as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Cost = Callable[[int, int, int], int]
"""`cost(device, first, end)`: bytes that layers first to end - 1 take on the device."""


def balanced(count: int, first: int, budgets: Sequence[int], cost: Cost) -> tuple[int, ...] | None:
    """Layers for each device so that the least of what is left anywhere is greatest.

    Layers `first` to `count - 1` are placed in order, devices in order; a device may stay empty and
    then counts for nothing. Costs never shrink with more layers, so for a least left of `floor` it is
    best that each device takes as many layers as it can, and the greatest `floor` that works is found
    by bisection, to the byte. None if the layers do not fit.
    """
    best = _fill(count, first, budgets, cost, floor=0)
    if best is None:
        return None
    low, high = 0, max(budgets, default=0) + 1
    while high - low > 1:
        middle = (low + high) // 2
        found = _fill(count, first, budgets, cost, floor=middle)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    return best


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


def even(total: int, devices: int) -> tuple[int, ...]:
    """As many layers on each device; the first ones take the rest."""
    if devices == 0:
        return ()
    share, rest = divmod(total, devices)
    return tuple(share + (1 if index < rest else 0) for index in range(devices))


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
