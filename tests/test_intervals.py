"""A table's statistics against slow versions written out."""

import itertools

import numpy as np
import pytest

from workflow import intervals, summary


def scores(seeds: int, people: int, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seeds * people)
    return 50 + shift + 20 * generator.normal(size=people) + 5 * generator.normal(size=(seeds, people))


def test_the_interval_is_of_people_and_seeds_drawn_together():
    arm_scores = scores(5, 20)
    generator = np.random.default_rng(1)
    means = []
    for _ in range(20_000):
        seeds = generator.integers(5, size=5)
        people = generator.integers(20, size=20)
        means.append(np.mean([[arm_scores[seed, person] for person in people] for seed in seeds]))
    slow = np.percentile(means, [2.5, 97.5])
    # A percentile of 10,000 draws of standard deviation 4.5 is off by some 0.12 (its density there is 0.058 / 4.5).
    np.testing.assert_allclose(intervals.interval(arm_scores), slow, atol=0.5)


def test_seeds_that_differ_widen_the_interval():
    same = np.repeat(scores(1, 20), 5, axis=0)
    apart = same + np.array([-20, -10, 0, 10, 20])[:, None]
    low, high = intervals.interval(same)
    wider_low, wider_high = intervals.interval(apart)
    assert wider_high - wider_low > 1.3 * (high - low)


def test_the_interval_of_equal_scores_is_a_point():
    assert intervals.interval(np.full((3, 4), 7.0)) == (7.0, 7.0)


@pytest.mark.parametrize("shift", [0.0, 3.0, 15.0])
def test_the_p_value_counts_all_exchanges_of_a_persons_two_means(shift):
    one, other = scores(3, 8), scores(4, 8, shift)[:3]
    by = one.mean(axis=0) - other.mean(axis=0)
    found = abs(by.mean())
    signs = itertools.product((-1, 1), repeat=8)
    as_large = [abs(np.mean(by * sign)) >= found * (1 - 1e-12) for sign in signs]
    # With so few people scipy goes through all 256 exchanges as well.
    assert intervals.p_value(one, other) == pytest.approx(np.mean(as_large))


def test_arms_that_answer_alike_have_p_1():
    assert intervals.p_value(scores(3, 10), scores(3, 10)) == 1.0


def test_a_single_paragraph_of_a_kind_is_compared_without_interval_or_p():
    assert summary.difference(summary.minus("none", scores(3, 1), scores(3, 1, 5.0)), "none", 1) == ""
    assert "p = " in summary.difference(summary.minus("none", scores(3, 2), scores(3, 2, 5.0)), "none", 1)
