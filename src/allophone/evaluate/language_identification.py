"""Which language is it: logistic regression on one standardized vector an utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from allophone.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class LanguageHits:
    """Predictions on the test utterances."""

    hits: NDArray[np.bool_]
    """Whether each is right. Shape ``(utterances,)``."""
    predicted: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * float(self.hits.mean())


def identify_languages(
    train: NDArray[np.floating],
    train_languages: Sequence[str],
    test: NDArray[np.floating],
    test_languages: Sequence[str],
    *,
    seed: int = 0,
) -> LanguageHits:
    """Fit on one set of utterances, name the language of another.

    Languages count alike, however many utterances they have.

    Args:
        train: Mean-pooled frames. Shape ``(utterances, dim)``.
        train_languages: One tag an utterance.
        test: Like ``train``.
        test_languages: What is right.
        seed: Of the solver.

    Raises:
        DataError: Fewer than two languages, or vectors and tags do not match in number.
    """
    if len(train) != len(train_languages) or len(test) != len(test_languages) or len(set(train_languages)) < 2:
        raise DataError(
            f"identify_languages: {len(train)} and {len(test)} vectors with {len(train_languages)} and "
            f"{len(test_languages)} tags of {len(set(train_languages))} languages; expected a tag a vector and at least 2."
        )
    scaler = StandardScaler().fit(train)
    probe = LogisticRegression(max_iter=500, C=0.1, class_weight="balanced", random_state=seed)
    probe.fit(scaler.transform(train), list(train_languages))
    predicted = probe.predict(scaler.transform(test))
    return LanguageHits(hits=predicted == np.asarray(test_languages), predicted=tuple(str(p) for p in predicted))
