"""Formulas over counts: bounds, hand-worked tables, errors. (scikit-learn's are compared with in tests/parity.)"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.errors import DataError
from allophone.metrics.units import cluster_purity, dead_units, joint_counts, phone_purity, pnmi, usage_entropy

TABLES = st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1, max_size=6).map(np.array)


def test_hand_worked_table():
    joint = joint_counts([0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 0, 2], 4, 3)
    assert joint.tolist() == [[2, 1, 0], [0, 3, 0], [1, 0, 1], [0, 0, 0]]
    assert phone_purity(joint) == pytest.approx((2 + 3 + 1) / 8)
    assert cluster_purity(joint) == pytest.approx((2 + 3 + 1) / 8)
    assert dead_units(joint.sum(1)) == 1


def test_perfect_and_independent_units():
    assert pnmi(np.diag([3, 5, 2])) == pytest.approx(1.0)
    assert pnmi(np.outer([1, 2, 3], [4, 5])) == pytest.approx(0.0, abs=1e-12)
    assert phone_purity(np.diag([3, 5, 2])) == cluster_purity(np.diag([3, 5, 2])) == 1.0


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_bounds_and_symmetry(joint):
    if (joint.sum(0) > 0).sum() < 2:
        return
    assert 0.0 <= pnmi(joint) <= 1.0
    assert max(joint.sum(0)) / joint.sum() <= phone_purity(joint) + 1e-12 <= 1.0 + 1e-9
    assert cluster_purity(joint) == pytest.approx(phone_purity(joint.T))


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_splitting_a_unit_never_lowers_what_it_tells(joint):
    if (joint.sum(0) > 0).sum() < 2:
        return
    half = joint[0] // 2
    split = np.vstack([half, joint[0] - half, joint[1:]])
    assert pnmi(split) >= pnmi(joint) - 1e-9
    assert phone_purity(split) >= phone_purity(joint) - 1e-9


def test_usage_entropy():
    assert usage_entropy([5, 5, 5, 5]) == pytest.approx(1.0)
    assert usage_entropy([7, 0, 0]) == 0.0
    assert usage_entropy([1, 1, 0, 0]) == pytest.approx(math.log(2) / math.log(4))
    assert usage_entropy([9]) == 0.0


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [[1, 2]]])
def test_usage_of_nothing(counts):
    with pytest.raises(DataError, match="usage_entropy"):
        usage_entropy(counts)


def test_one_phone_has_nothing_to_tell():
    with pytest.raises(DataError, match="same phone"):
        pnmi([[3, 0], [4, 0]])


@pytest.mark.parametrize("function", [pnmi, phone_purity, cluster_purity])
def test_empty_tables(function):
    with pytest.raises(DataError, match="at least one frame"):
        function(np.zeros((3, 2)))


def test_joint_counts_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="one each a frame"):
        joint_counts([0, 1], [0], 2, 2)
    with pytest.raises(DataError, match="unit ids span 0 to 5, expected 0 to 3"):
        joint_counts([0, 5], [0, 1], 4, 2)
    with pytest.raises(DataError, match="phone ids span -1 to 1"):
        joint_counts([0, 1], [-1, 1], 4, 2)
