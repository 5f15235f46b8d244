"""Masks dealt by an acceptance profile: the chain, the search, and brute force over all layouts."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random

import numpy as np
import pytest

from nldc.ir.taper import Profile, bad_profile, survival, taper, tokens_a_step


def layouts(points: int, budget: int) -> list[tuple[int, ...]]:
    every = product([0, *range(2, points + 1)], repeat=points)
    return [masks for masks in every if sum(masks) <= budget]


def drawn(random: Random, points: int) -> Profile:
    rows = random.randint(1, points)
    return tuple(tuple(random.randint(0, 99) for _ in range(points)) for _ in range(rows))


@pytest.mark.parametrize(("points", "trials"), [(2, 4), (3, 6), (4, 4)])
def test_no_layout_within_the_budget_accepts_more(points: int, trials: int) -> None:
    random = Random(points)
    for _ in range(trials):
        profile, budget = drawn(random, points), random.randint(0, points * points)
        survives = survival(profile, points)
        found = taper(profile, points, budget)
        assert sum(found) <= budget
        best = max(tokens_a_step(masks, survives) for masks in layouts(points, budget))
        assert tokens_a_step(found, survives) == pytest.approx(best, abs=1e-8), (profile, budget)


def test_the_gain_is_what_a_long_run_of_the_model_accepts() -> None:
    survives = survival(((50, 30, 10, 9), (20, 30, 40, 30), (9, 9, 9, 60)), 4)
    masks, random, accepted, total, steps = (3, 0, 4, 2), Random(3), 4, 0, 60_000
    for _ in range(steps):
        draft = max(1, masks[accepted - 1])
        chance = random.random()
        agrees = int((survives[accepted - 1] > chance).sum())
        accepted = min(agrees, draft)
        total += accepted
    assert tokens_a_step(masks, survives) == pytest.approx(total / steps, rel=0.02)


def test_all_masks_accept_what_whole_drafts_do_and_none_one_token() -> None:
    survives = survival(((40, 30, 20, 10),), 4)
    assert tokens_a_step([4] * 4, survives) == pytest.approx(survives[0].sum())
    assert tokens_a_step([0] * 4, survives) == pytest.approx(1.0)


def test_more_masks_never_accept_less() -> None:
    profile = ((1017, 624, 271, 87, 50), (579, 882, 350, 193, 73), (2, 2, 2, 3, 90))
    survives = survival(profile, 5)
    gains = [tokens_a_step(taper(profile, 5, budget), survives) for budget in range(0, 26, 8)]
    assert all(more > less - 1e-9 for less, more in pairwise(gains))


def test_masks_follow_the_profile() -> None:
    after_one, after_three = ((5, 5, 90), (90, 5, 5)), ((90, 5, 5), (50, 50, 0), (1, 1, 98))
    assert taper(after_one, 3, 3) == (3, 0, 0)
    assert taper(after_three, 3, 6) == (3, 0, 3)


def test_shares_are_estimated_between_what_was_counted_and_the_average() -> None:
    survives = survival(((10, 30), (1000, 3000), (0, 0)), 3)
    average = 3030.5 / 4041
    assert survives[2, 1] == pytest.approx(average)
    assert survives[1, 1] == pytest.approx(0.75, abs=1e-3)
    assert np.all(survives[:, 0] == 1)
    assert np.all((survives[:, 1:] > 0) & (survives[:, 1:] < 1))
    assert survives[0, 2] == pytest.approx(survives[0, 1] ** 2)


def test_a_large_search_ends_and_keeps_to_the_budget() -> None:
    profile = (tuple(int(1000 * 0.8**n) for n in range(16)),)
    found = taper(profile, 16, 40)
    assert sum(found) <= 40
    assert tokens_a_step(found, survival(profile, 16)) > 3.5


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ((), "has 0 lists"),
        (((1,), ()), "has a list of 0 numbers"),
        (((1,) * 65,), "has a list of 65 numbers"),
        (((1, -1),), "not between 0 and"),
        (((0, 0),), "counts no steps"),
        (((0, 1), (3,)), None),
    ],
)
def test_a_profile_that_says_nothing_is_told(profile: Profile, said: str | None) -> None:
    found = bad_profile(profile)
    assert (found is None) if said is None else (found is not None and said in found)


def test_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="0 points"):
        taper(((1,),), 0, 3)
