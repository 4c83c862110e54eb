"""What was measured, item by item, so that every table and interval can be computed again from one file.

A measurement is a numerator and a denominator for each item (an utterance, a query) of one measure, language, system
and seed. Rates are sums over sums; intervals draw seeds and items; changes are paired by item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from allophone.config import from_json, to_json
from allophone.errors import ConfigError, DataError, suggest
from allophone.evaluate.result import Signature
from allophone.metrics.intervals import Interval, bootstrap, paired_bootstrap

System = Literal["chance", "filter bank", "random encoder", "before", "head only", "after"]
SYSTEMS: tuple[System, ...] = get_args(System)
"""Rows of every table, in this order; ``head only`` is the control in which LoRA is left out."""

Verdict = Literal["better", "worse", "no clear change"]

MIN_ITEMS = 6
"""Items below which no verdict is given: with fewer, all pairs agree by chance oftener than one time in twenty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is to be read."""

    title: str
    """Short name for tables."""
    unit: str
    """``percent``, ``nats`` or ``hundredths``."""
    scale: float
    """Factor from the ratio of sums to ``unit``."""
    higher_is_better: bool
    """Direction."""
    explanation: str
    """One plain sentence for readers who do not program."""
    baseline: System = "before"
    """System that ``after`` is compared with."""


MEASURES: dict[str, Measure] = {
    "masked_loss_own_units": Measure(
        title="Masked prediction, its own units",
        unit="nats",
        scale=1.0,
        higher_is_better=False,
        explanation="Parts of a recording are hidden and the model guesses which sounds were there. Lower is better. "
        "The comparison is with a model in which only the output table was trained, for as many steps.",
        baseline="head only",
    ),
    "masked_loss_base_units": Measure(
        title="Masked prediction, the base's units",
        unit="nats",
        scale=1.0,
        higher_is_better=False,
        explanation="The same game with the sound inventory and output table of the original model. "
        "It shows whether the original model's own skill was kept.",
    ),
    "retrieval_dtw": Measure(
        title="Same prompt, other voice (frames)",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="A sentence spoken by one person is looked up among all sentences of another person. "
        "How often the first hit is the same sentence.",
    ),
    "retrieval_posteriors": Measure(
        title="Same prompt, other voice (unit posteriors)",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="The same search, on what the model believes the sound units to be. The comparison is with the old "
        "model under an equally trained new output table.",
        baseline="head only",
    ),
    "retrieval_mean": Measure(
        title="Same prompt, other voice (one average vector)",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="The same search with one averaged vector a recording, which forgets the order of sounds.",
    ),
    "character_error_all": Measure(
        title="Character error, all labelled clips",
        unit="percent",
        scale=100.0,
        higher_is_better=False,
        explanation="A very small reader is trained on the frozen model to write down what is said. "
        "Share of letters that are wrong on sentences it never saw.",
    ),
    "character_error_150": Measure(
        title="Character error, 150 labelled clips",
        unit="percent",
        scale=100.0,
        higher_is_better=False,
        explanation="The same with only 150 transcribed recordings to learn from.",
    ),
    "language_identification": Measure(
        title="Which language is it",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="How often a small classifier on the frozen model names the language. With one voice a language "
        "it may recognize the voice instead.",
    ),
    "language_neighbors": Measure(
        title="Which language is it (20 nearest clips)",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="The same, but nothing is trained: the 20 most similar recordings vote.",
    ),
    "language_gap": Measure(
        title="How far languages lie apart",
        unit="hundredths",
        scale=100.0,
        higher_is_better=True,
        explanation="By how much recordings of one language are more alike than those of two, as cosines. "
        "0 = not at all, 100 = as far as can be.",
    ),
    "unit_phones": Measure(
        title="Sounds told by units",
        unit="percent",
        scale=100.0,
        higher_is_better=True,
        explanation="Short stretches of sound are sorted into units; how often the unit tells which sound a linguist "
        "heard there, in sentences that were not used to learn it.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """One measure of one system on the items of one language, with one seed."""

    measure: str
    """Key of :data:`MEASURES`."""
    language: str
    """ISO 639-3 + script."""
    system: System
    """Row of the table."""
    seed: int
    """Of the training or the probe behind it."""
    items: tuple[str, ...]
    """What was scored; the same names in all systems of a measure and language."""
    numerators: NDArray[np.float64]
    """Hits, errors or loss sums. Shape ``(items,)``."""
    denominators: NDArray[np.float64]
    """Queries, characters or predictions. Shape ``(items,)``."""
    groups: tuple[str, ...] = ()
    """Content of each item; those of one content rise and fall together, so intervals draw them together. Empty: each
    item is drawn alone."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigError(f"Unknown measure {self.measure!r}. {suggest(self.measure, MEASURES)}")
        if self.system not in SYSTEMS:
            raise ConfigError(f"{self.measure}: unknown system {self.system!r}. {suggest(self.system, SYSTEMS)}")
        if not len(self.items) == len(self.numerators) == len(self.denominators) > 0:
            raise DataError(
                f"{self.measure}/{self.language}/{self.system}: {len(self.items)} items, {len(self.numerators)} "
                f"numerators, {len(self.denominators)} denominators; expected the same number, at least one."
            )
        if len(self.groups) not in (0, len(self.items)):
            raise DataError(
                f"{self.measure}/{self.language}/{self.system}: {len(self.items)} items, {len(self.groups)} groups; "
                "expected one an item, or none."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One cell of a table."""

    measure: str
    language: str
    system: System
    interval: Interval
    """In the measure's unit."""
    seeds: int
    """Seeds behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """``after`` minus the measure's baseline, on the same items."""

    measure: str
    language: str
    difference: Interval
    """In the measure's unit."""
    relative: Interval
    """Difference over the baseline's value, in percent, positive = better; NaN where that value is 0."""
    verdict: Verdict
    """On which side of zero the interval lies; ``no clear change`` below :data:`MIN_ITEMS` items."""
    seeds: int


def scores(measurements: Iterable[Measurement], *, resamples: int = 1000) -> list[Score]:
    """Every cell with its interval over items and seeds, in the order of measures, languages and systems."""
    cells = []
    for (measure, language, system), members in sorted(_grouped(measurements).items(), key=_order):
        numerators, denominators = _stack(members)
        groups = members[0].groups or None
        interval = bootstrap(numerators, denominators, groups=groups, resamples=resamples)
        scaled = interval.scaled(MEASURES[measure].scale)
        cells.append(Score(measure=measure, language=language, system=system, interval=scaled, seeds=len(members)))
    return cells


def changes(measurements: Iterable[Measurement], *, resamples: int = 1000) -> list[Change]:
    """What ``after`` changed, paired by item and seed, for every measure and language that has both systems.

    Raises:
        DataError: The two systems were scored on different items or seeds.
    """
    grouped = _grouped(measurements)
    found = []
    for (measure, language, system), after in sorted(grouped.items(), key=_order):
        before = grouped.get((measure, language, MEASURES[measure].baseline))
        if system != "after" or before is None:
            continue
        _check_paired(after, before)
        difference, relative = _compare(measure, _stack(after), _stack(before), after[0].groups, resamples)
        found.append(
            Change(
                measure=measure,
                language=language,
                difference=difference,
                relative=relative,
                verdict=_verdict(measure, difference),
                seeds=len(after),
            )
        )
    return found


def _compare(
    measure: str,
    after: tuple[NDArray, NDArray],
    before: tuple[NDArray, NDArray],
    groups: tuple[str, ...],
    resamples: int,
) -> tuple[Interval, Interval]:
    interval = paired_bootstrap(
        after[0], before[0], after[1], second_weights=before[1], groups=groups or None, resamples=resamples
    )
    level = float(before[0].sum() / before[1].sum())
    factor = 100.0 / level if level > 0 else float("nan")
    if MEASURES[measure].higher_is_better:
        relative = Interval(interval.value * factor, interval.low * factor, interval.high * factor, interval.n)
    else:
        relative = Interval(-interval.value * factor, -interval.high * factor, -interval.low * factor, interval.n)
    return interval.scaled(MEASURES[measure].scale), relative


def _verdict(measure: str, difference: Interval) -> Verdict:
    if difference.n < MIN_ITEMS or not difference.excludes_zero:
        return "no clear change"
    return "better" if (difference.value > 0) == MEASURES[measure].higher_is_better else "worse"


def _check_paired(after: Sequence[Measurement], before: Sequence[Measurement]) -> None:
    """Rows of equal length would be paired without a word, whatever they hold."""
    where = f"{after[0].measure}/{after[0].language}"
    if after[0].items != before[0].items:
        raise DataError(
            f"{where}: 'after' and {before[0].system!r} were scored on different items, or in another order; "
            "score both on the same list."
        )
    seeds = [[one.seed for one in members] for members in (after, before)]
    if seeds[0] != seeds[1] and min(map(len, seeds)) > 1:
        raise DataError(
            f"{where}: 'after' has seeds {seeds[0]}, {before[0].system!r} has {seeds[1]}; expected the same, or one."
        )


Key = tuple[str, str, System]


def _grouped(measurements: Iterable[Measurement]) -> dict[Key, list[Measurement]]:
    """Measurements of one cell, by seed; all must be of the same items."""
    cells: dict[Key, list[Measurement]] = {}
    for one in measurements:
        cells.setdefault((one.measure, one.language, one.system), []).append(one)
    for key, members in cells.items():
        members.sort(key=lambda one: one.seed)
        if any(one.items != members[0].items for one in members):
            raise DataError(f"{'/'.join(key)}: seeds were scored on different items; they cannot share a row.")
        if len({one.seed for one in members}) < len(members):
            raise DataError(f"{'/'.join(key)}: a seed occurs twice; was the same run given twice?")
    return cells


def _order(entry: tuple[Key, list[Measurement]]) -> tuple[int, str, int]:
    (measure, language, system), _ = entry
    return list(MEASURES).index(measure), language, SYSTEMS.index(system)


def _stack(members: Sequence[Measurement]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, both ``(seeds, items)``."""
    return np.stack([one.numerators for one in members]), np.stack([one.denominators for one in members])


def save_measurements(measurements: Sequence[Measurement], path: Path, signature: Signature | None = None) -> None:
    """Write one Parquet file, a row an item.

    Args:
        measurements: Of any measures, languages, systems and seeds.
        path: The file.
        signature: Of the model measured; it travels in the file's metadata.

    Raises:
        DataError: There is nothing to write.
    """
    if not measurements:
        raise DataError(f"{path}: no measurements to write; expected at least one. Was every measure left out?")
    columns: dict[str, list[Any]] = {name: [] for name in ("measure", "language", "system", "seed", "item", "group")}
    for one in measurements:
        for name in ("measure", "language", "system", "seed"):
            columns[name] += [getattr(one, name)] * len(one.items)
        columns["item"] += one.items
        columns["group"] += one.groups or [None] * len(one.items)
    numbers = {
        name: np.concatenate([getattr(one, name) for one in measurements]) for name in ("numerators", "denominators")
    }
    kept = None if signature is None else {_SIGNATURE: to_json(signature)}
    pq.write_table(pa.table({**columns, **numbers}).replace_schema_metadata(kept), path)


_COLUMNS = ("measure", "language", "system", "seed", "item", "group", "numerators", "denominators")
_AGAIN = "Run the expansion or evaluation again."
_SIGNATURE = "allophone.signature"


def load_signature(path: Path) -> Signature:
    """What :func:`save_measurements` wrote beside the numbers.

    Raises:
        DataError: The file cannot be read or holds no signature.
    """
    try:
        kept = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as measurements: {error}. {_AGAIN}") from error
    if _SIGNATURE.encode() not in kept:
        raise DataError(f"{path}: holds no signature, so nothing says what was measured on what. {_AGAIN}")
    return from_json(Signature, kept[_SIGNATURE.encode()].decode(), str(path))


def load_measurements(path: Path) -> list[Measurement]:
    """Read what :func:`save_measurements` wrote.

    Raises:
        DataError: The file is missing or not such a table.
    """
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as measurements: {error}. {_AGAIN}") from error
    missing = [name for name in _COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        raise DataError(f"{path}: not a table of measurements, {missing or 'rows'} missing. {_AGAIN}")
    cells: dict[tuple[str, str, System, int], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["measure"], row["language"], row["system"], row["seed"]), []).append(row)
    return [
        Measurement(
            measure=measure,
            language=language,
            system=system,
            seed=seed,
            items=tuple(row["item"] for row in members),
            numerators=np.array([row["numerators"] for row in members], dtype=np.float64),
            denominators=np.array([row["denominators"] for row in members], dtype=np.float64),
            groups=() if members[0]["group"] is None else tuple(row["group"] for row in members),
        )
        for (measure, language, system, seed), members in cells.items()
    ]
