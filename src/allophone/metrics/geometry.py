"""How embeddings fill their space: by a few dims or all of them, in one cone or all directions, classes apart or not.

Means over pairs are over all pairs, exactly, from sums; only correlations of cosines draw pairs. Nothing here is
centered or scaled unless it says so; :func:`standardized` gives every dim mean 0 and variance 1 first.
Shape letters: N embeddings, D dim, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allophone.errors import DataError, NumericsError
from allophone.seeding import numpy_generator

Array = NDArray[np.float64]

PAIRS = 20_000
"""Pairs that correlations of cosines are over."""
CHUNK = 2048
"""Rows whose distances to all others are in memory at once."""
DEVIATION_FLOOR = 1e-12
"""Below this standard deviation a dim counts as constant, and becomes 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Everything that is measured of one set of embeddings."""

    mean_cosine: float
    """Over all pairs."""
    top_contributions: tuple[float, float, float]
    """What the 1, 2 and 3 most contributing dims add to the mean cosine, as it is."""
    top_shares: tuple[float, float, float]
    """The same over the mean cosine; without meaning where that is near 0."""
    cosine_without_top: tuple[float, float, float]
    """Correlation of the pairs' cosines with those without the 1, 2 and 3 most contributing dims."""
    partition_isotropy: float
    """0 (one direction) to 1 (all alike); falls with the length of the vectors, to 0 for long ones."""
    unit_partition_isotropy: float
    """The same of the vectors scaled to length 1."""
    isoscore: float
    """0 (one direction) to 1 (all alike)."""
    effective_rank: float
    """1 to D."""
    alignment: float
    """Mean squared distance of two of a class, on the sphere; 0 (one point) to 4."""
    uniformity: float
    """Logarithm of the mean Gaussian potential of two, on the sphere; 0 (one point) and lower."""
    intra_cosine: float
    """Mean over pairs of one class."""
    inter_cosine: float
    """Mean over pairs of two classes."""
    fisher_ratio: float
    """Scatter between classes over that within."""
    silhouette: float
    """-1 to 1, of cosine distances; how much closer an embedding is to its class than to the next."""
    num_embeddings: int
    """N; the isotropy scores want many more than ``dim``."""
    dim: int
    """D."""

    @property
    def gap(self) -> float:
        """By how much two of a class are more similar than two of different ones."""
        return self.intra_cosine - self.inter_cosine


def measure_geometry(embeddings: ArrayLike, classes: ArrayLike, *, seed: int = 0) -> Geometry:
    """All measures of this file.

    Args:
        embeddings: Shape ``(N, D)``.
        classes: Class of each, any values. Shape ``(N,)``; at least two of them, one of which has two embeddings.
        seed: Of the pairs behind correlations.

    Raises:
        DataError: Shapes disagree, or there are too few embeddings or classes.
        NumericsError: A value is not finite, or an embedding is zero.
    """
    vectors, ids = _checked(embeddings, classes)
    contributions = dimension_contributions(vectors)
    order = np.argsort(-contributions, kind="stable")
    top = [float(contributions[order[:count]].sum()) for count in (1, 2, 3)]
    total = float(contributions.sum())
    without = [cosine_correlation(vectors, order[:count], seed=seed) for count in (1, 2, 3)]
    intra, inter = class_cosines(vectors, ids)
    return Geometry(
        mean_cosine=total,
        top_contributions=(top[0], top[1], top[2]),
        top_shares=(top[0] / total, top[1] / total, top[2] / total) if total else (np.nan, np.nan, np.nan),
        cosine_without_top=(without[0], without[1], without[2]),
        partition_isotropy=partition_isotropy(vectors),
        unit_partition_isotropy=partition_isotropy(_unit(vectors)),
        isoscore=isoscore(vectors),
        effective_rank=effective_rank(vectors),
        alignment=2 - 2 * intra,
        uniformity=uniformity(vectors),
        intra_cosine=intra,
        inter_cosine=inter,
        fisher_ratio=fisher_ratio(vectors, ids),
        silhouette=silhouette(vectors, ids),
        num_embeddings=len(vectors),
        dim=vectors.shape[1],
    )


def standardized(embeddings: ArrayLike) -> Array:
    """Every dim with mean 0 and variance 1 over the embeddings; a constant one becomes 0. Shape ``(N, D)``."""
    vectors = _vectors(embeddings)
    deviation = vectors.std(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > DEVIATION_FLOOR)
    result: Array = (vectors - vectors.mean(axis=0)) * scale
    return result


def dimension_contributions(embeddings: ArrayLike) -> Array:
    """What each dim adds to the mean cosine of two different embeddings.

    Returns:
        Shape ``(D,)``; they add up to the mean cosine.

    Source:
        Timkey and van Schijndel 2021, arXiv:2109.04404, equations 2 to 4. Deviation: over all pairs instead of some.
    """
    unit = _unit(_vectors(embeddings))
    count = len(unit)
    sums, squares = unit.sum(axis=0), (unit * unit).sum(axis=0)
    result: Array = (sums * sums - squares) / (count * (count - 1))
    return result


def cosine_correlation(embeddings: ArrayLike, removed: ArrayLike, *, seed: int = 0) -> float:
    """Pearson correlation, over drawn pairs, of the cosine with that without some dims; NaN where one is constant.

    Args:
        embeddings: Shape ``(N, D)``.
        removed: Indices of the dims that are left out.
        seed: Of the pairs.
    """
    vectors = _vectors(embeddings)
    kept = np.ones(vectors.shape[1], dtype=bool)
    kept[np.asarray(removed)] = False
    first, second = _draw_pairs(len(vectors), seed)
    cosines = []
    for values in (vectors, vectors[:, kept]):
        norms = np.linalg.norm(values, axis=1)
        products = np.einsum("nd,nd->n", values[first], values[second])
        cosines.append(products / np.maximum(norms[first] * norms[second], np.finfo(float).tiny))
    centered = [cosine - cosine.mean() for cosine in cosines]
    scale = float(np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return float((centered[0] * centered[1]).sum() / scale) if scale > 0 else float("nan")


def partition_isotropy(embeddings: ArrayLike) -> float:
    """Least over largest partition function ``sum_n exp(c . w_n)`` of the directions c of the matrix of embeddings.

    Source:
        Mu and Viswanath 2018, arXiv:1702.01417, section 2.1: c runs over the eigenvectors of W^T W. Their sign is not
        defined, so both are taken.
    """
    vectors = _vectors(embeddings)
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    projections = vectors @ np.concatenate([directions, -directions], axis=1)
    largest = projections.max(axis=0)
    logarithms = largest + np.log(np.exp(projections - largest).sum(axis=0))
    return float(np.exp(logarithms.min() - logarithms.max()))


def isoscore(embeddings: ArrayLike) -> float:
    """How evenly the variance spreads over the principal directions.

    Source:
        Rudman et al. 2022, arXiv:2108.07344, algorithm 1.
    """
    vectors = _vectors(embeddings)
    dim = vectors.shape[1]
    variances = _variances(vectors)
    if dim == 1:
        return 1.0
    scaled = np.sqrt(dim) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (dim - np.sqrt(dim)))
    share = (dim - defect**2 * (dim - np.sqrt(dim))) ** 2 / dim**2
    return float((dim * share - 1) / (dim - 1))


def effective_rank(embeddings: ArrayLike) -> float:
    """Exponential of the entropy of the singular values, which are made to add up to 1; of the centered embeddings.

    Source:
        Roy and Vetterli 2007, definition 1. Deviation: centered, so that a common offset is no direction.
    """
    shares = np.sqrt(_variances(_vectors(embeddings)))
    shares = shares / shares.sum()
    present = shares[shares > 0]
    return float(np.exp(-(present * np.log(present)).sum()))


def uniformity(embeddings: ArrayLike, scale: float = 2.0) -> float:
    """Logarithm of the mean of ``exp(-scale |x - y|^2)`` over all pairs of embeddings of length 1.

    Source:
        Wang and Isola 2020, arXiv:2005.10242, equation 2.
    """
    unit = _unit(_vectors(embeddings))
    total = 0.0
    for start in range(0, len(unit), CHUNK):
        total += float(np.exp(2 * scale * (unit[start : start + CHUNK] @ unit.T - 1)).sum())
    count = len(unit)
    return float(np.log((total - count) / (count * (count - 1))))


def class_cosines(embeddings: ArrayLike, classes: ArrayLike) -> tuple[float, float]:
    """Mean cosine over all pairs of one class, and over all pairs of two classes."""
    vectors, ids = _checked(embeddings, classes)
    unit = _unit(vectors)
    counts = np.bincount(ids)
    sums = _class_sums(unit, ids)
    within = float((sums * sums).sum()) - len(unit)
    every = float(unit.sum(axis=0) @ unit.sum(axis=0)) - len(unit)
    same = float((counts * (counts - 1)).sum())
    return within / same, (every - within) / (len(unit) * (len(unit) - 1) - same)


def fisher_ratio(embeddings: ArrayLike, classes: ArrayLike) -> float:
    """Trace of the scatter of class means over that around class means; infinite where the latter is 0."""
    vectors, ids = _checked(embeddings, classes)
    counts = np.bincount(ids)
    means = _class_sums(vectors, ids) / counts[:, None]
    between = float((counts * ((means - vectors.mean(axis=0)) ** 2).sum(axis=1)).sum())
    within = float(((vectors - means[ids]) ** 2).sum())
    return between / within if within > 0 else float("inf")


def silhouette(embeddings: ArrayLike, classes: ArrayLike) -> float:
    """Mean over embeddings of ``(b - a) / max(a, b)``: a the mean cosine distance to its class, b to the nearest other.

    The mean cosine distance to a class is that to its mean of unit vectors, so no distance between two is computed.

    Source:
        Rousseeuw 1987; an embedding alone in its class counts 0, as in scikit-learn.
    """
    vectors, ids = _checked(embeddings, classes)
    unit = _unit(vectors)
    counts = np.bincount(ids)
    to_class = unit @ _class_sums(unit, ids).T
    rows = np.arange(len(unit))
    own = np.maximum(counts[ids] - 1, 1)
    inside = 1 - (to_class[rows, ids] - 1) / own
    outside = 1 - to_class / counts
    outside[rows, ids] = np.inf
    nearest = outside.min(axis=1)
    larger = np.maximum(inside, nearest)
    scores = np.divide(nearest - inside, larger, out=np.zeros_like(inside), where=larger > 0)
    return float(np.where(counts[ids] > 1, scores, 0.0).mean())


def _variances(vectors: Array) -> Array:
    """Variances along the principal directions, none negative. Shape ``(D,)``."""
    centered = vectors - vectors.mean(axis=0)
    values = np.linalg.eigvalsh(centered.T @ centered / len(vectors))
    floor = max(float(values.max()), 0.0) * len(values) * np.finfo(float).eps
    if not values.max() > 0:
        raise NumericsError("geometry: all embeddings are equal, so no direction has any variance. They collapsed.")
    cleaned: Array = np.where(values > floor, values, 0.0)
    return cleaned


def _class_sums(values: Array, ids: NDArray[np.int64]) -> Array:
    """Shape ``(C, D)``."""
    sums = np.zeros((int(ids.max()) + 1, values.shape[1]))
    np.add.at(sums, ids, values)
    return sums


def _draw_pairs(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two different rows each, :data:`PAIRS` times."""
    generator = numpy_generator(seed, "geometry-pairs")
    first = generator.integers(count, size=PAIRS)
    return first, (first + generator.integers(1, count, size=PAIRS)) % count


def _unit(vectors: Array) -> Array:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise NumericsError(f"geometry: embedding {int(np.argmin(norms))} is zero, so it has no direction.")
    unit: Array = vectors / norms
    return unit


def _vectors(embeddings: ArrayLike) -> Array:
    vectors = np.asarray(embeddings, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] < 1:
        raise DataError(f"geometry: embeddings are {vectors.shape}; expected (embeddings, dim) with at least two.")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise NumericsError(f"geometry: embedding {row} is not finite; look for an empty utterance.")
    return vectors


def _checked(embeddings: ArrayLike, classes: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    vectors, labels = _vectors(embeddings), np.asarray(classes)
    if labels.shape != (len(vectors),):
        raise DataError(f"geometry: {len(vectors)} embeddings with classes {labels.shape}; expected one class each.")
    _, ids, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise DataError(
            f"geometry: {len(vectors)} embeddings of {len(counts)} classes; at least two classes are needed, and one "
            "of them with two embeddings."
        )
    return vectors, ids.reshape(-1).astype(np.int64)
