"""Contiguous placement of layers over devices, exact: the fullest device is as empty as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Cost = Callable[[int, int, int], int]
"""`cost(device, first, end)`: bytes that layers first to end - 1 take on the device."""


def balanced(count: int, first: int, budgets: Sequence[int], cost: Cost) -> tuple[int, ...] | None:
    """Layers for each device so that the least of what is left anywhere is greatest.

    Layers `first` to `count - 1` are placed in order, devices in order. Dynamic programming over
    cuts: `best[d][e]` is the greatest least-left with layers up to `e` on the devices up to `d`.
    Costs grow with more layers, so a device's loop ends where it is worse than the best known.
    None if they do not fit.
    """
    if not budgets:
        return None
    size = count - first + 1
    unreachable = -(2**62)
    best = [2**62 if end == 0 else unreachable for end in range(size)]
    choices: list[list[int]] = []
    for device, budget in enumerate(budgets):
        row, choice = [unreachable] * size, [0] * size
        for end in range(size):
            row[end], choice[end] = best[end], end
            for start in range(end - 1, -1, -1):
                left = budget - cost(device, first + start, first + end)
                if left <= row[end] or left < 0:
                    break
                value = min(best[start], left)
                if value > row[end]:
                    row[end], choice[end] = value, start
        best = row
        choices.append(choice)
    if best[-1] < 0:
        return None
    counts, end = [0] * len(budgets), size - 1
    for device in range(len(budgets) - 1, -1, -1):
        start = choices[device][end]
        counts[device] = end - start
        end = start
    return tuple(counts)


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
