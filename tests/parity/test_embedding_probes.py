"""Probes against scikit-learn's on the same embeddings: equal predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from allophone.evaluate.embedding_probes import NEIGHBORS, VOTE_TEMPERATURE, Embedded, linear_probe, neighbor_probe

pytestmark = pytest.mark.parity


def drawn(seed: int) -> tuple[Embedded, Embedded, Embedded]:
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((7, 12))
    parts = []
    for count in (220, 60, 150):
        ids = generator.integers(7, size=count)
        parts.append(Embedded.of(centers[ids] + 1.3 * generator.standard_normal((count, 12)) + 1.0, ids))
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("seed", range(3))
def test_linear(seed: int) -> None:
    train, dev, test = drawn(seed)
    found = linear_probe(train, test, dev)
    accuracies = {}
    for strength in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0):
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(train.unit, train.classes)
        accuracies[strength] = model.score(dev.unit, dev.classes)
    best = max(accuracies, key=lambda strength: accuracies[strength])
    assert found.regularization == best and found.dev_accuracy == pytest.approx(accuracies) and found.converged
    peer = LogisticRegression(C=best, max_iter=5000, tol=1e-6).fit(train.unit, train.classes)
    assert found.predicted.tolist() == peer.predict(test.unit).tolist()
    assert 0.3 < found.accuracy < 0.95


@pytest.mark.parametrize("k", NEIGHBORS)
@pytest.mark.parametrize("seed", range(3))
def test_neighbors(seed: int, k: int) -> None:
    train, _, test = drawn(seed)
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda far: np.exp((1 - far) / VOTE_TEMPERATURE))
    peer.fit(train.vectors, train.classes)
    found = neighbor_probe(train, test, k=k)
    assert found.predicted.tolist() == peer.predict(test.vectors).tolist()
    assert 0.3 < found.accuracy < 0.95
