"""Classes by a few examples: logistic regression on frozen vectors, many draws of the examples.

Shape legend: N recordings to learn from, M to judge, E dim.
Source: 8 examples a class and ten draws as in MAEB (arXiv:2602.16008); the other sizes and the strength of the penalty
are our choice, the same for every system. Values are standardized by all recordings that examples are drawn from, whose
labels are not looked at for that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from allophone.errors import ConfigError, DataError, ShapeError
from allophone.metrics.intervals import Interval, bootstrap
from allophone.seeding import numpy_generator

Array = NDArray[np.float64]
SHOTS = (1, 5, 8)
DRAWS = 10
PENALTY = 1.0
"""Of logistic regression on standardized values."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FewShot:
    """Accuracy with a number of examples a class."""

    shots: int
    """Examples of each class."""
    accuracy: Interval
    """Percent; the interval is over draws and recordings."""
    deviation: float
    """Standard deviation over draws, percentage points."""
    chance: float
    """Percent of a guess among the classes, each as likely."""
    hits: Array
    """Shape ``(draws, M)``."""


def few_shot(
    examples: Array,
    example_labels: Sequence[str],
    judged: Array,
    judged_labels: Sequence[str],
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> list[FewShot]:
    """Learn from a few drawn examples, judge all recordings; for each number of examples that every class has.

    Args:
        examples: What examples are drawn from. Shape ``(N, E)``.
        example_labels: N labels.
        judged: Recordings that share no speaker and no content with the examples. Shape ``(M, E)``.
        judged_labels: M labels, all among the examples'.
        shots: Examples a class.
        draws: Different draws of them.
        groups: M labels; recordings of one group are resampled together.
        seed: Of the draws and the bootstrap.

    Raises:
        ShapeError: Vectors and labels do not match in number, or dims differ.
        DataError: A class to be judged has no example, or none has enough.
        ConfigError: A number of examples or draws is below 1.
    """
    if min(*shots, draws) < 1:
        raise ConfigError(f"few_shot: {list(shots)} examples and {draws} draws; expected at least 1 each.")
    if (
        len(examples) != len(example_labels)
        or len(judged) != len(judged_labels)
        or examples.shape[1:] != judged.shape[1:]
    ):
        raise ShapeError(
            f"few_shot: examples {examples.shape} with {len(example_labels)} labels, judged {judged.shape} with "
            f"{len(judged_labels)}; expected one label a row and equal dims."
        )
    members = {label: np.flatnonzero(np.array(example_labels) == label) for label in sorted(set(example_labels))}
    missing = sorted(set(judged_labels) - members.keys())
    fewest = min(map(len, members.values()), default=0)
    if missing or len(members) < 2 or fewest < min(shots):
        raise DataError(
            f"few_shot: classes {list(members)} with at least {fewest} examples each; missing {missing}. Two classes "
            f"or more, and {min(shots)} examples of each, are needed."
        )
    found = []
    for count in (one for one in shots if one <= fewest):
        hits = np.stack([_draw(examples, members, judged, judged_labels, count, (seed, draw)) for draw in range(draws)])
        found.append(
            FewShot(
                shots=count,
                accuracy=bootstrap(hits, groups=groups, seed=seed).scaled(100.0),
                deviation=100 * float(hits.mean(axis=1).std()),
                chance=100.0 / len(members),
                hits=hits,
            )
        )
    return found


def _draw(
    examples: Array,
    members: dict[str, NDArray[np.intp]],
    judged: Array,
    judged_labels: Sequence[str],
    count: int,
    key: tuple[int, int],
) -> Array:
    """Hits of one draw. Shape ``(M,)``."""
    seed, draw = key
    rows = [
        numpy_generator(seed, "few shot", draw, count, label).permutation(of)[:count] for label, of in members.items()
    ]
    chosen, labels = np.concatenate(rows), np.repeat(list(members), count)
    mean, deviation = examples.mean(axis=0), examples.std(axis=0) + 1e-8
    model = LogisticRegression(C=PENALTY, max_iter=1000).fit((examples[chosen] - mean) / deviation, labels)
    predicted = model.predict((judged - mean) / deviation)
    hits: Array = (predicted == np.array(judged_labels)).astype(np.float64)
    return hits
