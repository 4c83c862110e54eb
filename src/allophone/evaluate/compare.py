"""Models side by side: one table a measure, every pair with its interval, and which differences are real.

Every pair of models is compared on each measure and language by a bootstrap that draws seeds and items (groups of one
content together) for both at once. Many comparisons make some look clear by luck; so a difference is called *real* only
where its p-value, corrected by Holm over all comparisons of the call, is below the level.

Source: Holm 1979 (A simple sequentially rejective multiple test procedure); Efron and Tibshirani 1993 (bootstrap).
A choice of ours, not of a paper: the family is everything compared in one call, over pairs, measures and languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from allophone.errors import DataError
from allophone.evaluate.measurements import MEASURES, MIN_ITEMS, Measurement, System, scores
from allophone.evaluate.report_tables import bounds, language_name, number
from allophone.evaluate.result import Result, ResultTable, Signature, result_from_interval, tabulate
from allophone.metrics.intervals import Interval, paired_difference

LEVEL = 0.05
"""Share of calls on equal models in which anything is called real."""
RESAMPLES = 2000
MODEL: System = "before"
"""System under which an evaluation of one model stands."""
CONTROLS: tuple[System, ...] = ("chance", "filter bank")
"""Rows that are the same whatever the model."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contender:
    """A model with what was measured of it."""

    name: str
    signature: Signature
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two models on one measure and language."""

    measure: str
    language: str
    first: str
    second: str
    difference: Interval
    """``first - second`` in the measure's unit, 95 %, before any correction."""
    p: float
    """Of no difference, alone."""
    corrected: float
    """The same after Holm over all comparisons of the call."""
    better: str | None
    """The model that is really better; None where that cannot be said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Tables and differences."""

    tables: Mapping[str, ResultTable]
    """Measure to a table of models by languages, controls first."""
    differences: tuple[Difference, ...]
    level: float

    @property
    def real(self) -> tuple[Difference, ...]:
        """Differences that stand the correction."""
        return tuple(one for one in self.differences if one.better is not None)

    def markdown(self) -> str:
        """Tables, then the real differences, then the others."""
        parts = []
        for measure, table in self.tables.items():
            told = MEASURES[measure]
            parts.append(f"### {told.title}\n\n{told.explanation}\n\n{table.markdown()}")
        real, rest = self.real, [one for one in self.differences if one.better is None]
        parts.append(
            f"### Differences\n\n{len(real)} of {len(self.differences)} comparisons are real: p < {self.level:g} after "
            "Holm's correction over all of them (paired bootstrap over items and seeds). Ranges are 95 % each."
        )
        lines = [f"- {_sentence(one)}" for one in real]
        lines += [f"- not decided: {_sentence(one)}" for one in rest]
        return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def compare(contenders: Sequence[Contender], *, level: float = LEVEL, seed: int = 0) -> Comparison:
    """Put models side by side.

    Args:
        contenders: At least two, measured on the same data with the same settings and seeds.
        level: Chance of calling anything real where all models are equal.
        seed: Of the resampling.

    Raises:
        DataError: Fewer than two models, two of one name, or models that cannot be compared; nothing in common.
    """
    names = [one.name for one in contenders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(f"compare: models {names}; expected at least two, each with a name of its own.")
    tables = _tables(contenders)
    cells = {one.name: _cells(one) for one in contenders}
    found = []
    for first, second in combinations(names, 2):
        for key in [key for key in cells[first] if key in cells[second]]:
            found.append((key, first, second, *_pair(key, cells[first][key], cells[second][key], seed)))
    if not found:
        raise DataError(
            f"compare: {', '.join(names)} have no measure of a language in common. Evaluate all on one corpus."
        )
    order = {key: place for place, key in enumerate(MEASURES)}
    found.sort(key=lambda entry: (order[entry[0][0]], entry[0][1]))
    corrected = holm([entry[4] for entry in found])
    differences = tuple(
        Difference(
            measure=measure,
            language=language,
            first=first,
            second=second,
            difference=interval,
            p=p,
            corrected=q,
            better=_better(measure, first, second, interval) if q < level and interval.n >= MIN_ITEMS else None,
        )
        for ((measure, language), first, second, interval, p), q in zip(found, corrected, strict=True)
    )
    return Comparison(tables=tables, differences=differences, level=level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction, in the order given: each p times the number of those not smaller, never falling, at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = raised
    return [float(p) for p in corrected]


def _cells(contender: Contender) -> dict[tuple[str, str], list[Measurement]]:
    """The model's own measurements by measure and language, in order of seed."""
    cells: dict[tuple[str, str], list[Measurement]] = {}
    for one in sorted(contender.measurements, key=lambda one: one.seed):
        if one.system == MODEL:
            cells.setdefault((one.measure, one.language), []).append(one)
    return cells


def _pair(
    key: tuple[str, str], first: Sequence[Measurement], second: Sequence[Measurement], seed: int
) -> tuple[Interval, float]:
    """Difference in the measure's unit, and p."""
    if first[0].items != second[0].items or [one.seed for one in first] != [one.seed for one in second]:
        raise DataError(
            f"compare: {'/'.join(key)} was scored on {len(first[0].items)} items with seeds "
            f"{[one.seed for one in first]} and on {len(second[0].items)} with {[one.seed for one in second]}; "
            "expected the same items and seeds. Evaluate both models with the same corpus, suite and --seeds."
        )
    sides = [
        [np.stack([getattr(one, part) for one in side]) for part in ("numerators", "denominators")]
        for side in (first, second)
    ]
    interval, p = paired_difference(
        sides[0][0],
        sides[1][0],
        sides[0][1],
        second_weights=sides[1][1],
        groups=first[0].groups or None,
        resamples=RESAMPLES,
        seed=seed,
    )
    return interval.scaled(MEASURES[key[0]].scale), p


def _better(measure: str, first: str, second: str, difference: Interval) -> str:
    return first if (difference.value > 0) == MEASURES[measure].higher_is_better else second


def _tables(contenders: Sequence[Contender]) -> dict[str, ResultTable]:
    """One table a measure; :func:`tabulate` refuses models whose signatures differ in more than the model."""
    rows: dict[str, dict[str, list[Result]]] = {}
    for one in contenders:
        for system in (*CONTROLS, MODEL):
            name = one.name if system == MODEL else system
            for measure, results in _results(one, system).items():
                rows.setdefault(measure, {}).setdefault(name, results)
    ordered = [measure for measure in MEASURES if measure in rows]
    names = [*CONTROLS, *(one.name for one in contenders)]
    return {m: tabulate({name: rows[m][name] for name in names if name in rows[m]}) for m in ordered}


def _results(contender: Contender, system: System) -> dict[str, list[Result]]:
    members: Iterable[Measurement] = [one for one in contender.measurements if one.system == system]
    seeds = tuple(sorted({one.seed for one in members}))
    found: dict[str, list[Result]] = {}
    for score in scores(members):
        measure = MEASURES[score.measure]
        result = result_from_interval(
            f"{language_name(score.language)} ({score.language})",
            score.interval,
            unit="%" if measure.unit == "percent" else measure.unit,
            higher_is_better=measure.higher_is_better,
            signature=contender.signature,
            seeds=seeds,
        )
        found.setdefault(score.measure, []).append(result)
    return found


def _sentence(one: Difference) -> str:
    """``A beats B in Bulgarian, character error: −3.1 (−4.0 to −2.2), p = 0.001``."""
    unit = MEASURES[one.measure].unit
    loser = one.second if one.better == one.first else one.first
    who = f"**{one.better}** is better than {loser}" if one.better else f"{one.first} and {one.second}"
    where = f"{language_name(one.language)}, {MEASURES[one.measure].title[0].lower()}{MEASURES[one.measure].title[1:]}"
    size = f"{one.first} − {one.second} = {number(one.difference.value, unit)} ({bounds(one.difference, unit)})"
    return f"{who} in {where}: {size}, corrected p = {one.corrected:.2g}"
