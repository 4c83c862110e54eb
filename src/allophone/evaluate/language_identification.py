"""Language identification by logistic regression on utterance embeddings, and the same on sources never trained on.

With one voice or one studio a language, a classifier may know the voice and not the language; where a language has
two sources, :func:`leave_one_source_out` tests on the one that was not trained on.

Shape legend: N utterances, D dim.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from allophone.errors import DataError, NumericsError
from allophone.metrics.intervals import Interval, bootstrap
from allophone.seeding import derive

MAX_ITERATIONS = 300
"""Of L-BFGS; on standardized embeddings of some thousand utterances it converges well before."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LanguageIdentification:
    """Which test utterances were recognized."""

    hits: NDArray[np.float64]
    """1 where the language is right, shape ``(N,)``."""
    truth: tuple[str, ...]
    """Language of each test utterance."""
    predicted: tuple[str, ...]
    """What the classifier said."""
    utterances: tuple[int, ...]
    """Positions of the test utterances in what was given."""
    recall: dict[str, float]
    """Percent found of each test language."""
    converged: bool
    """Whether every classifier reached its optimum within :data:`MAX_ITERATIONS`."""

    @property
    def accuracy(self) -> float:
        """Percent of the test utterances."""
        return 100.0 * float(self.hits.mean())

    @property
    def macro_recall(self) -> float:
        """Mean over languages of their recall, percent; its chance is 100 over the number of trained languages."""
        return float(np.mean(list(self.recall.values())))

    def interval(self, *, groups: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0) -> Interval:
        """Accuracy in percent with its 95 % interval, over utterances or over groups of them (speakers, prompts)."""
        return bootstrap(self.hits, groups=groups, resamples=resamples, seed=seed).scaled(100.0)


def identify_languages(
    train_embeddings: ArrayLike,
    train_languages: Sequence[str],
    test_embeddings: ArrayLike,
    test_languages: Sequence[str],
    *,
    regularization: float = 1.0,
    seed: int = 0,
) -> LanguageIdentification:
    """Train on some utterances, name the language of others.

    Each dimension is standardized with training statistics; languages weigh the same however many utterances they have.

    Args:
        train_embeddings: One vector an utterance, such as the mean of its frames. Shape ``(N, D)``.
        train_languages: N languages.
        test_embeddings: Shape ``(other N, D)``.
        test_languages: Their languages.
        regularization: Strength of the L2 penalty (1/C of scikit-learn).
        seed: Of the solver.

    Raises:
        DataError: Numbers or dims disagree, fewer than two languages to train on, or a test language is not among them.
        NumericsError: An embedding is not finite.
    """
    train, test = (
        _embeddings(train_embeddings, train_languages, "train"),
        _embeddings(test_embeddings, test_languages, "test"),
    )
    known = sorted(set(train_languages))
    unknown = sorted(set(test_languages) - set(known))
    if len(known) < 2 or unknown or train.shape[1] != test.shape[1]:
        raise DataError(
            f"identify_languages: trained on {known} with {train.shape[1]} dimensions, tested on "
            f"{sorted(set(test_languages))} with {test.shape[1]}; at least two "
            "training languages, every test language among them and equal dimensions are needed."
        )
    predicted, converged = _classify(train, train_languages, test, regularization, seed)
    return _result(predicted, list(test_languages), list(range(len(test))), converged)


def leave_one_source_out(
    embeddings: ArrayLike,
    languages: Sequence[str],
    sources: Sequence[str],
    *,
    regularization: float = 1.0,
    seed: int = 0,
) -> LanguageIdentification:
    """Name the language of each source (voice, studio, corpus) after training without it.

    A source is tested with those of its languages that another source has too; it is left out of training as a whole.

    Args:
        embeddings: One vector an utterance. Shape ``(N, D)``.
        languages: N languages.
        sources: N voices, studios or corpora.
        regularization: Strength of the L2 penalty.
        seed: Of the solver.

    Raises:
        DataError: Numbers disagree, or no language has two sources.
        NumericsError: An embedding is not finite.
    """
    vectors = _embeddings(embeddings, languages, "given")
    if len(sources) != len(vectors):
        raise DataError(
            f"leave_one_source_out: {len(vectors)} utterances but {len(sources)} sources; one each is needed."
        )
    names, spoken = np.array(sources), np.array(languages)
    utterances: list[int] = []
    predicted: list[str] = []
    converged = True
    for source in sorted(set(sources)):
        rest = names != source
        tested = np.flatnonzero(~rest & np.isin(spoken, spoken[rest]))
        if len(tested) == 0 or len(set(spoken[rest])) < 2:
            continue
        answers, done = _classify(vectors[rest], spoken[rest].tolist(), vectors[tested], regularization, seed)
        utterances += tested.tolist()
        predicted += answers
        converged &= done
    if not utterances:
        raise DataError(
            f"leave_one_source_out: none of {sorted(set(languages))} has two sources beside a second language; "
            "use identify_languages and say that voice and language are confounded."
        )
    return _result(predicted, [languages[index] for index in utterances], utterances, converged)


def _embeddings(values: ArrayLike, languages: Sequence[str], name: str) -> NDArray[np.float64]:
    vectors = np.asarray(values, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(languages) or len(vectors) == 0:
        raise DataError(
            f"identify_languages: {name} embeddings are {vectors.shape} with {len(languages)} languages; expected "
            "(utterances, dim), one language each."
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise NumericsError(f"identify_languages: {name} embedding {row} is not finite; look for an empty utterance.")
    return vectors


def _classify(
    train: NDArray[np.float64], languages: Sequence[str], test: NDArray[np.float64], regularization: float, seed: int
) -> tuple[list[str], bool]:
    """Predicted languages, and whether the solver converged."""
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=1 / regularization,
            class_weight="balanced",
            max_iter=MAX_ITERATIONS,
            random_state=derive(seed, "language-identification") % 2**32,
        ),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(train, list(languages))
    stopped = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return [str(language) for language in classifier.predict(test)], not stopped


def _result(predicted: list[str], truth: list[str], utterances: list[int], converged: bool) -> LanguageIdentification:
    hits = np.array([guess == right for guess, right in zip(predicted, truth, strict=True)], dtype=np.float64)
    spoken = np.array(truth)
    return LanguageIdentification(
        hits=hits,
        truth=tuple(truth),
        predicted=tuple(predicted),
        utterances=tuple(utterances),
        recall={language: 100.0 * float(hits[spoken == language].mean()) for language in sorted(set(truth))},
        converged=converged,
    )
