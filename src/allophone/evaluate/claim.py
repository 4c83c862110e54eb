"""What a paper claims as an experiment: scores of its arms, comparisons between them, and the verdict as it falls.

An arm is one way of training (or a row that is not trained: chance, filter bank, random encoder); a condition is what
it is scored under (a language, a noise level). Observations are kept item by item, so that every interval can be
computed again from one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from allophone.errors import DataError
from allophone.metrics.intervals import Interval, combined_bootstrap

UNTRAINED = ("chance", "filter bank", "random encoder")
"""Rows of every table that are not trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How a measure is to be read."""

    measure: str
    """Its key in observations."""
    title: str
    unit: str
    """``points`` for percent, ``nats``."""
    factor: float
    """From the ratio of sums to ``unit``."""
    higher_is_better: bool
    explanation: str
    """One plain sentence."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """One arm under one condition with one seed."""

    arm: str
    measure: str
    condition: str
    seed: int
    items: tuple[str, ...]
    """What was scored; the same in all arms."""
    numerators: NDArray[np.float64]
    """Errors, hits or losses. Shape ``(items,)``."""
    denominators: NDArray[np.float64]
    """Characters, queries or predictions. Shape ``(items,)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two arms under some conditions."""

    name: str
    arm: str
    baseline: str
    measure: str
    conditions: tuple[str, ...]
    combine: Literal["mean", "worst"] = "mean"
    """Over the conditions: mean of their rates, or the worst of them in each arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What a contrast came out as."""

    contrast: Contrast
    unit: str
    """Of the measure."""
    improvement: Interval
    """Of the arm over the baseline, in the measure's unit; positive = the arm is better."""
    seeds: int

    @property
    def holds(self) -> bool | None:
        """True: the arm is better; False: it is worse; None: the interval contains zero."""
        return self.improvement.low > 0 if self.improvement.excludes_zero else None

    def __str__(self) -> str:
        """``+1.2 points (-0.3 to +2.6)``; positive = better than the baseline."""
        found, decimals = self.improvement, digits(self.unit)
        return f"{found.value:+.{decimals}f} {self.unit} ({found.low:+.{decimals}f} to {found.high:+.{decimals}f})"


def digits(unit: str) -> int:
    """Decimals that a value in this unit is shown with."""
    return 3 if unit == "nats" else 1


def effect(observations: Sequence[Observation], contrast: Contrast, scale: Scale, *, resamples: int = 1000) -> Effect:
    """Compare two arms, paired by item and seed.

    Raises:
        DataError: An arm lacks a condition, or arms were scored on different items or seeds.
    """
    sides = [
        [_cell(observations, arm, contrast.measure, condition) for condition in contrast.conditions]
        for arm in (contrast.arm, contrast.baseline)
    ]
    for one, other in zip(*sides, strict=True):
        if one[0].items != other[0].items or [o.seed for o in one] != [o.seed for o in other]:
            raise DataError(
                f"{contrast.name}: {contrast.arm!r} and {contrast.baseline!r} were scored on different items or seeds "
                f"under {one[0].condition!r}; score both on the same."
            )
    numbers: dict[tuple[str, ...], int] = {}
    found = combined_bootstrap(
        [_stack(one) for one in sides[0]],
        [_stack(one) for one in sides[1]],
        _combination(contrast.combine, scale),
        item_sets=[numbers.setdefault(one[0].items, len(numbers)) for one in sides[0]],
        resamples=resamples,
    )
    if not scale.higher_is_better:
        found = Interval(-found.value, -found.high, -found.low, found.n)
    return Effect(contrast=contrast, unit=scale.unit, improvement=found.scaled(scale.factor), seeds=len(sides[0][0]))


def level(
    observations: Sequence[Observation], arm: str, scale: Scale, conditions: Sequence[str], *, resamples: int = 1000
) -> Interval | None:
    """Mean of an arm's rates over conditions, in the measure's unit; None where it was not scored under all."""
    present = {one.condition for one in observations if (one.arm, one.measure) == (arm, scale.measure)}
    if not set(conditions) <= present:
        return None
    cells = [_stack(_cell(observations, arm, scale.measure, condition)) for condition in conditions]
    return combined_bootstrap(cells, None, _combination("mean", scale), resamples=resamples).scaled(scale.factor)


def _combination(kind: str, scale: Scale) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    if kind == "mean":
        return lambda rates: rates.mean(axis=1)
    return (lambda rates: rates.min(axis=1)) if scale.higher_is_better else (lambda rates: rates.max(axis=1))


def _cell(observations: Sequence[Observation], arm: str, measure: str, condition: str) -> list[Observation]:
    """Seeds of one cell, in order."""
    found = [one for one in observations if (one.arm, one.measure, one.condition) == (arm, measure, condition)]
    if not found:
        raise DataError(f"{arm!r} was not scored by {measure!r} under {condition!r}. Run that arm again.")
    found.sort(key=lambda one: one.seed)
    if any(one.items != found[0].items for one in found) or len({one.seed for one in found}) < len(found):
        raise DataError(f"{arm!r} under {condition!r}: a seed occurs twice, or seeds were scored on different items.")
    return found


def _stack(cell: Sequence[Observation]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.stack([one.numerators for one in cell]), np.stack([one.denominators for one in cell])


_KEYS = ("arm", "measure", "condition", "seed")
_COLUMNS = (*_KEYS, "item", "numerators", "denominators")


def save_observations(observations: Sequence[Observation], path: Path) -> None:
    """Write one Parquet file, a row an item; whole or not at all."""
    columns: dict[str, list[object]] = {name: [] for name in _COLUMNS}
    for one in observations:
        for name in _KEYS:
            columns[name] += [getattr(one, name)] * len(one.items)
        columns["item"] += one.items
        columns["numerators"] += one.numerators.tolist()
        columns["denominators"] += one.denominators.tolist()
    partial = path.with_name(f".{path.name}")
    pq.write_table(pa.table(columns), partial)
    partial.replace(path)


def load_observations(path: Path) -> list[Observation]:
    """Read what :func:`save_observations` wrote.

    Raises:
        DataError: The file is missing, damaged or no such table.
    """
    try:
        rows = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"{path}: cannot be read as observations: {error}. Delete it and run again.") from error
    cells: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["arm"], row["measure"], row["condition"], row["seed"]), []).append(row)
    return [
        Observation(
            arm=arm,
            measure=measure,
            condition=condition,
            seed=seed,
            items=tuple(str(row["item"]) for row in members),
            numerators=np.array([row["numerators"] for row in members], dtype=np.float64),
            denominators=np.array([row["denominators"] for row in members], dtype=np.float64),
        )
        for (arm, measure, condition, seed), members in cells.items()
    ]
