"""Bootstrap intervals of means and rates: over items, over groups of items, over seeds, and of paired differences.

Every score here is a sum over items divided by a sum over items (hits / queries, errors / characters), so a resample
is a vector of counts and all resamples are one matrix product. Scores of another form use :func:`bootstrap_statistic`.

Shape legend: S seeds, N items, G groups, R resamples.
Source: Efron and Tibshirani 1993, percentile intervals, the resampled unit being the group (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.seeding import numpy_generator

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the bounds that resampling gives it."""

    value: float
    """The score on all items and seeds, not resampled."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    n: int
    """Independent units that were resampled: groups where groups were given, items otherwise."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit, such as percent for a ``factor`` of 100 (which must be positive)."""
        return Interval(self.value * factor, self.low * factor, self.high * factor, self.n)


def bootstrap(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of ``sum(values) / sum(weights)``.

    With several seeds, each resample draws seeds and items, both with replacement; every drawn seed is scored on the
    same drawn items, and the score is the ratio of the sums over all of them.

    Args:
        values: Hits or errors, shape ``(N,)`` or ``(S, N)`` for S seeds.
        weights: Denominators, such as reference lengths; broadcast to ``values``. None: 1 each, a mean.
        groups: N labels; items of one label (speaker, content) are drawn together. None: each item alone.
        resamples: R.
        confidence: Share of resamples inside the bounds.
        seed: Of the resampling.

    Raises:
        DataError: Shapes disagree, there are no items, or all weights are zero.
        NumericsError: A value or weight is not finite.
        ConfigError: ``resamples`` or ``confidence`` is out of range.
    """
    numerators, denominators = _prepare(values, weights)
    group_ids = _group_ids(groups, numerators.shape[1])
    numerators, denominators = _sum_groups(numerators, group_ids), _sum_groups(denominators, group_ids)
    draws = _draw(*numerators.shape, resamples=resamples, confidence=confidence, seed=seed)
    samples = draws.ratio(numerators, denominators)
    return _interval(float(numerators.sum() / denominators.sum()), samples, confidence, numerators.shape[1])


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    second_weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the difference of two scores on the same items, ``first - second``.

    Both are scored on the same drawn items and the same drawn seeds, so what makes an item hard cancels.

    Args:
        first: Hits or errors, shape ``(N,)`` or ``(S, N)``.
        second: The same items of the other system; a single row is repeated for all seeds of the other.
        weights: Denominators, broadcast to ``first``. None: 1 each.
        second_weights: Denominators of ``second`` where they differ. None: ``weights``.
        groups: N labels of items that are drawn together.
        resamples: R.
        confidence: Share of resamples inside the bounds.
        seed: Of the resampling.

    Raises:
        DataError: The items or the numbers of seeds disagree.
        NumericsError: A value or weight is not finite.
        ConfigError: ``resamples`` or ``confidence`` is out of range.
    """
    options = (weights, second_weights, groups, resamples, confidence, seed)
    value, samples, n = _paired_samples(first, second, *options)
    return _interval(value, samples, confidence, n)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    second_weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, float]:
    """:func:`paired_bootstrap`, and the p-value of no difference.

    The p-value is that of a t test whose standard error is the spread of the resamples times sqrt(n / (n - 1)), which
    is what the bootstrap leaves out, with n - 1 degrees of freedom. Counting resamples beyond zero would need many
    thousands of them before a correction for several comparisons could call anything real. It is never below
    2^(1 - n), the least that flipping the signs of n differences, which assumes no distribution, could give.

    Returns:
        The interval, and p between 2^(1 - n) and 1; 1 where there is one item or the two never differ.

    Raises:
        DataError: The items or the numbers of seeds disagree.
        NumericsError: A value or weight is not finite.
        ConfigError: ``resamples`` or ``confidence`` is out of range.
    """
    options = (weights, second_weights, groups, resamples, confidence, seed)
    value, samples, n = _paired_samples(first, second, *options)
    interval = _interval(value, samples, confidence, n)
    if n < 2 or value == 0:
        return interval, 1.0
    error = float(np.nanstd(samples)) * (n / (n - 1)) ** 0.5
    p = 2.0 * float(stdtr(n - 1, -abs(value) / error)) if error > 0 else 0.0
    return interval, max(p, 2.0 ** -min(n - 1, 1000))  # beyond, a float would be 0


def _paired_samples(
    first: ArrayLike,
    second: ArrayLike,
    weights: ArrayLike | None,
    second_weights: ArrayLike | None,
    groups: Sequence[Hashable] | None,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, Array, int]:
    """Difference, its resamples ``(R,)``, and what was drawn."""
    pair = [_prepare(first, weights), _prepare(second, weights if second_weights is None else second_weights)]
    (seeds_a, items_a), (seeds_b, items_b) = pair[0][0].shape, pair[1][0].shape
    if items_a != items_b or (seeds_a != seeds_b and 1 not in (seeds_a, seeds_b)):
        raise DataError(
            f"paired_bootstrap: first is {seeds_a} seeds x {items_a} items, second {seeds_b} x {items_b}; "
            "both must hold the same items in the same order, and as many seeds or one."
        )
    num_seeds = max(seeds_a, seeds_b)
    group_ids = _group_ids(groups, items_a)
    shape = num_seeds, group_ids.max() + 1
    # Copied, so that a row repeated for all seeds adds up as its copies do, to the last bit.
    sums = [[np.ascontiguousarray(np.broadcast_to(_sum_groups(x, group_ids), shape)) for x in one] for one in pair]
    draws = _draw(*sums[0][0].shape, resamples=resamples, confidence=confidence, seed=seed)
    samples = draws.ratio(*sums[0]) - draws.ratio(*sums[1])
    value = float(sums[0][0].sum() / sums[0][1].sum() - sums[1][0].sum() / sums[1][1].sum())
    return value, samples, sums[0][0].shape[1]


def combined_bootstrap(
    first: Sequence[tuple[ArrayLike, ArrayLike]],
    second: Sequence[tuple[ArrayLike, ArrayLike]] | None,
    combine: Callable[[Array], Array],
    *,
    item_sets: Sequence[int] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of a score that is put together from several rates, such as the mean or the worst over languages.

    Each resample draws seeds once and items within every set, scores all sets and combines them; with ``second`` both
    systems are scored on the same draws, and the interval is that of ``first - second``.

    Args:
        first: Numerators and denominators of each of C sets, shape ``(S, N)`` or ``(N,)``; N differs between sets.
        second: The same of the other system, on the same items; None = the score of ``first`` alone.
        combine: Rates of shape ``(R, C)`` to scores of shape ``(R,)``.
        item_sets: A number for each set; sets of the same number hold the same items (one clip under several noises)
            and share their draws. None: all differ.
        resamples: R.
        confidence: Share of resamples inside the bounds.
        seed: Of the resampling.

    Raises:
        DataError: Sets, items or numbers of seeds disagree.
        NumericsError: A value is not finite.
        ConfigError: ``resamples`` or ``confidence`` is out of range.
    """
    systems = [[_prepare(*one) for one in side] for side in (first, second or ())]
    sets = list(range(len(first))) if item_sets is None else list(item_sets)
    if not sets or len(sets) != len(first) or (second is not None and len(second) != len(first)):
        raise DataError(
            f"combined_bootstrap: {len(first)} sets, {len(second or ())} of the other system, {len(sets)} set numbers; "
            "expected as many of each, at least one."
        )
    seeds = max(len(numerators) for side in systems for numerators, _ in side)
    counts: dict[int, int] = {}
    for side in systems:
        for number, (numerators, _) in zip(sets, side, strict=False):
            if len(numerators) not in (1, seeds) or counts.setdefault(number, numerators.shape[1]) != len(numerators.T):
                raise DataError(
                    f"combined_bootstrap: a set of {numerators.shape} (seeds, items) beside {counts[number]} items and "
                    f"{seeds} seeds; both systems must be scored on the same items with as many seeds or one."
                )
    drawn_seeds = _draw(seeds, 1, resamples=resamples, confidence=confidence, seed=seed).seeds
    draws = {
        number: _Draws(
            drawn_seeds, _draw(1, count, resamples=resamples, confidence=confidence, seed=seed + 1 + number).groups
        )
        for number, count in counts.items()
    }
    values, samples = [], []
    for side in systems if second is not None else systems[:1]:
        full = [[np.broadcast_to(part, (seeds, part.shape[1])) for part in one] for one in side]
        values.append(float(combine(np.array([[one[0].sum() / one[1].sum() for one in full]]))[0]))
        samples.append(
            combine(np.stack([draws[number].ratio(*one) for number, one in zip(sets, full, strict=True)], axis=1))
        )
    difference = samples[0] - samples[1] if second is not None else samples[0]
    value = values[0] - values[1] if second is not None else values[0]
    return _interval(value, difference, confidence, sum(counts.values()))


def bootstrap_statistic(
    count: int,
    statistic: Callable[[NDArray[np.int64]], float],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of any score, computed anew on every resample (slow; use :func:`bootstrap` for means and rates).

    Args:
        count: N.
        statistic: Score of the items with these indices (shape ``(drawn,)``, int64, repeats allowed).
        groups: N labels of items that are drawn together.
        resamples: R.
        confidence: Share of resamples inside the bounds.
        seed: Of the resampling.

    Raises:
        DataError: There are no items, or not one group label an item.
        NumericsError: ``statistic`` is not finite on a resample.
        ConfigError: ``resamples`` or ``confidence`` is out of range.
    """
    group_ids = _group_ids(groups, count)
    num_groups = int(group_ids.max()) + 1
    members = np.split(np.argsort(group_ids, kind="stable"), np.cumsum(np.bincount(group_ids))[:-1])
    _check_options(resamples, confidence)
    generator = numpy_generator(seed, "bootstrap-statistic")
    samples = np.empty(resamples)
    for row in range(resamples):
        drawn = generator.integers(num_groups, size=num_groups)
        samples[row] = statistic(np.concatenate([members[group] for group in drawn]))
    return _interval(float(statistic(np.arange(count))), samples, confidence, num_groups)


@dataclass(frozen=True, slots=True, eq=False)
class _Draws:
    seeds: Array
    """How often each seed was drawn, shape ``(R, S)``."""
    groups: Array
    """How often each group was drawn, shape ``(R, G)``."""

    def ratio(self, numerators: Array, denominators: Array) -> Array:
        """Score of each resample from sums a seed and group, shape ``(S, G)`` -> ``(R,)``."""
        above = (self.seeds * (self.groups @ numerators.T)).sum(axis=1)
        below = (self.seeds * (self.groups @ denominators.T)).sum(axis=1)
        # A resample may hold only items of weight 0 (empty references); it says nothing and is left out later.
        ratios: Array = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return ratios


@lru_cache(maxsize=8)
def _draw(num_seeds: int, num_groups: int, *, resamples: int, confidence: float, seed: int) -> _Draws:
    _check_options(resamples, confidence)
    generator = numpy_generator(seed, "bootstrap")
    groups = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=resamples)
    seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    return _Draws(seeds.astype(float), groups.astype(float))


def _check_options(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"bootstrap: resamples {resamples} and confidence {confidence}; expected at least 1, and between 0 and 1."
        )


def _prepare(values: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    numerators = np.atleast_2d(np.asarray(values, dtype=float))
    given = np.ones(1) if weights is None else np.asarray(weights, dtype=float)
    try:
        denominators = np.broadcast_to(given, numerators.shape)
    except ValueError as error:
        raise DataError(
            f"bootstrap: weights {given.shape} do not fit values {numerators.shape} (seeds, items)."
        ) from error
    if numerators.ndim != 2 or numerators.shape[1] == 0:
        raise DataError(f"bootstrap: values have shape {numerators.shape}; expected (items,) or (seeds, items).")
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()):
        raise NumericsError("bootstrap: a value or weight is NaN or infinite; find the item that produced it.")
    if denominators.sum() <= 0:
        raise DataError("bootstrap: the weights add up to nothing, so there is nothing to divide by.")
    return numerators, denominators


def _group_ids(groups: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    if count == 0 or (groups is not None and len(groups) != count):
        raise DataError(f"bootstrap: {count} items but {len(groups or ())} group labels; expected one each.")
    if groups is None:
        return np.arange(count)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _sum_groups(values: Array, group_ids: NDArray[np.int64]) -> Array:
    """Sums a group. Shape ``(S, N)`` -> ``(S, G)``."""
    return np.stack([np.bincount(group_ids, weights=row) for row in values])


def _interval(value: float, samples: Array, confidence: float, n: int) -> Interval:
    kept = samples[~np.isnan(samples)]
    if len(kept) < len(samples) / 2 or not np.isfinite(kept).all():
        raise NumericsError(f"bootstrap: only {len(kept)} of {len(samples)} resamples have a finite score.")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), n)
