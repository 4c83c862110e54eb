"""Scores against scikit-learn, jiwer, scipy and a time warping written cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.metrics.classification import accuracy, confusion, macro_f1
from allophone.metrics.error_rate import character_error_counts, word_error_counts
from allophone.metrics.intervals import bootstrap, paired_bootstrap
from allophone.metrics.retrieval import dtw_distances, recall_at

jiwer = pytest.importorskip("jiwer")
sklearn_metrics = pytest.importorskip("sklearn.metrics")
scipy_stats = pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("seed", range(3))
def test_classification_equals_sklearn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, 6, 80), generator.integers(1, 8, 80)
    assert accuracy(predicted, truth) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert macro_f1(predicted, truth) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=range(8))
    assert (confusion(predicted, truth, 8) == expected).all()


def test_recall_equals_sklearn_top_k() -> None:
    scores = torch.randn(50, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.arange(50) % 9
    for k, hits in recall_at(scores, truth, (1, 3)).items():
        expected = sklearn_metrics.top_k_accuracy_score(truth.numpy(), scores.numpy(), k=k)
        assert float(hits.mean()) == pytest.approx(expected)


def random_texts(seed: int, count: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(seed)
    alphabet = list("abcé щ'ट्")

    def text(shortest: int) -> str:
        drawn = "".join(generator.choice(alphabet, int(generator.integers(shortest, 25))))
        return " ".join(drawn.split()) or "a"

    return [text(1) for _ in range(count)], [text(0) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_error_rates_equal_jiwer(seed: int) -> None:
    references, hypotheses = random_texts(seed, 60)
    assert character_error_counts(references, hypotheses).rate == pytest.approx(jiwer.cer(references, hypotheses))
    assert word_error_counts(references, hypotheses).rate == pytest.approx(jiwer.wer(references, hypotheses))
    counts = character_error_counts(references, hypotheses)
    for reference, hypothesis, errors in zip(references, hypotheses, counts.errors, strict=True):
        assert errors / len(reference) == pytest.approx(jiwer.cer(reference, hypothesis))


def test_bootstrap_of_a_mean_equals_scipy() -> None:
    hits = (np.random.default_rng(0).random(300) < 0.3).astype(float)
    ours = bootstrap(hits, resamples=9000, seed=1)
    theirs = scipy_stats.bootstrap((hits,), np.mean, n_resamples=9000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(hits.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_bootstrap_of_a_rate_equals_scipy() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 40, 200).astype(float)
    errors = np.floor(lengths * generator.random(200))
    theirs = scipy_stats.bootstrap(
        (errors, lengths),
        lambda e, n, axis: e.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=9000,
        method="percentile",
        rng=2,
    ).confidence_interval
    ours = bootstrap(errors, lengths, resamples=9000, seed=1)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_paired_bootstrap_equals_scipy_on_differences() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.random(150), generator.random(150)
    ours = paired_bootstrap(first, second, resamples=9000)
    theirs = scipy_stats.bootstrap((first - second,), np.mean, n_resamples=9000, method="percentile", rng=2)
    bounds = (theirs.confidence_interval.low, theirs.confidence_interval.high)
    assert (ours.low, ours.high) == pytest.approx(bounds, abs=0.006)


def plain_dtw(first: Tensor, second: Tensor, distance: str) -> float:
    """One cell after the other, in float64."""
    first, second = first.double(), second.double()
    if distance == "cosine":
        local = 1 - torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T
    else:
        local = torch.cdist(first, second)
    rows, columns = local.shape
    best = [[math.inf] * (columns + 1) for _ in range(rows + 1)]
    best[0][0] = 0.0
    for i in range(rows):
        for j in range(columns):
            best[i + 1][j + 1] = float(local[i, j]) + min(best[i][j], best[i][j + 1], best[i + 1][j])
    return best[rows][columns] / (rows + columns)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_dtw_equals_the_plain_recursion(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 2, 3, 7, 11, 19]
    queries = [torch.randn(length, 5, generator=generator) for length in lengths]
    candidates = [torch.randn(length, 5, generator=generator) for length in [13, 1, 4, 9]]
    ours = dtw_distances(queries, candidates, distance)  # type: ignore[arg-type]
    theirs = torch.tensor([[plain_dtw(query, other, distance) for other in candidates] for query in queries])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_dtw_in_several_chunks_equals_the_plain_recursion() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(3, 2, generator=generator)]
    candidates = [torch.randn(1 + index % 3, 2, generator=generator) for index in range(300)]
    candidates.append(torch.randn(200, 2, generator=generator))
    ours = dtw_distances(queries, candidates)[0]
    for place in (0, 1, 2, 150, 299, 300):
        assert float(ours[place]) == pytest.approx(plain_dtw(queries[0], candidates[place], "cosine"), abs=1e-5)
