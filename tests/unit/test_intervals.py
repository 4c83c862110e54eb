"""Bootstrap over items, groups and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.metrics.intervals import Interval, bootstrap, bootstrap_statistic, paired_bootstrap


def coverage(groups: list[int] | None, size: int) -> float:
    """How often the interval of 40 groups of ``size`` equal hits contains the true rate of one half."""
    inside = 0
    for trial in range(200):
        hits = np.repeat(np.random.default_rng(trial).random(40) < 0.5, size)
        interval = bootstrap(hits, groups=groups, resamples=300, seed=trial)
        inside += interval.low <= 0.5 <= interval.high
    return inside / 200


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    assert 0.88 <= coverage(None, 1) <= 0.99


def test_copies_of_an_item_do_not_narrow_the_interval_when_grouped() -> None:
    groups = [group for group in range(40) for _ in range(9)]
    assert 0.88 <= coverage(groups, 9) <= 0.99
    assert coverage(None, 9) < 0.6


def test_n_counts_groups() -> None:
    assert bootstrap([1, 0, 1, 0], groups=["a", "a", "b", "b"]).n == 2
    assert bootstrap([1, 0, 1, 0]).n == 4


def test_same_seed_same_interval_and_another_seed_another() -> None:
    hits = np.random.default_rng(0).random(50)
    assert bootstrap(hits, seed=3) == bootstrap(hits, seed=3)
    assert bootstrap(hits, seed=3) != bootstrap(hits, seed=4)


def test_weights_make_a_rate_and_cancel_when_equal() -> None:
    errors = np.array([1.0, 2.0, 3.0])
    assert bootstrap(errors, [10, 10, 10]).value == pytest.approx(0.2)
    assert bootstrap(errors, [2, 2, 2]).scaled(2.0) == bootstrap(errors)


def test_seeds_widen_the_interval() -> None:
    items = np.random.default_rng(0).random(400) * 0.1
    one = bootstrap(items)
    many = bootstrap(np.stack([items, items + 1, items + 2]))
    assert many.value == pytest.approx(one.value + 1)
    assert many.high - many.low > 10 * (one.high - one.low)
    same = bootstrap(np.stack([items, items, items]))
    assert (same.low, same.high) == pytest.approx((one.low, one.high))


def test_pairing_cancels_how_hard_an_item_is() -> None:
    generator = np.random.default_rng(0)
    hardness = generator.random(200) * 10
    first, second = hardness + 0.2 + 0.1 * generator.random(200), hardness
    paired = paired_bootstrap(first, second)
    assert paired.excludes_zero and paired.value == pytest.approx(0.25, abs=0.03)
    shuffled = paired_bootstrap(first, second[generator.permutation(200)])
    assert not shuffled.excludes_zero


def test_a_system_does_not_differ_from_itself() -> None:
    hits = np.random.default_rng(0).random((3, 30))
    assert paired_bootstrap(hits, hits) == Interval(0.0, 0.0, 0.0, 30)


def test_a_row_without_seeds_is_repeated_for_all_seeds_of_the_other() -> None:
    generator = np.random.default_rng(0)
    seeds, single = generator.random((3, 30)), generator.random(30)
    assert paired_bootstrap(seeds, single) == paired_bootstrap(seeds, np.stack([single] * 3))
    back, forth = paired_bootstrap(single, seeds), paired_bootstrap(seeds, single)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))


def test_each_side_can_have_its_own_weights() -> None:
    interval = paired_bootstrap([2, 2], [3, 3], [4, 4], second_weights=[12, 12])
    assert interval.value == pytest.approx(0.25)


def test_a_general_statistic_agrees_with_the_fast_way() -> None:
    hits = np.random.default_rng(0).random(60)
    groups = [index // 3 for index in range(60)]
    fast = bootstrap(hits, groups=groups, resamples=3000)
    slow = bootstrap_statistic(60, lambda drawn: float(hits[drawn].mean()), groups=groups, resamples=3000)
    assert slow.value == pytest.approx(fast.value) and slow.n == fast.n == 20
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=0.01)


def test_resamples_without_any_weight_are_left_out() -> None:
    interval = bootstrap([1, 0], [10, 0], resamples=400)
    assert (interval.low, interval.high) == (0.1, 0.1)


def test_excludes_zero() -> None:
    assert Interval(1.0, 0.5, 2.0, 9).excludes_zero and Interval(-1.0, -2.0, -0.5, 9).excludes_zero
    assert not Interval(1.0, 0.0, 2.0, 9).excludes_zero


def test_bad_input_is_refused_with_what_was_expected() -> None:
    with pytest.raises(DataError, match=r"weights \(2,\) do not fit values \(1, 3\)"):
        bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match=r"expected \(items,\) or \(seeds, items\)"):
        bootstrap([])
    with pytest.raises(DataError, match="3 items but 2 group labels"):
        bootstrap([1, 2, 3], groups=["a", "b"])
    with pytest.raises(NumericsError, match="NaN or infinite"):
        bootstrap([1.0, float("nan")])
    with pytest.raises(DataError, match="nothing to divide by"):
        bootstrap([1, 1], [0, 0])
    with pytest.raises(ConfigError, match=r"confidence 95\.0; expected at least 1, and between 0 and 1"):
        bootstrap([1, 0], confidence=95.0)
    with pytest.raises(DataError, match="same items in the same order"):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="2 seeds x 2 items, second 3 x 2"):
        paired_bootstrap(np.ones((2, 2)), np.ones((3, 2)))
    with pytest.raises(NumericsError, match="only 0 of 10 resamples"):
        bootstrap_statistic(3, lambda _: float("nan"), resamples=10)
