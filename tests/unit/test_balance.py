from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allophone.data.balance import draw, draw_counts, language_weights, source_weights
from allophone.errors import ConfigError, DataError

AMOUNTS = {"eng_Latn": 90.0, "fra_Latn": 9.0, "bul_Cyrl": 1.0}


def test_alpha_one_keeps_and_alpha_zero_levels() -> None:
    assert list(language_weights(AMOUNTS, 1.0).values()) == pytest.approx([0.9, 0.09, 0.01])
    assert list(language_weights(AMOUNTS, 0.0).values()) == pytest.approx([1 / 3] * 3)


@given(st.floats(0.05, 0.95))
def test_smaller_alpha_lifts_the_rare(alpha: float) -> None:
    weights = language_weights(AMOUNTS, alpha)
    assert math.isclose(sum(weights.values()), 1.0)
    assert weights["bul_Cyrl"] > 0.01 and weights["eng_Latn"] < 0.9
    assert weights["eng_Latn"] / weights["bul_Cyrl"] == pytest.approx(90**alpha)


def test_weights_do_not_depend_on_the_unit() -> None:
    hours = {name: amount / 3600 for name, amount in AMOUNTS.items()}
    assert language_weights(hours, 0.7) == pytest.approx(language_weights(AMOUNTS, 0.7))


def test_two_levels() -> None:
    amounts = {("a", "x"): 9.0, ("a", "y"): 7.0, ("b", "x"): 1.0}
    weights = source_weights(amounts, alpha=0.5, beta=0.0)
    assert weights == pytest.approx({("a", "x"): 0.4, ("a", "y"): 0.4, ("b", "x"): 0.2})
    natural = source_weights(amounts, alpha=1.0, beta=1.0)
    assert natural == pytest.approx({key: amount / 17 for key, amount in amounts.items()})


@given(st.lists(st.floats(0.01, 50.0), min_size=1, max_size=20))
def test_rounding_keeps_the_total(targets: list[float]) -> None:
    counts = draw_counts(targets)
    assert sum(counts) == round(sum(targets))
    assert all(abs(count - target) <= 1 + 1e-6 for count, target in zip(counts, targets, strict=True))


def test_whole_targets_stay() -> None:
    assert draw_counts([3.0 - 1e-12, 4.0 + 1e-12, 5.0]) == [3, 4, 5]


@given(st.integers(1, 12), st.integers(0, 60))
def test_no_member_twice_before_all_once(size: int, count: int) -> None:
    members, repeats = draw(size, count, np.random.default_rng(count))
    assert len(members) == len(repeats) == count
    for start in range(0, count, size):
        part = members[start : start + size]
        assert len(set(part.tolist())) == len(part)
        assert set(repeats[start : start + size].tolist()) == {start // size}
    if count >= size:
        times = np.bincount(members, minlength=size)
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_exponent_out_of_range(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"between 0 \(all equal\) and 1"):
        language_weights(AMOUNTS, alpha)


@pytest.mark.parametrize("amount", [0.0, -1.0, math.nan, math.inf])
def test_amount_that_cannot_be_balanced(amount: float) -> None:
    with pytest.raises(DataError, match="Cannot balance 'bul_Cyrl'"):
        language_weights({"bul_Cyrl": amount, "eng_Latn": 1.0}, 0.5)
