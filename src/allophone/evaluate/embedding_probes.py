"""What two simple readers find in frozen embeddings: a linear softmax and the nearest neighbors; and with few examples.

The linear probe is scikit-learn's logistic regression on vectors of length 1, its regularization chosen on dev, never
on test. The neighbors vote with ``exp(cosine / 0.07)``. Source: the dual probe of PairTune, arXiv:2309.11895, whose
settings were not published; k, weights and grid are named choices. Embeddings stay in memory; nothing is trained here
but the probes.
Shape letters: N training embeddings, M test embeddings, L layers, D dim, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from allophone.errors import ConfigError, DataError, NumericsError
from allophone.seeding import derive, numpy_generator

REGULARIZATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""C of scikit-learn, the inverse of the penalty's weight."""
MAX_ITERATIONS = 1000
"""Of L-BFGS."""
NEIGHBORS = (1, 5, 20)
"""k of the neighbor probes."""
VOTE_TEMPERATURE = 0.07
"""A neighbor's vote weighs exp(cosine / this) (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""
SHOTS = (1, 2, 4, 8, 16, 32, 64)
"""Examples a class of the few-shot curve."""
FEW_SHOT_REGULARIZATION = 100.0
"""C of the few-shot probe, which has no examples to choose it on; weak, as few points are easy to tell apart."""
CHUNK = 1024
"""Test embeddings whose cosines are in memory at once."""
MIXTURE_STEPS = 300
"""Updates of a learned mixture of layers."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probed:
    """What a probe said of each test embedding."""

    predicted: NDArray[np.int64]
    """Class of each, shape ``(M,)``."""
    hits: NDArray[np.float64]
    """1 where it is right, shape ``(M,)``."""
    regularization: float | None = None
    """The C that was chosen; None for neighbors."""
    dev_accuracy: dict[float, float] | None = None
    """Accuracy on dev of each C; None where nothing was chosen."""
    converged: bool = True
    """Whether L-BFGS reached its optimum."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.hits.mean())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedded:
    """Embeddings with their classes."""

    vectors: NDArray[np.float64]
    """Shape ``(N, D)``."""
    classes: NDArray[np.int64]
    """Shape ``(N,)``, from 0."""

    @classmethod
    def of(cls, vectors: ArrayLike, classes: ArrayLike) -> Embedded:
        """Check and take embeddings, shape ``(N, D)``, and their classes, shape ``(N,)``.

        Raises:
            DataError: Shapes disagree, or there is none.
            NumericsError: An embedding is zero or not finite.
        """
        values, ids = np.asarray(vectors, dtype=np.float64), np.asarray(classes, dtype=np.int64)
        if values.ndim != 2 or ids.shape != (len(values),) or not len(values):
            raise DataError(
                f"Probes: embeddings are {values.shape} with classes {ids.shape}; expected (utterances, dim), one "
                "class each."
            )
        norms = np.linalg.norm(values, axis=1)
        bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(bad):
            raise NumericsError(f"Probes: embedding {bad[0]} is zero or not finite; look for an empty utterance.")
        return cls(vectors=values, classes=ids)

    @property
    def unit(self) -> NDArray[np.float64]:
        """Vectors of length 1, shape ``(N, D)``."""
        scaled: NDArray[np.float64] = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return scaled

    def only(self, rows: NDArray[np.int64]) -> Embedded:
        """Some of them, by index, shape ``(any,)``."""
        return Embedded(vectors=self.vectors[rows], classes=self.classes[rows])


def linear_probe(
    train: Embedded,
    test: Embedded,
    dev: Embedded | None = None,
    *,
    regularizations: Sequence[float] = REGULARIZATIONS,
) -> Probed:
    """Softmax regression; where there are several regularizations, the one with the best dev accuracy is taken.

    Of equal ones the stronger is taken. The probe that is tested was trained on ``train`` alone.

    Args:
        train: What it learns from.
        test: What it is asked.
        dev: What the regularization is chosen on; may be left out where there is only one.
        regularizations: C of scikit-learn, any order.

    Raises:
        ConfigError: There is a choice and no dev.
        DataError: There is one class only, or dims differ.
    """
    _require_alike(train, test, dev)
    if len(regularizations) != 1 and dev is None:
        raise ConfigError(f"linear_probe: {len(regularizations)} regularizations and no dev part to choose on.")
    scores: dict[float, float] = {}
    fitted: dict[float, tuple[LogisticRegression, bool]] = {}
    model = None
    for strength in sorted(regularizations):
        model, converged = _fit(train, strength, model)
        fitted[strength] = model, converged
        if dev is not None:
            scores[strength] = float((model.predict(dev.unit) == dev.classes).mean())
    best = max(scores, key=lambda strength: scores[strength]) if scores else regularizations[0]
    chosen, converged = fitted[best]
    predicted = chosen.predict(test.unit).astype(np.int64)
    return Probed(
        predicted=predicted,
        hits=(predicted == test.classes).astype(np.float64),
        regularization=best,
        dev_accuracy=scores or None,
        converged=converged,
    )


def neighbor_probe(train: Embedded, test: Embedded, *, k: int = 20) -> Probed:
    """The class with most votes among the k most similar training embeddings.

    Args:
        train: Who votes; where there are fewer than ``k``, all do.
        test: What they are asked.
        k: Neighbors.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: Dims differ, or there is one class only.
    """
    _require_alike(train, test)
    if k < 1:
        raise ConfigError(f"neighbor_probe: k is {k}; expected at least 1.")
    known, classes = torch.from_numpy(train.unit), torch.from_numpy(train.classes)
    num_classes = int(train.classes.max()) + 1
    answers = []
    for part in torch.from_numpy(test.unit).split(CHUNK):
        cosines, places = (part @ known.T).topk(min(k, len(known)), dim=1)
        votes = ((cosines - cosines[:, :1]) / VOTE_TEMPERATURE).exp()  # the largest is 1; ratios are what they were
        answers.append(torch.zeros(len(part), num_classes).double().scatter_add(1, classes[places], votes).argmax(1))
    predicted = torch.cat(answers).numpy()
    return Probed(predicted=predicted, hits=(predicted == test.classes).astype(np.float64))


def few_shot_curve(
    train: Embedded, test: Embedded, *, shots: Sequence[int] = SHOTS, draws: int = 10, seed: int = 0
) -> dict[int, NDArray[np.float64]]:
    """Hits of linear probes that saw a few examples of each class.

    A class with fewer examples gives all it has. Numbers of shots that no class can fill are left out.

    Args:
        train: Examples are drawn from here.
        test: What the probes are asked.
        shots: Examples a class.
        draws: How often examples are drawn, each with another seed.
        seed: Of the draws; the smaller sets of a draw lie within its larger ones.

    Returns:
        Hits by number of shots, shape ``(draws, M)``.
    """
    _require_alike(train, test)
    largest = int(np.bincount(train.classes).max())
    orders = [_by_class(train.classes, derive(seed, "few-shot", draw)) for draw in range(draws)]
    curve = {}
    for count in [number for number in shots if number <= largest]:
        probes = []
        for order in orders:
            rows = np.concatenate([members[:count] for members in order])
            probes.append(linear_probe(train.only(rows), test, regularizations=(FEW_SHOT_REGULARIZATION,)).hits)
        curve[count] = np.stack(probes)
    return curve


def learned_mixture(states: ArrayLike, classes: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Shares of the layers with which a linear probe reads training embeddings best.

    Layers are given equal length on average first, or the loudest would count most. Softmax weights over layers as in
    SUPERB (arXiv:2105.01051), trained with a linear layer by Adam.

    Args:
        states: Embeddings of each layer. Shape ``(N, L, D)``.
        classes: Shape ``(N,)``, from 0.
        seed: Of the first values.

    Returns:
        Factor of each layer, lengths included: the mixture is ``factors @ states``. Shape ``(L,)``.

    Raises:
        DataError: Shapes disagree.
    """
    values, ids = torch.from_numpy(np.asarray(states, dtype=np.float32)), torch.from_numpy(np.asarray(classes))
    if values.ndim != 3 or ids.shape != values.shape[:1]:
        raise DataError(
            f"learned_mixture: states {tuple(values.shape)}, classes {tuple(ids.shape)}; expected (N, L, D)."
        )
    lengths = values.norm(dim=-1).mean(dim=0).clamp(min=1e-12)
    values = values / lengths[:, None]
    generator = torch.Generator().manual_seed(derive(seed, "mixture"))
    logits = nn.Parameter(torch.zeros(values.shape[1]))
    weight = nn.Parameter(0.01 * torch.randn(int(ids.max()) + 1, values.shape[2], generator=generator))
    optimizer = torch.optim.Adam([logits, weight], lr=0.05)
    for _ in range(MIXTURE_STEPS):
        mixed = nn.functional.normalize(torch.einsum("l,nld->nd", logits.softmax(0), values), dim=-1)
        loss = nn.functional.cross_entropy(mixed @ weight.T, ids) + 1e-4 * weight.square().sum() / len(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    factors: NDArray[np.float64] = (logits.detach().softmax(0) / lengths).double().numpy()
    return factors


def _fit(train: Embedded, strength: float, start: LogisticRegression | None) -> tuple[LogisticRegression, bool]:
    """A probe of one regularization, begun where the one before ended, and whether it converged."""
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, warm_start=True, tol=1e-5)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.unit, train.classes)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def _by_class(classes: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Rows of each class in an order of their own."""
    generator = numpy_generator(seed, "order")
    return [generator.permutation(np.flatnonzero(classes == number)) for number in np.unique(classes)]


def _require_alike(train: Embedded, *others: Embedded | None) -> None:
    dims = {part.vectors.shape[1] for part in (train, *others) if part is not None}
    if len(dims) > 1 or len(np.unique(train.classes)) < 2:
        raise DataError(
            f"Probes: embeddings of {sorted(dims)} dims and {len(np.unique(train.classes))} classes to learn from; "
            "expected one dim and at least two classes."
        )
