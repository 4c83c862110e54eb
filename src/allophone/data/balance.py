"""How often each language and source is heard: temperature sampling and the draws of one epoch.

Source: XLS-R, arXiv:2111.09296 (one level, alpha 0.5); mHuBERT-147, arXiv:2406.06371 (language alpha 0.7, then
source within the language beta 0.9; an epoch keeps its size; without replacement first, then whole permutations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from allophone.errors import ConfigError, DataError


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
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"A balancing exponent lies between 0 (all equal) and 1 (as they are); got {alpha}.")
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
