"""Character and word errors per utterance, by Levenshtein distance; texts are compared as they come.

Normalize both sides first (``allophone.text.normalize``): this file does not change a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allophone.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class ErrorCounts:
    """Errors and reference lengths, one entry an utterance, for a rate, an interval or a paired comparison."""

    errors: NDArray[np.int64]
    """Substitutions + insertions + deletions, shape ``(N,)``."""
    lengths: NDArray[np.int64]
    """Characters or words of each reference, shape ``(N,)``."""

    @property
    def rate(self) -> float:
        """Errors of all utterances over the length of all references; can exceed 1."""
        return float(self.errors.sum() / self.lengths.sum())


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest substitutions, insertions and deletions that turn one sequence of symbols into the other.

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    if len(reference) == 0 or len(hypothesis) == 0:
        return max(len(reference), len(hypothesis))
    ids: dict[str, int] = {}
    target = np.array([ids.setdefault(symbol, len(ids)) for symbol in hypothesis])
    columns = np.arange(len(target) + 1)
    row = columns.copy()
    for i, symbol in enumerate(reference, start=1):
        substituted = row[:-1] + (target != ids.get(symbol, -1))
        candidate = np.concatenate([[i], np.minimum(substituted, row[1:] + 1)])
        # An insertion costs one a column: the cheapest way in from the left is a running minimum without that slope.
        row = np.minimum.accumulate(candidate - columns) + columns
    return int(row[-1])


def character_error_counts(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Character errors of each utterance; spaces count as characters.

    Raises:
        DataError: Different numbers of references and hypotheses, or no reference has a character.
    """
    return _counts(references, hypotheses)


def word_error_counts(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Word errors of each utterance; words are what whitespace separates.

    Raises:
        DataError: Different numbers of references and hypotheses, or no reference has a word.
    """
    return _counts([text.split() for text in references], [text.split() for text in hypotheses])


def _counts(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> ErrorCounts:
    if len(references) != len(hypotheses):
        raise DataError(f"error rate: {len(references)} references but {len(hypotheses)} hypotheses.")
    lengths = np.array([len(reference) for reference in references], dtype=np.int64)
    if lengths.sum() == 0:
        raise DataError(f"error rate: all {len(references)} references are empty, so there is nothing to divide by.")
    pairs = zip(references, hypotheses, strict=True)
    errors = np.array([edit_distance(reference, hypothesis) for reference, hypothesis in pairs], dtype=np.int64)
    return ErrorCounts(errors, lengths)
