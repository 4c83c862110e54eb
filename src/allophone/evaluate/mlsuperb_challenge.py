"""ML-SUPERB 2.0 and the 2025 challenge from what a model answered, as published, with the intervals that were not.

As in the challenge's script, error rates of utterances are averaged within a language, then over languages.

Source: ESPnet ``egs2/ml_superb2`` (``score.py``); Shi et al. 2024, arXiv:2406.08641.
Shape legend: R resamples, L languages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allophone.errors import DataError
from allophone.evaluate.mlsuperb_answers import FEWEST, Answer, Measured, errors_of, thin_languages
from allophone.evaluate.report_tables import language_name
from allophone.metrics.intervals import Interval, bootstrap, bootstrap_statistic, combined_bootstrap
from allophone.text.published import Normalizer

WORST = 15
"""Languages in the challenge's measure of the worst."""
COLUMN_DEFECT = (
    "The challenge's score.py returns (LID accuracy, CER) of the dialects but names and prints them as (CER, LID): the "
    "columns 'Dialect CER' and 'Dialect LID' of its table are exchanged. Here each stands under its own name."
)

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRate:
    """One language, for the list of the worst."""

    language: str
    name: str
    rate: Interval
    """Character error in percent, over utterances."""

    @property
    def thin(self) -> bool:
        """Whether there are too few utterances to say much."""
        return self.rate.n < FEWEST


@dataclass(frozen=True, kw_only=True, slots=True)
class ChallengeScores:
    """2.0 and the 2025 challenge; :data:`COLUMN_DEFECT` says where its script and this differ."""

    measures: tuple[Measured, ...]
    """CER, LID, worst CER, standard deviation; then dialect CER and LID where dialects were given."""
    worst: tuple[LanguageRate, ...]
    """The languages in the measure of the worst, worst first."""
    normalizer: Normalizer
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Measured:
        return next(one for one in self.measures if one.name == name)


def challenge_scores(
    answers: Sequence[Answer],
    dialects: Sequence[Answer] = (),
    *,
    normalizer: Normalizer = "ml-superb-2",
    resamples: int = 1000,
) -> ChallengeScores:
    """Average, deviation (n - 1) and worst languages of the character error; language identification; dialects.

    An utterance whose reference is empty after normalization counts nowhere, as in the script. With fewer than 15
    languages the mean is over those there are, where the script would still divide by 15.

    Args:
        answers: Of the standard test set.
        dialects: Of the dialect test set; empty leaves its measures out.
        normalizer: Only the default gives published numbers.
        resamples: Of each interval.

    Raises:
        DataError: There are fewer than two languages, or a language has no utterance with a text.
    """
    measures = _challenge_measures(answers, normalizer, resamples, ("CER", "LID", "worst CER", "CER deviation"))
    if dialects:
        measures += _challenge_measures(dialects, normalizer, resamples, ("dialect CER", "dialect LID"))
    return ChallengeScores(
        measures=tuple(measures),
        worst=tuple(worst_languages(answers, normalizer=normalizer, resamples=resamples)[:WORST]),
        normalizer=normalizer,
        warnings=(*thin_languages(answers), *thin_languages(dialects, "of the dialects")),
    )


_COMBINE: dict[str, Callable[[Array], Array]] = {
    "CER": lambda rates: rates.mean(axis=1),
    "LID": lambda rates: rates.mean(axis=1),
    "worst CER": lambda rates: np.sort(rates, axis=1)[:, -WORST:].mean(axis=1),
    "CER deviation": lambda rates: rates.std(axis=1, ddof=1),
}
"""Rates of languages ``(R, L)`` to the measure ``(R,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class _Again:
    """Drawn languages to the measure."""

    means: Array
    combine: Callable[[Array], Array]

    def __call__(self, drawn: NDArray[np.int64]) -> float:
        return float(self.combine(self.means[drawn][None])[0])


def _challenge_measures(
    answers: Sequence[Answer], normalizer: Normalizer, resamples: int, names: Sequence[str]
) -> list[Measured]:
    by_language = _utterance_rates(answers, normalizer)
    if len(by_language) < 2:
        raise DataError(f"ML-SUPERB: answers in {sorted(by_language)}; expected at least two languages.")
    found = []
    for name in names:
        part, combine = int(name.endswith("LID")), _COMBINE[name.removeprefix("dialect ")]
        rates = [100.0 * counted[part] for counted in by_language.values()]
        means = np.array([one.mean() for one in rates])
        found.append(
            Measured(
                name=name,
                utterances=combined_bootstrap(
                    [(one, np.ones(len(one))) for one in rates], None, combine, resamples=resamples
                ),
                languages=bootstrap_statistic(len(means), _Again(means, combine), resamples=resamples),
            )
        )
    return found


def _utterance_rates(answers: Sequence[Answer], normalizer: Normalizer) -> dict[str, tuple[Array, Array]]:
    """Error rate and hit of each utterance that has a text, by language."""
    rates: dict[str, list[tuple[float, float]]] = {one.language: [] for one in answers}
    for one in answers:
        errors, length = errors_of(one, normalizer)
        if length:
            rates[one.language].append((errors / length, float(one.guess == one.language)))
    empty = sorted(language for language, found in rates.items() if not found)
    if empty:
        raise DataError(f"ML-SUPERB: no utterance with a text in {', '.join(empty)} under {normalizer!r}.")
    return {language: tuple(np.array(found).T) for language, found in sorted(rates.items())}


def worst_languages(
    answers: Sequence[Answer], *, normalizer: Normalizer = "ml-superb-2", resamples: int = 1000
) -> list[LanguageRate]:
    """Every language by its mean error rate over utterances, the worst first."""
    found = [
        LanguageRate(
            language=language,
            name=language_name(language),
            rate=bootstrap(100.0 * rates, resamples=resamples),
        )
        for language, (rates, _) in _utterance_rates(answers, normalizer).items()
    ]
    return sorted(found, key=lambda one: -one.rate.value)
