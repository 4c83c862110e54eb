"""How often each language and source is heard: laws of upsampling, the draws of one epoch, and balanced subsets.

Source: XLS-R, arXiv:2111.09296 (one level, alpha 0.5); mHuBERT-147, arXiv:2406.06371 (language alpha 0.7, then
source within the language beta 0.9; an epoch keeps its size; without replacement first, then whole permutations);
WavLabLM, arXiv:2309.15317, section 3.3 (a balanced subset for a second stage). Deviation: shares are of seconds, not
of utterances, because sources differ in how long their clips are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.seeding import derive

SLACK_SECONDS = 1e-6
"""By which rounding may carry a sum of durations over its limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemperatureSampling:
    """Languages are heard in proportion to ``hours ** alpha``; inside a language every second counts the same."""

    alpha: float = 0.5
    """1 = as they are, 0 = all languages equal (XLS-R 0.5)."""

    def __post_init__(self) -> None:
        _check_exponent("alpha", self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoLevelUpsampling:
    """Languages in proportion to ``hours ** alpha``, then the sources of each language to ``hours ** beta``."""

    alpha: float = 0.7
    """Exponent between languages (mHuBERT-147 0.7)."""
    beta: float = 0.9
    """Exponent between the sources of a language (mHuBERT-147 0.9)."""

    def __post_init__(self) -> None:
        _check_exponent("alpha", self.alpha)
        _check_exponent("beta", self.beta)


@dataclass(frozen=True, kw_only=True, slots=True)
class BalancedSubset:
    """Equal hours of every language, its sources as equal as they can be; which utterances follows from the seed."""

    hours: float | None = None
    """Hours of each language; one that has less comes whole. None = as many as the smallest language has."""
    seed: int = 0
    """Another seed draws other utterances. With one seed, a larger subset contains every smaller one."""

    def __post_init__(self) -> None:
        if self.hours is not None and not (math.isfinite(self.hours) and self.hours > 0):
            raise ConfigError(
                f"A balanced subset of {self.hours:g} hours a language was asked for; expected a positive number. "
                f"Leave it out to take as much of every language as the smallest one has."
            )


def balanced_subset(
    rows: Sequence[Utterance], choice: BalancedSubset, *, crop_seconds: float = math.inf
) -> tuple[Utterance, ...]:
    """Draw the same hours of every language.

    A language gives whole utterances until the next one would exceed its hours, and at least one. So languages differ
    by less than their longest utterance, except those that have less than was asked for. The order in which a language
    gives its utterances depends on the seed and on their ids alone, which nests the subsets of one seed.

    Args:
        rows: Utterances to draw from, of the training split (or of none).
        choice: Hours of each language and the seed.
        crop_seconds: Longest piece of an utterance that is heard; more of it does not count.

    Returns:
        The utterances drawn, in the order of ``rows``.

    Raises:
        DataError: A row belongs to a dev or test split, there is no row, or no language has as many hours.
    """
    held_out = next((row for row in rows if row.split not in (None, "train")), None)
    if held_out is not None:
        raise DataError(
            f"Utterance {held_out.id!r} is in split {held_out.split!r}; a balanced subset for training is drawn from "
            f"the split 'train'. Pass corpus.where(split='train')."
        )
    languages: dict[str, list[Utterance]] = {}
    for row in rows:
        languages.setdefault(row.language, []).append(row)
    limit = _subset_seconds(languages, choice, crop_seconds)
    chosen = {row.id for members in languages.values() for row in _first(members, limit, choice.seed, crop_seconds)}
    return tuple(row for row in rows if row.id in chosen)


def _subset_seconds(languages: Mapping[str, Sequence[Utterance]], choice: BalancedSubset, crop: float) -> float:
    """Seconds that each language may give."""
    if not languages:
        raise DataError("There is no utterance to draw a balanced subset from. Is the training split empty?")
    there = {name: sum(min(row.duration_seconds, crop) for row in members) for name, members in languages.items()}
    smallest, largest = min(there, key=there.__getitem__), max(there, key=there.__getitem__)
    if choice.hours is None:
        return there[smallest]
    if choice.hours * 3600 > there[largest] + SLACK_SECONDS:
        raise DataError(
            f"A balanced subset of {choice.hours:g} h a language was asked for, but no language has as much: of "
            f"{len(there)}, {largest} has most ({there[largest] / 3600:.4f} h) and {smallest} least "
            f"({there[smallest] / 3600:.4f} h). Ask for less; up to the least, all languages are equal."
        )
    return choice.hours * 3600


def _first(members: Sequence[Utterance], limit: float, seed: int, crop: float) -> list[Utterance]:
    """Utterances of one language up to ``limit`` seconds: always the next of the source that has given least."""
    waiting: dict[str, list[Utterance]] = {}
    for row in sorted(members, key=lambda row: derive(seed, "balanced subset", row.id), reverse=True):
        waiting.setdefault(row.source or "", []).append(row)
    given = dict.fromkeys(sorted(waiting), 0.0)
    chosen: list[Utterance] = []
    seconds = 0.0
    while given:
        source = min(given, key=given.__getitem__)
        row = waiting[source].pop()
        heard = min(row.duration_seconds, crop)
        if chosen and seconds + heard > limit + SLACK_SECONDS:
            break
        chosen.append(row)
        seconds += heard
        given[source] += heard
        if not waiting[source]:
            del given[source]
    return chosen


def _check_exponent(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name}: a balancing exponent lies between 0 (all equal) and 1 (as they are); got {value}.")


def language_weights(amounts: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Share of each language after tempering: ``p ~ (n / N) ** alpha``.

    Args:
        amounts: Seconds or utterances per language; all positive, any unit.
        alpha: 1 keeps the natural shares, 0 makes all languages equal.

    Returns:
        Shares that add up to 1, in the order of ``amounts``.

    Raises:
        ConfigError: ``alpha`` is outside [0, 1].
        DataError: An amount is not a positive number.

    Example:
        >>> language_weights({"eng_Latn": 3.0, "bul_Cyrl": 1.0}, alpha=1.0)
        {'eng_Latn': 0.75, 'bul_Cyrl': 0.25}
    """
    _check_exponent("alpha", alpha)
    for name, amount in amounts.items():
        if not (math.isfinite(amount) and amount > 0):
            raise DataError(f"Cannot balance {name!r}: its amount is {amount}; expected a positive number. Drop it.")
    total = sum(amounts.values())
    powers = {name: (amount / total) ** alpha for name, amount in amounts.items()}
    scale = sum(powers.values())
    return {name: power / scale for name, power in powers.items()}


def source_weights(
    amounts: Mapping[tuple[str, str], float], *, alpha: float, beta: float
) -> dict[tuple[str, str], float]:
    """Share of each (language, source): languages tempered by ``alpha``, sources within each by ``beta``.

    Args:
        amounts: Seconds or utterances per (language, source).
        alpha: Exponent between languages; mHuBERT-147 0.7.
        beta: Exponent between the sources of one language; mHuBERT-147 0.9.

    Returns:
        Shares that add up to 1, in the order of ``amounts``.
    """
    languages: dict[str, float] = {}
    for (language, _), amount in amounts.items():
        languages[language] = languages.get(language, 0.0) + amount
    outer = language_weights(languages, alpha)
    inner = {
        language: language_weights({source: n for (other, source), n in amounts.items() if other == language}, beta)
        for language in languages
    }
    return {(language, source): outer[language] * inner[language][source] for language, source in amounts}


def draw_counts(targets: Sequence[float]) -> list[int]:
    """Round draws per group to whole numbers that keep their total (largest remainders; ties: earlier group first).

    Example:
        >>> draw_counts([2.5, 1.25, 1.25])
        [3, 1, 1]
    """
    floors = [math.floor(target + 1e-9) for target in targets]
    missing = round(sum(targets)) - sum(floors)
    order = sorted(range(len(targets)), key=lambda i: (floors[i] - targets[i], i))
    for i in order[: max(0, missing)]:
        floors[i] += 1
    return floors


def draw(size: int, count: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw ``count`` members of a group of ``size``: none twice before all were drawn once.

    Args:
        size: Members of the group, at least 1.
        count: Draws, may exceed ``size``.
        generator: Source of the draws.

    Returns:
        ``(members, repeats)``, both of shape ``(count,)``: which member, and how many times it was drawn before.
    """
    rounds = [generator.permutation(size) for _ in range(-(-count // size))]
    members = np.concatenate(rounds)[:count] if rounds else np.zeros(0, dtype=np.int64)
    repeats = np.repeat(np.arange(len(rounds)), size)[:count]
    return members.astype(np.int64), repeats.astype(np.int64)
