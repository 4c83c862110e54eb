"""Geometry by hand, at its ends (all directions, one), against scikit-learn and under what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ortho_group
from sklearn.metrics import silhouette_score

from allophone.errors import DataError, NumericsError
from allophone.metrics.geometry import (
    class_cosines,
    cosine_correlation,
    dimension_contributions,
    effective_rank,
    fisher_ratio,
    isoscore,
    measure_geometry,
    partition_isotropy,
    silhouette,
    standardized,
    uniformity,
)

Array = NDArray[np.float64]


def gaussian(count: int = 4000, dim: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, dim))


def one_direction(count: int = 400, dim: int = 8) -> Array:
    """Far from each other along one dim and nowhere else."""
    values = np.zeros((count, dim))
    values[:, 2] = 30 * np.random.default_rng(1).standard_normal(count)
    return values


def clusters(seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    ids = generator.integers(4, size=60)
    return generator.standard_normal((4, 5))[ids] + 0.4 * generator.standard_normal((60, 5)), ids


def test_dimension_contributions_by_hand() -> None:
    """Three vectors with cosines 0.6, 0.8 and 0: the first dim alone makes the first, the second the second."""
    vectors = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    assert dimension_contributions(vectors).tolist() == pytest.approx([0.6 / 3, 0.8 / 3])
    dominant = np.hstack([np.full((50, 1), 10.0), 0.1 * gaussian(50, 3)])
    found = dimension_contributions(dominant)
    assert found[0] / found.sum() == pytest.approx(1.0, abs=1e-3)


def test_partition_isotropy_by_hand() -> None:
    """W^T W has the axes as eigenvectors: Z is e + 1 and 1/e + 1 on the first, e^2 + 1 and e^-2 + 1 on the second."""
    vectors = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert partition_isotropy(vectors) == pytest.approx((math.exp(-2) + 1) / (math.exp(2) + 1))


def test_isoscore_by_hand() -> None:
    """Two of three dims, equal variance: sigma = sqrt(3/2) (1, 1, 0), defect^2 = (6 - 2 sqrt 6) / (6 - 2 sqrt 3)."""
    square = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]], dtype=float)
    defect = (6 - 2 * math.sqrt(6)) / (6 - 2 * math.sqrt(3))
    share = (3 - defect * (3 - math.sqrt(3))) ** 2 / 9
    assert isoscore(square) == pytest.approx((3 * share - 1) / 2)
    assert share == pytest.approx(2 / 3)  # two of three dims are used, as the score is meant
    assert effective_rank(square) == pytest.approx(2.0)


def test_the_ends() -> None:
    even, single = gaussian(), one_direction()
    assert isoscore(even) > 0.98 and partition_isotropy(even) > 0.85 and effective_rank(even) > 7.9
    assert isoscore(single) == pytest.approx(0.0, abs=1e-9) and partition_isotropy(single) < 1e-6
    assert effective_rank(single) == pytest.approx(1.0)
    large = gaussian(20_000, 4, seed=3)
    assert partition_isotropy(large) > 0.93
    assert abs(dimension_contributions(even).sum()) < 1e-3


def test_uniformity_by_hand() -> None:
    opposite = np.array([[1.0, 0.0], [-3.0, 0.0]])
    assert uniformity(opposite) == pytest.approx(-8.0)
    assert uniformity(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])) == pytest.approx(
        math.log((1 + 2 * math.exp(-4)) / 3)
    )


def test_classes_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    ids = np.array([7, 7, 9, 9])
    assert class_cosines(vectors, ids) == pytest.approx((0.5, -0.5))
    # means (0.5, 0.5) and (-1, 0), overall (-0.25, 0.25); within 4 x 0.25
    assert fisher_ratio(vectors, ids) == pytest.approx(2 * (0.75**2 + 0.25**2) * 2 / 1.0)
    found = measure_geometry(vectors, ids)
    assert found.alignment == pytest.approx(1.0) and found.gap == pytest.approx(1.0)
    assert found.num_embeddings == 4 and found.dim == 2
    assert fisher_ratio(vectors[[0, 0, 2, 2]], ids) == math.inf


@pytest.mark.parametrize("seed", range(3))
def test_silhouette_is_scikit_learns(seed: int) -> None:
    vectors, ids = clusters(seed)
    ids[0] = 5  # alone in its class
    assert silhouette(vectors, ids) == pytest.approx(silhouette_score(vectors, ids, metric="cosine"), abs=1e-12)


def test_means_over_pairs_are_those_of_all_pairs() -> None:
    vectors, ids = clusters()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    upper = np.triu_indices(len(unit), 1)
    cosines, same = (unit @ unit.T)[upper], (ids[:, None] == ids[None, :])[upper]
    assert class_cosines(vectors, ids) == pytest.approx((cosines[same].mean(), cosines[~same].mean()))
    assert dimension_contributions(vectors).sum() == pytest.approx(cosines.mean())
    assert uniformity(vectors) == pytest.approx(np.log(np.exp(-2 * (2 - 2 * cosines)).mean()))


def test_cosines_without_the_top_dims() -> None:
    vectors = gaussian(300, 6)
    assert cosine_correlation(vectors, [0]) > 0.8
    vectors[:, 1] *= 100  # now all cosines are its sign
    assert cosine_correlation(vectors, [1]) < 0.1 < 0.99 < cosine_correlation(vectors, [0])
    found = measure_geometry(vectors + np.eye(6)[1] * 300, np.arange(300) % 3)
    assert found.cosine_without_top[0] < 0.5 and found.top_shares[0] > 0.95


def test_standardizing_takes_a_dominant_dim_away() -> None:
    vectors = gaussian(2000, 6)
    vectors[:, 0] = 1000 + 50 * vectors[:, 0]
    vectors[:, 5] = 3.0
    plain = standardized(vectors)
    assert abs(plain.mean(axis=0)).max() < 1e-9 and plain[:, :5].std(axis=0) == pytest.approx(np.ones(5))
    assert not plain[:, 5].any()
    assert isoscore(vectors) < 0.05 and isoscore(plain[:, :5]) > 0.98


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10.0))
@hypothesis_settings(max_examples=8)
def test_what_must_not_matter(seed: int, scale: float) -> None:
    """Turning, scaling, shifting, order of rows and names of classes, each where the measure does not see it."""
    vectors, ids = clusters(seed % 1000)
    if np.bincount(ids, minlength=4).min() < 2:
        return
    turned = vectors @ ortho_group.rvs(5, random_state=seed % 2**31)
    order = np.random.default_rng(seed).permutation(len(ids))
    first, others = (
        measure_geometry(vectors, ids),
        [measure_geometry(turned, ids), measure_geometry(scale * vectors, ids)],
    )
    others.append(measure_geometry(vectors[order], np.array(["d", "c", "b", "a"])[ids[order]]))
    same = ("mean_cosine", "isoscore", "effective_rank", "alignment", "uniformity", "intra_cosine", "inter_cosine",
            "fisher_ratio", "silhouette", "unit_partition_isotropy")  # fmt: skip
    for other in others:
        for name in same:
            assert getattr(other, name) == pytest.approx(getattr(first, name), rel=1e-6, abs=1e-8), name
    assert others[0].partition_isotropy == pytest.approx(first.partition_isotropy, rel=1e-6)  # sees the scale
    shifted = vectors + np.arange(5) * scale
    for measure in (isoscore, effective_rank):
        assert measure(shifted) == pytest.approx(measure(vectors), rel=1e-6)
    assert fisher_ratio(shifted, ids) == pytest.approx(fisher_ratio(vectors, ids), rel=1e-6)
    permuted = dimension_contributions(vectors[:, ::-1])
    np.testing.assert_allclose(permuted[::-1], dimension_contributions(vectors), atol=1e-12)


def test_random_classes_are_no_classes() -> None:
    found = measure_geometry(gaussian(3000, 6), np.random.default_rng(1).integers(5, size=3000))
    assert abs(found.gap) < 0.01 and abs(found.silhouette) < 0.02 and found.fisher_ratio < 0.01


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected \(embeddings, dim\)"):
        isoscore(np.ones(3))
    with pytest.raises(DataError, match="one class each"):
        silhouette(np.eye(3), [0, 1])
    with pytest.raises(DataError, match="at least two classes"):
        measure_geometry(np.eye(3), [0, 0, 0])
    with pytest.raises(NumericsError, match="embedding 1 is zero"):
        uniformity(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(NumericsError, match="embedding 1 is not finite"):
        isoscore(np.array([[1.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(NumericsError, match="They collapsed"):
        effective_rank(np.ones((4, 3)))
