"""Version 1 of ML-SUPERB from what a model answered, as published, with the intervals that were not.

As in its scripts, errors are counted over all characters of a set (sclite's ``Sum/Avg``), and only the monolingual
task averages over languages. Training the probes is elsewhere: this file only counts.

Source: ESPnet ``egs2/ml_superb`` (``split_results.py``, ``mono_superb_score.py``, ``lid.py``); Shi et al. 2023,
arXiv:2305.10615. Shape legend: R resamples, C sets of items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allophone.data.importers.mlsuperb import FEW_SHOT
from allophone.errors import DataError
from allophone.evaluate.mlsuperb_answers import PHONE_LANGUAGES, Answer, Measured, errors_of, thin_languages
from allophone.evaluate.mlsuperb_reference import ACCURACIES, COLUMNS, ReferenceSet
from allophone.metrics.intervals import combined_bootstrap
from allophone.text.published import Normalizer

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperbScores:
    """Version 1: seven columns and their sum."""

    columns: tuple[Measured, ...]
    """In the order of :data:`~allophone.evaluate.mlsuperb_reference.COLUMNS`."""
    score: Measured
    """SUPERB_s."""
    reference: ReferenceSet
    normalizer: Normalizer
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Set:
    """Items of one rate: errors or hits over characters or utterances, with ids so that equal sets share draws."""

    items: tuple[str, ...]
    numerators: Array
    """Shape ``(seeds, items)``."""
    denominators: Array
    """Shape ``(seeds, items)``."""

    @property
    def rates(self) -> Array:
        """Of each seed, over all items."""
        return np.asarray(self.numerators.sum(axis=1) / self.denominators.sum(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """Rates ``(R, C)`` to one column of the row, percent ``(R,)``."""

    weights: Array

    def __call__(self, rates: Array) -> Array:
        return np.asarray(100.0 * rates @ self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """Rates ``(R, C)`` to SUPERB_s ``(R,)``."""

    weights: Array
    reference: ReferenceSet

    def __call__(self, rates: Array) -> Array:
        return self.reference.score(100.0 * rates @ self.weights)


def superb_scores(
    answers: Mapping[str, Sequence[Answer]],
    reference: ReferenceSet,
    *,
    other_seeds: Sequence[Mapping[str, Sequence[Answer]]] = (),
    normalizer: Normalizer = "ml-superb-1",
    resamples: int = 1000,
) -> SuperbScores:
    """Score the four tasks of version 1.

    Args:
        answers: Answers of ``monolingual`` (all sets; ``dataset`` tells a language's sources apart), ``multilingual``,
            ``language_identification`` and ``joint``.
        reference: Between whose rows SUPERB_s is placed.
        other_seeds: What probes of other seeds answered to the same utterances; values are then over all seeds, and
            intervals draw seeds too.
        normalizer: How texts are compared; only the default gives published numbers.
        resamples: Of each interval.

    Raises:
        DataError: A task is missing, has no utterance of its few-shot or of its other languages, or seeds answered
            other utterances.
    """
    missing = sorted({"monolingual", "multilingual", "language_identification", "joint"} - set(answers))
    if missing:
        raise DataError(f"ML-SUPERB: no answers of {', '.join(missing)}; SUPERB_s needs all four tasks.")
    columns = _stacked([_columns(one, normalizer) for one in (answers, *other_seeds)])
    measured, score = [], []
    for by_language in (False, True):
        sets, weights = _arrange(columns, by_language)
        numbers = _numbers(sets)
        pairs = [(one.numerators, one.denominators) for one in sets]

        measured.append(
            [
                combined_bootstrap(pairs, None, _Column(column), item_sets=numbers, resamples=resamples)
                for column in weights.T
            ]
        )
        placed = _Placed(weights, reference)
        score.append(combined_bootstrap(pairs, None, placed, item_sets=numbers, resamples=resamples))
    every = [one for task in answers.values() for one in task]
    return SuperbScores(
        columns=tuple(
            Measured(name=name, utterances=first, languages=second)
            for name, first, second in zip(COLUMNS, *measured, strict=True)
        ),
        score=Measured(name="SUPERB_s", utterances=score[0], languages=score[1]),
        reference=reference,
        normalizer=normalizer,
        warnings=thin_languages(every),
    )


_Columns = dict[str, list[tuple[list[Answer], _Set]]]
"""Answers of each set of each column, and what they count."""


def _columns(answers: Mapping[str, Sequence[Answer]], normalizer: Normalizer) -> _Columns:
    """Answers of each column, as sets by (language, source) in the monolingual task and as one set elsewhere."""
    mono: dict[tuple[str, str], list[Answer]] = {}
    for one in answers["monolingual"]:
        mono.setdefault((one.language, one.dataset), []).append(one)

    def normal(task: str) -> list[Answer]:
        return [one for one in answers[task] if one.language not in FEW_SHOT]

    def few(task: str) -> list[Answer]:
        return [one for one in answers[task] if one.language in FEW_SHOT]

    chosen = {
        "monolingual": list(mono.values()),
        "multilingual": [normal("multilingual")],
        "few_shot": [few("multilingual")],
        "language_identification": [normal("language_identification")],
        "joint_language_identification": [normal("joint")],
        "joint": [normal("joint")],
        "joint_few_shot": [few("joint")],
    }
    for name, groups in chosen.items():
        if not groups or not all(groups):
            raise DataError(f"ML-SUPERB: column {name!r} has no utterance; were its languages left out of the test?")
    return {name: [(group, _count(group, name, normalizer)) for group in groups] for name, groups in chosen.items()}


def _stacked(seeds: Sequence[_Columns]) -> _Columns:
    """The counts of all seeds one above the other."""
    found: _Columns = {}
    for name, groups in seeds[0].items():
        found[name] = []
        for place, (answers, first) in enumerate(groups):
            sets = [columns[name][place][1] if place < len(columns[name]) else None for columns in seeds]
            if any(one is None or one.items != first.items for one in sets):
                raise DataError(f"ML-SUPERB: {name}: seeds answered different utterances, or in another order.")
            parts = [(one.numerators, one.denominators) for one in sets if one is not None]
            numerators, denominators = (np.concatenate(part) for part in zip(*parts, strict=True))
            found[name].append((answers, _Set(first.items, numerators, denominators)))
    return found


def _count(group: Sequence[Answer], column: str, normalizer: Normalizer) -> _Set:
    if column in ACCURACIES:
        counts = [(float(one.guess == one.language), 1) for one in group]
    else:
        by_phone = column == "monolingual" and group[0].language in PHONE_LANGUAGES
        counts = [errors_of(one, normalizer, by_phone) for one in group]
    numerators, denominators = np.array(counts, dtype=np.float64).T
    if denominators.sum() == 0:
        raise DataError(
            f"ML-SUPERB: {column} of {group[0].language}: every reference is empty under {normalizer!r}; were texts "
            "left out?"
        )
    return _Set(tuple(one.id for one in group), numerators[None], denominators[None])


def _arrange(columns: _Columns, by_language: bool) -> tuple[list[_Set], Array]:
    """All sets, and the weights ``(C, 7)`` that turn their rates into columns.

    By utterance a monolingual rate is the mean over languages of the mean over sources; by language the languages are
    the items, each with its mean over sources. Elsewhere a language's items are added up.
    """
    sets: list[_Set] = []
    places: list[tuple[int, float]] = []
    for place, name in enumerate(COLUMNS):
        groups = columns[name]
        sources: dict[str, list[_Set]] = {}
        for answers, counted in groups:
            sources.setdefault(answers[0].language, []).append(counted)
        if name == "monolingual" and by_language:
            rates = np.stack([np.mean([one.rates for one in every], axis=0) for every in sources.values()], axis=1)
            sets.append(_Set(tuple(sources), rates, np.ones_like(rates)))
            places.append((place, 1.0))
            continue
        for answers, counted in groups:
            sets.append(_by_language(answers, counted) if by_language else counted)
            share = 1.0 / len(sources) / len(sources[answers[0].language]) if name == "monolingual" else 1.0
            places.append((place, share))
    weights = np.zeros((len(sets), len(COLUMNS)))
    for row, (place, share) in enumerate(places):
        weights[row, place] = share
    return sets, weights


def _by_language(answers: Sequence[Answer], counted: _Set) -> _Set:
    names = list(dict.fromkeys(one.language for one in answers))
    index = np.array([names.index(one.language) for one in answers])
    numerators, denominators = (
        np.stack([np.bincount(index, weights=row).astype(np.float64) for row in part])
        for part in (counted.numerators, counted.denominators)
    )
    return _Set(tuple(names), numerators, denominators)


def _numbers(sets: Sequence[_Set]) -> list[int]:
    """The same number for sets of the same items, which then are drawn together."""
    seen: dict[tuple[str, ...], int] = {}
    return [seen.setdefault(one.items, len(seen)) for one in sets]
