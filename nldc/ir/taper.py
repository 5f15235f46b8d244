"""Masks dealt to acceptance points: which of them are worth a draft, and how long a one.

A step of quadratic self-speculation verifies a draft and drafts anew behind every point where it
may be cut off. With fewer masks than that takes, each mask belongs where it brings most.

The model. After a step that accepted a tokens, the next draft would agree with the verifier in
A >= 1 tokens, had it no end: P(A >= j | a) = S(a, j), which is measured as an acceptance profile.
Behind point a stand m(a) masks; the first of them is at the place of the bonus token, so that the
draft has L(a) = max(1, m(a)) tokens, and the next step accepts a' = min(A, L(a)). So the accepted
counts are a Markov chain with

    P(a' | a) = S(a, a') - S(a, a' + 1) for a' < L(a),    P(L(a) | a) = S(a, L(a)),

and with its stationary distribution p a step accepts, in the long run,

    gain(m) = sum over a of p(a) * (S(a, 1) + ... + S(a, L(a))) tokens,

which is maximised under sum of m(a) <= budget. Relative values W(a, L) of a draft of L tokens
behind point a are those of Howard's policy evaluation (Dynamic Programming and Markov Processes,
1960): W(a, L) = E[a' - gain + W(a', L(a'))], with W(1, L(1)) = 0. For given p and W the best m is a
knapsack over sum of p(a) * W(a, m(a)), solved by dynamic programming over points and budget; doing
it again with the new p and W improves step by step. As all points share one budget it may end in a
local optimum, so it begins from many layouts, and at the end pairs of points exchange masks.

What stands behind the end of a short draft is taken as never accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

Profile = tuple[tuple[int, ...], ...]
"""How many steps accepted 1, 2, … tokens, a row for each count that the step before accepted; the
last row stands for all further counts too. The last number of a row counts whole drafts."""

MOST_POINTS = 64
MOST_STEPS = 2**31 - 1
"""The most rows of a profile, and numbers in one; the most steps that a number counts."""
MOST_GROUPS = 32
"""The most points that masks are dealt to; the search takes seconds, by their fourth power."""
PRIOR = 4.0
"""How many steps the average over all points weighs beside those that were counted behind one."""
GAIN = 1e-9
"""By how much one layout must be better than another, so that rounding does not decide."""
DIGITS = 12
"""Digits of what the knapsack compares, for the same reason."""
THOROUGH = 8
"""Points up to which every exchange between two of them is tried; beyond, some."""


def bad_profile(profile: Sequence[Sequence[int]]) -> str | None:
    """Return what is wrong with an acceptance profile, as the end of a sentence, or None."""
    if not 0 < len(profile) <= MOST_POINTS:
        return f"has {len(profile)} lists of numbers, and not 1 to {MOST_POINTS}"
    longest, shortest = max(map(len, profile)), min(map(len, profile))
    if not 0 < shortest <= longest <= MOST_POINTS:
        return f"has a list of {longest if shortest else 0} numbers, and not 1 to {MOST_POINTS}"
    numbers = [number for row in profile for number in row]
    if not all(0 <= number <= MOST_STEPS for number in numbers):
        return f"has a number that is not between 0 and {MOST_STEPS}"
    return None if any(numbers) else "counts no steps"


def survival(profile: Profile, points: int) -> Any:
    """Return S, float64 [points, points]: how likely a draft agrees in 1, 2, …, `points` tokens.

    Of the drafts that agree in j tokens, the share that agrees in more is (more + 1/2) / (as many
    or more + 1) over the whole profile, Krichevsky and Trofimov's estimate; behind one point it is
    the share counted there, with this one as `PRIOR` steps. So none is 0 or 1. Behind the
    profile's end the last share goes on.
    """
    width = max(map(len, profile))
    counts = np.array([[*row, *[0] * (width - len(row))] for row in profile], dtype=np.float64)
    counts = counts[[min(point, len(counts) - 1) for point in range(points)]]
    total = np.array([[*row, *[0] * (width - len(row))] for row in profile]).sum(axis=0)
    shares = np.full((points, points), 0.5)
    for length in range(1, points):
        if length < width:
            more, as_many = counts[:, length:].sum(axis=1), counts[:, length - 1 :].sum(axis=1)
            average = (total[length:].sum() + 0.5) / (total[length - 1 :].sum() + 1)
            shares[:, length] = (more + PRIOR * average) / (as_many + PRIOR)
        elif width > 1:
            shares[:, length] = shares[:, width - 1]
    shares[:, 0] = 1.0
    return np.cumprod(shares, axis=1)


def tokens_a_step(masks: Sequence[int], survives: Any) -> float:
    """Return gain(m) for `masks[a - 1]` behind point a: tokens a step, in the long run."""
    return float(_gains(np.array([masks]), survives)[0])


@lru_cache(maxsize=256)
def taper(profile: Profile, points: int, budget: int) -> tuple[int, ...]:
    """Return the masks behind 1, 2, …, `points` accepted tokens, at most `budget` in all.

    None has one mask, which would draft nothing, or more than `points`: a draft has no more tokens.

    Raises:
        ValueError: there are no points, or the budget is negative.
    """
    if points < 1 or budget < 0:
        raise ValueError(f"{points} points and {budget} masks")
    search = _Search(survival(profile, points), points, min(budget, points * points))
    return tuple(int(number) for number in search.best())


class _Search:
    """The search for one profile and budget. A layout is an int64 array [points]."""

    def __init__(self, survives: Any, points: int, budget: int) -> None:
        self.survives, self.points, self.budget = survives, points, budget
        self.is_thorough = points <= THOROUGH
        self.amounts = np.array([0, *range(2, min(points, budget) + 1)])
        self.left = np.arange(budget + 1) - self.amounts[:, None]
        self.moves = np.stack([_moves(survives, length) for length in range(1, points + 1)], axis=1)
        self.accepts = np.cumsum(survives, axis=1)

    def best(self) -> Any:
        found = {tuple(masks): self.gain(masks) for masks in map(self.climb, self.starts())}
        few = 8 if self.is_thorough else 2
        ordered = sorted(found, key=lambda masks: (-round(found[masks] / GAIN), masks))[:few]
        exchanged = [self.exchange(np.array(masks)) for masks in ordered]
        return max(exchanged, key=lambda masks: round(self.gain(masks) / GAIN))

    def gain(self, masks: Any) -> float:
        return float(_gains(masks[None], self.survives)[0])

    def starts(self) -> Iterator[Any]:
        """Yield layouts to begin from: even ones, falling ones, and some at random."""
        points, number = range(self.points), self.points
        yield self.filled(points, [0] * number)
        for depth in range(2, number + 1):
            yield self.filled(points, [depth] * number)
            yield self.filled((depth - 1, *points), [depth] * number)
            yield self.filled(range(depth), [self.budget // depth] * number)
            for slope in (1, 2):
                yield self.filled(points, [depth - slope * point for point in points])
        random = Random(0)
        for _ in range(64 if self.is_thorough else 8):
            order = random.sample(points, number)
            yield self.filled(order, [random.randint(0, number) for _ in points])

    def filled(self, order: Iterable[int], wanted: Sequence[int]) -> Any:
        """Return the layout that gives each point in turn what is wanted, as long as masks last."""
        masks, left = np.zeros(self.points, dtype=np.int64), self.budget
        for point in order:
            given = min(max(wanted[point], 0), self.points, left)
            if given > 1 and not masks[point]:
                masks[point] = given
                left -= given
        return masks

    def climb(self, masks: Any) -> Any:
        """Improve a layout by knapsacks until one does not."""
        gain = self.gain(masks)
        while True:
            better = self.knapsack(self.worth(masks))
            if self.gain(better) <= gain + GAIN:
                return masks
            masks, gain = better, self.gain(better)

    def worth(self, masks: Any) -> Any:
        """Return p(a) * W(a, L), [points, points], under a layout."""
        points, drafts = np.arange(self.points), np.maximum(masks, 1) - 1
        moves, accepts = self.moves[points, drafts], self.accepts[points, drafts]
        unknown = np.eye(self.points) - moves
        unknown[:, 0] = 1.0  # the gain, in the place of the value of point 1, which is 0
        gain, *values = np.linalg.solve(unknown, accepts)
        relative = self.accepts - gain + self.moves @ np.array([0.0, *values])
        return _stationary(moves[None])[0][:, None] * relative

    def knapsack(self, worth: Any) -> Any:
        """Return the layout with the most worth within the budget."""
        most, taken = np.zeros(self.budget + 1), []
        for each in np.round(worth[:, np.maximum(self.amounts, 1) - 1], DIGITS):
            tried = np.where(self.left < 0, -np.inf, most[self.left] + each[:, None])
            taken.append(tried.argmax(axis=0))
            most = tried.max(axis=0)
        masks, left = np.zeros(self.points, dtype=np.int64), self.budget
        for point in reversed(range(self.points)):
            masks[point] = self.amounts[taken[point][left]]
            left -= masks[point]
        return masks

    def exchange(self, masks: Any) -> Any:
        """Improve a layout by what two points can exchange, until nothing does."""
        while True:
            tried = np.array([masks, *self.exchanges(masks)])
            gains = _gains(tried, self.survives)
            best = int(np.argmax(gains > gains.max() - GAIN))
            if gains[best] <= gains[0] + GAIN:
                return masks
            masks = self.climb(tried[best])

    def exchanges(self, masks: Any) -> Iterator[Any]:
        """Yield the layouts in which one point has fewer masks, or as many, and another more."""
        unused = self.budget - int(masks.sum())
        for giver in range(self.points):
            held = int(masks[giver])
            for given in range(held + 1) if self.is_thorough else sorted({0, 1, 2, 4, held}):
                if given > held or held - given == 1:
                    continue
                for taker in range(self.points):
                    room = min(self.points - int(masks[taker]), unused + given)
                    amounts = range(1, room + 1) if self.is_thorough else sorted({room, given})
                    for amount in () if taker == giver else amounts:
                        if 0 < amount <= room and masks[taker] + amount != 1:
                            other = masks.copy()
                            other[giver] -= given
                            other[taker] += amount
                            yield other


def _moves(survives: Any, length: int) -> Any:
    """Return P(a' | a), [points, points], with drafts of `length` tokens behind every point."""
    moves = np.zeros_like(survives)
    moves[:, : length - 1] = survives[:, : length - 1] - survives[:, 1:length]
    moves[:, length - 1] = survives[:, length - 1]
    return moves


def _gains(layouts: Any, survives: Any) -> Any:
    """Return gain(m), [layouts], of layouts [layouts, points]."""
    points = layouts.shape[1]
    drafts = np.maximum(layouts, 1)[:, :, None]
    reached = np.where(drafts >= np.arange(1, points + 1), survives, 0.0)
    beyond = np.concatenate([reached[:, :, 1:], np.zeros((len(layouts), points, 1))], axis=2)
    chances = _stationary(reached - beyond)
    return (chances * reached.sum(axis=2)).sum(axis=1)


def _stationary(moves: Any) -> Any:
    """Return p, [layouts, points], of chains P(a' | a), [layouts, points, points]."""
    points = moves.shape[1]
    unknown = np.eye(points) - np.swapaxes(moves, 1, 2)
    unknown[:, 0] = 1.0  # one of the equations follows from the others: p sums to 1 instead
    ones = np.zeros((len(moves), points, 1))
    ones[:, 0] = 1.0
    return np.linalg.solve(unknown, ones)[:, :, 0]
