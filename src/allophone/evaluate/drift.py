"""Forgetting taken apart: have the units drifted away from their centroids, or is what they told apart gone?

A unit vocoder or language model that was trained before an encoder changed reads old ids. Old centroids on the new
encoder show what it loses; the same with re-fitted centroids shows how much of that was only drift; a linear probe on
the frozen features shows what is still there whatever the units. Source of the question: arXiv:2406.14092, whose figure
of forgetting is the first of these; the decomposition is ours:

    old centroids - before = (old centroids - re-fitted) + (re-fitted - before re-fitted) + (before re-fitted - before)
                             drift                         loss                             another clustering

Shape letters: N utterances, T frames, D dim, A units before, K units now, P phones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.errors import DataError
from allophone.metrics.intervals import Interval, bootstrap_statistic
from allophone.metrics.units import joint_counts, pnmi

Row = Literal[
    "chance",
    "filter bank",
    "random encoder",
    "before",
    "before, re-fitted",
    "after",
    "after, old centroids",
    "after, re-fitted",
    "after, handed over",
]
ROWS: tuple[Row, ...] = get_args(Row)
"""Rows of every table, in this order. Units of filter banks and of the random encoder are fitted on the same audio;
``handed over`` are those in the pack; ``after`` is the new encoder where features are read and not units."""

Ids = NDArray[np.int64]
Labels = Mapping[str, Ids]
"""Id of every frame by utterance, ``(T,)``; -1 where a frame has none."""

RIDGE = 1e-3
"""Weight of the penalty of the probe, as a share of the mean variance of a feature."""

RESAMPLES = 400
"""Of the utterances, for every interval."""

PARTS = ("total", "drift", "loss", "clustering")
"""Of a change; the last three add up to the first."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drift:
    """One row of one measure on one language, in percent; higher is better."""

    measure: str
    language: str
    row: Row
    items: tuple[str, ...]
    """Utterances that were scored; the same in all rows of a measure and language."""
    statistic: Callable[[Ids], float]
    """The score of the utterances with these numbers."""

    @property
    def interval(self) -> Interval:
        """Value and its 95 % interval over utterances."""
        return _centered(len(self.items), self.statistic)

    def minus(self, other: Drift) -> Interval:
        """Difference to another row, paired by utterance.

        Raises:
            DataError: The two were scored on different utterances.
        """
        if self.items != other.items:
            raise DataError(
                f"{self.measure}/{self.language}: {self.row!r} and {other.row!r} were scored on different utterances; "
                "score both on the same list."
            )
        return _centered(len(self.items), lambda chosen: self.statistic(chosen) - other.statistic(chosen))


def _centered(count: int, statistic: Callable[[Ids], float]) -> Interval:
    """Interval over utterances, moved onto the value where resampling, which raises information, left it aside."""
    found = bootstrap_statistic(count, statistic, resamples=RESAMPLES)
    if found.low <= found.value <= found.high:
        return found
    shift = found.value - (found.low + found.high) / 2
    return Interval(found.value, found.low + shift, found.high + shift, found.n)


def same_id(before: Labels, now: Labels, items: Sequence[str], *, language: str, row: Row) -> Drift:
    """Share of frames whose id is the one that they had: what a vocoder of old ids still reads as before."""
    hits, frames = _counts([(before[name] == now[name], before[name] >= 0) for name in items])
    return _ratio("same_id", language, row, items, hits, frames)


def found_again(
    before: Labels, now: Labels, training: Sequence[str], items: Sequence[str], *, language: str, row: Row
) -> Drift:
    """Share of frames whose old id can be told from the new one: what units still tell apart, whatever they are called.

    Each new id is read as the old id that most of its frames had in ``training``; one that did not occur there as the
    commonest.
    """
    size = 1 + max(int(ids.max(initial=0)) for labels in (before, now) for ids in labels.values())
    joint = np.zeros((size, size), dtype=np.int64)
    for name in training:
        joint += joint_counts(now[name], before[name], size, size)
    if joint.sum() == 0:
        raise DataError(f"found_again, {language}: no training frames, so no id can be read as another.")
    read = np.where(joint.sum(1) > 0, joint.argmax(1), joint.sum(0).argmax())
    hits, frames = _counts([(read[now[name]] == before[name], before[name] >= 0) for name in items])
    return _ratio("found_again", language, row, items, hits, frames)


def phone_information(
    units: Labels, phones: Labels, items: Sequence[str], *, num_units: int, num_phones: int, language: str, row: Row
) -> Drift:
    """PNMI: what share of the phone the unit tells; frames without a phone are left out."""
    tables = []
    for name in items:
        labelled = phones[name] >= 0
        joint = joint_counts(units[name][labelled], phones[name][labelled], num_units, num_phones)
        tables.append(joint.ravel())
    stacked = np.stack(tables).astype(np.float64)

    def statistic(chosen: Ids) -> float:
        times = np.bincount(chosen, minlength=len(stacked)).astype(np.float64)
        return 100 * pnmi((times @ stacked).reshape(num_units, num_phones))

    return Drift(measure="pnmi", language=language, row=row, items=tuple(items), statistic=statistic)


def probe(
    frames: Mapping[str, Tensor],
    targets: Labels,
    training: Sequence[str],
    items: Sequence[str],
    *,
    classes: int,
    measure: str,
    language: str,
    row: Row,
) -> Drift:
    """Share of frames whose target a linear reader of the frozen features names.

    Ridge regression to one-hot targets, solved exactly from sums: nothing is drawn, so there is no seed.

    Args:
        frames: Features by utterance, ``(T, D)`` each.
        targets: What is to be read, such as old units or phones; frames with -1 are left out.
        training: Utterances that the reader learns from.
        items: Others, that it is scored on.
        classes: Different targets.
        measure: Name of the result.
        language: Its language.
        row: Whose features these are.

    Raises:
        DataError: ``training`` and ``items`` share an utterance, or no training frame has a target.
    """
    shared = sorted(set(training) & set(items))
    if shared:
        raise DataError(
            f"{measure}, {language}: {shared[0]!r} is trained on and scored; expected different utterances."
        )
    dim = next(iter(frames.values())).shape[1] + 1
    gram, cross = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, classes, dtype=torch.float64)
    for name in training:
        known = torch.from_numpy(targets[name] >= 0)
        features = _with_one(frames[name])[known]
        gram += features.T @ features
        cross.index_add_(1, torch.from_numpy(targets[name])[known], features.T)
    seen = float(gram[-1, -1])
    if seen == 0:
        raise DataError(f"{measure}, {language}: no training frame has a target. Label some utterances to learn from.")
    penalty = RIDGE * float(gram.diagonal()[:-1].mean()) * torch.eye(dim, dtype=torch.float64)
    penalty[-1, -1] = 0.0
    weights = torch.linalg.solve(gram + penalty, cross)
    rows = []
    for name in items:
        read = (_with_one(frames[name]) @ weights).argmax(1).numpy()
        rows.append((read == targets[name], targets[name] >= 0))
    hits, counted = _counts(rows)
    return _ratio(measure, language, row, items, hits, counted)


def _with_one(frames: Tensor) -> Tensor:
    return torch.cat([frames.cpu().double(), torch.ones(len(frames), 1, dtype=torch.float64)], dim=1)


def guess(targets: Labels, training: Sequence[str], items: Sequence[str], *, measure: str, language: str) -> Drift:
    """The row ``chance``: every frame is taken for the commonest target of training."""
    counts = np.zeros(1 + max(int(ids.max(initial=0)) for ids in targets.values()), dtype=np.int64)
    for name in training:
        known = targets[name][targets[name] >= 0]
        counts += np.bincount(known, minlength=len(counts))
    best = int(counts.argmax())
    hits, frames = _counts([(targets[name] == best, targets[name] >= 0) for name in items])
    return _ratio(measure, language, "chance", items, hits, frames)


def _counts(rows: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> tuple[NDArray, NDArray]:
    """Hits and frames of each utterance from (hit, counted) of its frames. Both ``(N,)``."""
    hits = np.array([(hit & counted).sum() for hit, counted in rows], dtype=np.float64)
    return hits, np.array([counted.sum() for _, counted in rows], dtype=np.float64)


def _ratio(measure: str, language: str, row: Row, items: Sequence[str], hits: NDArray, frames: NDArray) -> Drift:
    if not len(items) or frames.sum() == 0:
        raise DataError(f"{measure}, {language}, {row}: no frame to score. Hold out some utterances of this language.")

    def statistic(chosen: Ids) -> float:
        total = frames[chosen].sum()
        return float(100 * hits[chosen].sum() / total) if total else float("nan")

    return Drift(measure=measure, language=language, row=row, items=tuple(items), statistic=statistic)


def parts(found: Sequence[Drift], measure: str, language: str) -> dict[str, Interval]:
    """A change of one measure on one language as :data:`PARTS`, in points of percent; empty where rows are missing."""
    rows = {one.row: one for one in found if (one.measure, one.language) == (measure, language)}
    wanted: dict[str, tuple[Row, Row]] = {
        "total": ("after, old centroids", "before"),
        "drift": ("after, old centroids", "after, re-fitted"),
        "loss": ("after, re-fitted", "before, re-fitted"),
        "clustering": ("before, re-fitted", "before"),
    }
    if not all(row in rows for pair in wanted.values() for row in pair):
        return {}
    return {part: rows[first].minus(rows[second]) for part, (first, second) in wanted.items()}
