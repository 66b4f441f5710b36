"""The search for the split that is best at what was asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from app.plan import placement
from app.plan.model import Objective

if TYPE_CHECKING:
    from app.plan.problem import Problem

DIFFERENT = 0.05
"""Cards whose free memory differs by more than this share of the largest are worth another order."""
MOST_TRIED = 8
"""With more devices than these not every set of them is tried for the fewest."""

Split = tuple[Sequence[int], tuple[int, ...]]
"""The order of devices (indices), and layers for each in that order."""


class Search:
    """One search for a split."""

    def __init__(self, problem: Problem, context: int, margin: int) -> None:
        self._problem, self._context = problem, context
        self.margin = margin
        self.total = problem.total_layers
        self.budgets = [budget - margin for budget in problem.budgets]
        self._held = [problem.held(index, context) for index in range(len(self.budgets))]
        self.forced = False
        """True if the number of layers was given and they do not fit."""

    def split(self) -> Split:
        """The best split that fits, with as many layers on devices as can be."""
        problem = self._problem
        as_given = range(len(problem.devices))
        fixed = problem.request.gpu_layers
        nothing: Split = as_given, (0,) * len(problem.devices)
        if not problem.devices or fixed == 0:
            return nothing
        wanted = self.total if fixed is None else max(0, min(fixed, self.total))
        placed = self.placed(wanted)
        if placed is not None:
            return placed
        if fixed is not None:
            self.forced = True
            return as_given, placement.by_memory(wanted, [max(0, b) for b in self.budgets])
        return placement.last_found(0, wanted, self.placed) or nothing

    def missing(self) -> list[tuple[int, int]]:
        """What each device that lacks memory would need to hold all layers, and its index, the most first.

        Of all splits of whole layers the one in which no device lacks more than it must.
        """
        cost = self._cost(self.total)
        budgets, order = self.budgets, tuple(range(len(self.budgets)))
        plenty = max(cost(index, 0, self.total) for index in order) - min(0, *budgets)
        roomy = [budget + plenty for budget in budgets]
        counts = placement.balanced(self.total, 0, roomy, cost)
        if self._problem.free_order:
            found = placement.balanced_any_order(self.total, 0, roomy, cost)
            if found is not None:
                order, counts = found
        lacking, start = [], 0
        for index, number in zip(order, counts or (), strict=True):
            if number:
                lacking.append((cost(index, start, start + number) - budgets[index], index))
            start += number
        return sorted((pair for pair in lacking if pair[0] > 0), reverse=True)

    def fits(self) -> bool:
        """True if all layers do."""
        return placement.fits(self.total, 0, self.budgets, self._cost(self.total))

    def _cost(self, layers: int) -> placement.Cost:
        pipelined = layers == self.total and len(self.budgets) > 1
        table = self._problem.table(self._context, pipelined=pipelined)
        held = self._held

        def cost(device: int, first: int, end: int) -> int:
            return held[device](first, end) + table(first, end)

        return cost

    def placed(self, layers: int) -> Split | None:
        """As the objective wants it, or None if so many layers do not fit."""
        problem, request = self._problem, self._problem.request
        if not self.budgets:
            return None
        first, cost = self.total - layers, self._cost(layers)
        as_given = range(len(self.budgets))
        found = placement.balanced(self.total, first, self.budgets, cost)
        split: Split | None = None if found is None else (as_given, found)
        differ = max(self.budgets) - min(self.budgets) > DIFFERENT * max(self.budgets)
        free_order = problem.free_order
        if free_order and (differ or found is None):
            split = placement.balanced_any_order(self.total, first, self.budgets, cost)
        if split is None:
            return None
        if request.objective is Objective.FEWEST:
            return self._fewest(first, cost, split, free_order=free_order)
        if request.objective is Objective.FASTEST:
            return self._fastest(first, cost, split, free_order=free_order)
        return split

    def _fewest(self, first: int, cost: placement.Cost, split: Split, *, free_order: bool) -> Split:
        """As few devices as will do, and of those that are enough the ones with most room left.

        Where devices may change places those with most room are the best; in a given order each
        set of so many is tried.
        """
        order, devices = split[0], range(len(self.budgets))
        by_room = sorted(devices, key=lambda index: self.budgets[index], reverse=True)
        for count in range(1, len(by_room)):
            if free_order or len(by_room) > MOST_TRIED:
                sets: Iterable[tuple[int, ...]] = [tuple(by_room[:count])]
            else:
                sets = itertools.combinations(order, count)
            best: tuple[int, Split] | None = None
            for chosen in sets:
                found = self._only(first, cost, chosen, free_order=free_order)
                if found is not None and (best is None or found[0] > best[0]):
                    best = found
            if best is not None:
                return best[1]
        return split

    def _only(
        self, first: int, cost: placement.Cost, chosen: Sequence[int], *, free_order: bool
    ) -> tuple[int, Split] | None:
        """What is left on the fullest, and the split, if only these devices hold layers."""
        budgets = [self.budgets[index] for index in chosen]
        own = self._in_order(cost, chosen)
        counts = placement.balanced(self.total, first, budgets, own)
        order: Sequence[int] = chosen
        if free_order:
            found = placement.balanced_any_order(self.total, first, budgets, own)
            if found is not None:
                order, counts = [chosen[index] for index in found[0]], found[1]
        if counts is None:
            return None
        start, least = first, max(budgets)
        for index, number in zip(order, counts, strict=True):
            if number:
                least = min(least, self.budgets[index] - cost(index, start, start + number))
            start += number
        layers = dict(zip(order, counts, strict=True))
        rest = [index for index in range(len(self.budgets)) if index not in layers]
        whole = (*order, *rest) if free_order else tuple(range(len(self.budgets)))
        return least, (whole, tuple(layers.get(index, 0) for index in whole))

    @staticmethod
    def _in_order(cost: placement.Cost, order: Sequence[int]) -> placement.Cost:
        """The cost by place in an order of devices (indices)."""

        def own(place: int, start: int, end: int) -> int:
            return cost(order[place], start, end)

        return own

    def _fastest(
        self, first: int, cost: placement.Cost, split: Split, *, free_order: bool
    ) -> Split:
        """Least time for one token; unknown bandwidths count as equal ones, and all splits then as fast."""
        rates = [device.bandwidth_bytes_per_s or 1e12 for device in self._problem.devices]
        if len(set(rates)) == 1:
            return split
        by_rate = sorted(range(len(rates)), key=lambda index: rates[index])
        orders = {tuple(split[0])}
        if free_order:
            orders |= {tuple(by_rate), tuple(reversed(by_rate))}
        held, best = self._held, (math.inf, split)
        for order in sorted(orders):
            own = self._in_order(cost, order)

            def seconds(device: int, start: int, end: int, order: tuple[int, ...] = order) -> float:
                return held[order[device]](start, end) / rates[order[device]]

            budgets = [self.budgets[index] for index in order]
            found = placement.fastest(self.total, first, budgets, own, seconds)
            if found is not None and found[0] < best[0]:
                best = found[0], (order, found[1])
        return best[1]
