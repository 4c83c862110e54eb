"""A ridge regression from pooled frames to vectors of texts: what heads are compared with, and where one starts.

Shape letters: N recordings, P pooled values, E dim of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import Tensor
from torch.nn import functional as F

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.seeding import numpy_generator

RIDGE_CLIPS = 3_000
"""Most recordings that a ridge regression is fitted on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ridge:
    """A linear map of standardized values, float64."""

    mean: Tensor
    """Shape ``(P,)``."""
    deviation: Tensor
    """Shape ``(P,)``, above 0."""
    weight: Tensor
    """Shape ``(E, P)``."""
    bias: Tensor
    """Shape ``(E,)``."""

    def __call__(self, values: Tensor) -> Tensor:
        """Values ``(N, P)`` to ``(N, E)``, float64."""
        return (values.double() - self.mean) / self.deviation @ self.weight.T + self.bias


def fit_ridge(features: Tensor, targets: NDArray[np.float64]) -> Ridge:
    """Fit, with the strength that leaving one out finds best.

    Args:
        features: Shape ``(N, P)``.
        targets: Shape ``(N, E)``.
    """
    known = features.double().numpy()
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-8
    fitted = RidgeCV(alphas=np.logspace(0, 5, 11)).fit((known - mean) / deviation, targets)
    parts = (mean, deviation, np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_))
    return Ridge(**dict(zip(("mean", "deviation", "weight", "bias"), map(torch.from_numpy, parts), strict=True)))


def ridge_vectors(features: Tensor, targets: NDArray[np.float64], asked: Tensor) -> Tensor:
    """Vectors of length 1, float32, that a ridge regression gives to ``asked`` ``(N, P)``. Shape ``(N, E)``."""
    return F.normalize(fit_ridge(features, targets)(asked).float(), dim=-1)


def drawn_rows(heard: Corpus, seed: int) -> list[Utterance]:
    """At most :data:`RIDGE_CLIPS` utterances, in order."""
    chosen = numpy_generator(seed, "ridge").permutation(len(heard))[:RIDGE_CLIPS]
    return [heard.utterances[index] for index in sorted(chosen)]
