"""Scores beside the ledger's: gaps between classes against an independent count, units that name phones."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import scale

from allophone.evaluate.embedding_probes import Embedded
from allophone.recipes.suite_scores import _phones_by_units, _units_of, class_gaps


def test_gaps_are_those_of_scikit_learns_cosines() -> None:
    generator = np.random.default_rng(0)
    classes = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    vectors = generator.normal(size=(9, 5)) + 2 * np.eye(5)[classes]
    cosines = cosine_similarity(scale(vectors))
    expected = [
        np.mean([cosines[i, j] for j in range(9) if j != i and classes[j] == classes[i]])
        - np.mean([cosines[i, j] for j in range(9) if classes[j] != classes[i]])
        for i in range(9)
    ]
    np.testing.assert_allclose(class_gaps(Embedded.of(vectors, classes)), expected, atol=1e-12)
    mixed = class_gaps(Embedded.of(generator.normal(size=(300, 40)), np.arange(300) % 3))
    assert abs(mixed.mean()) < 0.02  # classes without meaning lie nowhere apart


def test_units_that_are_phones_name_them_on_clips_that_they_were_not_fitted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 10 * torch.eye(3)
    phones = [np.array([0, 0, 1, 1, 2, 2, -1] * 4) for _ in range(6)]
    frames = [centers[torch.from_numpy(p).clamp(min=0)] + 0.1 * torch.randn(28, 3, generator=generator) for p in phones]
    units, size = _units_of(frames, 3, seed=0)
    hits, counts, information = _phones_by_units(units, phones, size, 3)
    assert size == 3 and hits.tolist() == counts.tolist() == [24, 24, 24] and information > 0.999
    shuffled = [generator_phones[np.random.default_rng(i).permutation(28)] for i, generator_phones in enumerate(phones)]
    hits, counts, information = _phones_by_units(units, shuffled, size, 3)
    assert hits.sum() / counts.sum() < 0.7 and information < 0.3
    assert _units_of(frames, 100, seed=0)[1] == 21  # four frames a unit of 84
