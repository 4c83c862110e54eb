"""Probes of embeddings: chance on noise, all on clusters, few shots, layers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.evaluate.embedding_probes import (
    Embedded,
    few_shot_curve,
    learned_mixture,
    linear_probe,
    neighbor_probe,
)


def clusters(count: int, seed: int, noise: float = 0.5, classes: int = 4) -> Embedded:
    generator = np.random.default_rng(seed)
    ids = np.arange(count) % classes
    centers = np.random.default_rng(9).standard_normal((classes, 6))
    return Embedded.of(centers[ids] + noise * generator.standard_normal((count, 6)), ids)


def test_clusters_are_found_and_noise_is_not() -> None:
    train, dev, test = clusters(120, 0, 0.1), clusters(40, 1, 0.1), clusters(80, 2, 0.1)
    assert linear_probe(train, test, dev).accuracy == 1.0 and neighbor_probe(train, test, k=5).accuracy == 1.0
    noise = [clusters(count, seed, 1000.0) for count, seed in ((400, 3), (100, 4), (400, 5))]
    for accuracy in (linear_probe(noise[0], noise[2], noise[1]).accuracy, neighbor_probe(noise[0], noise[2]).accuracy):
        assert 0.15 < accuracy < 0.35


def test_the_stronger_of_equal_regularizations_is_taken() -> None:
    easy = clusters(40, 0, 0.01)
    found = linear_probe(easy, easy, easy, regularizations=(10.0, 0.1))
    assert found.dev_accuracy == {0.1: 1.0, 10.0: 1.0} and found.regularization == 0.1


def test_a_class_without_training_examples_is_never_found() -> None:
    train, test = clusters(40, 0), clusters(40, 1)
    known = train.only(np.flatnonzero(train.classes != 2))
    for found in (linear_probe(known, test, regularizations=(1.0,)), neighbor_probe(known, test, k=50)):
        assert not found.hits[test.classes == 2].any() and found.accuracy > 0.5


def test_few_shots_rise_and_are_nested() -> None:
    train, test = clusters(160, 0, 1.0), clusters(200, 1, 1.0)
    curve = few_shot_curve(train, test, shots=(1, 8, 32, 64), draws=3)
    assert list(curve) == [1, 8, 32] and curve[8].shape == (3, 200)  # 40 examples a class
    assert curve[1].mean() < curve[8].mean() < curve[32].mean() + 0.05
    again = few_shot_curve(train, test, shots=(8,), draws=3)
    assert np.array_equal(again[8], curve[8]) and not np.array_equal(curve[8][0], curve[8][1])


def test_the_mixture_finds_the_layer_that_knows() -> None:
    good = clusters(80, 0, 0.5)
    noise = 50 * np.random.default_rng(1).standard_normal((80, 2, 6))  # loud, and says nothing
    states = np.concatenate([noise, good.vectors[:, None]], axis=1)
    factors = learned_mixture(states, good.classes)
    lengths = np.linalg.norm(states, axis=-1).mean(axis=0)
    shares = factors * lengths
    assert shares.sum() == pytest.approx(1.0, abs=1e-5) and shares[2] > 0.8


def test_what_cannot_be_probed_is_refused() -> None:
    easy = clusters(20, 0)
    with pytest.raises(ConfigError, match="no dev part to choose on"):
        linear_probe(easy, easy)
    with pytest.raises(ConfigError, match="k is 0"):
        neighbor_probe(easy, easy, k=0)
    with pytest.raises(DataError, match="at least two classes"):
        neighbor_probe(easy.only(np.array([0, 4])), easy)
    with pytest.raises(DataError, match="one class each"):
        Embedded.of(np.ones((3, 2)), [0, 1])
    with pytest.raises(NumericsError, match="embedding 1 is zero"):
        Embedded.of(np.array([[1.0, 0.0], [0.0, 0.0]]), [0, 1])
    with pytest.raises(DataError, match=r"expected \(N, L, D\)"):
        learned_mixture(np.ones((3, 2)), [0, 1, 1])
