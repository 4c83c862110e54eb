"""PNMI and purities against scikit-learn's scores and against plain loops."""

from collections import Counter

import numpy as np
import pytest

from allophone.metrics.units import cluster_purity, joint_counts, phone_purity, pnmi, usage_entropy

metrics = pytest.importorskip("sklearn.metrics")

pytestmark = pytest.mark.parity


def labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    phones = generator.integers(0, 12, size=3_000)
    units = np.where(generator.random(3_000) < 0.5, 2 * phones, generator.integers(0, 40, size=3_000))
    return units, phones


@pytest.mark.parametrize("seed", range(3))
def test_pnmi_is_mutual_information_over_phone_entropy(seed):
    units, phones = labels(seed)
    entropy = metrics.mutual_info_score(phones, phones)
    expected = metrics.mutual_info_score(phones, units) / entropy
    ours = pnmi(joint_counts(units, phones, 40, 12))
    assert ours == pytest.approx(expected, rel=1e-9)
    assert ours == pytest.approx(metrics.homogeneity_score(phones, units), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_purities_are_majority_counts(seed):
    units, phones = labels(seed)
    joint = joint_counts(units, phones, 40, 12)
    by_unit = sum(Counter(phones[units == unit]).most_common(1)[0][1] for unit in set(units.tolist()))
    by_phone = sum(Counter(units[phones == phone]).most_common(1)[0][1] for phone in set(phones.tolist()))
    assert phone_purity(joint) == pytest.approx(by_unit / 3_000)
    assert cluster_purity(joint) == pytest.approx(by_phone / 3_000)


def test_usage_entropy_is_that_of_scipy():
    entropy = pytest.importorskip("scipy.stats").entropy
    counts = np.random.default_rng(0).integers(0, 50, size=30)
    assert usage_entropy(counts) == pytest.approx(entropy(counts) / np.log(30))
