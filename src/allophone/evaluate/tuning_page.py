"""The page of a tuning: scores, what is taken for what and sounds like it, and how the space changed; one offline file.

Shape letters: N training embeddings, M test embeddings, C classes, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allophone.evaluate.embedding_probes import Embedded
from allophone.evaluate.pages import page_templates
from allophone.evaluate.plane import draw_planes
from allophone.evaluate.report_media import confusion_map
from allophone.metrics.intervals import Interval

MOST_CLASSES = 40
"""Classes of a confusion matrix that can still be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """A test recording and the training recording of another class that it is nearest to."""

    test: int
    """Row of the test part."""
    train: int
    """Row of the training part."""
    cosine: float
    """Of the two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A test recording that was taken for another class, and a training recording of that class, both to be heard."""

    said: str
    """What happened."""
    heard: str
    """``data:`` address of the test recording."""
    heard_is: str
    """Id, speaker and text."""
    other: str
    """``data:`` address of the training recording."""
    other_is: str
    """Id, speaker and text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TuningPage:
    """Everything that stands on the page."""

    label: str
    names: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    readers: tuple[str, ...]
    cells: dict[str, dict[str, Interval]]
    """Percent right by system and reader."""
    shown: str
    """The system that confusions, neighbors and results by class are of."""
    counts: NDArray[np.int64]
    """Of its linear probe: true class by predicted one. Shape ``(C, C)``."""
    by_class: tuple[tuple[str, float], ...]
    """Percent right, worst first."""
    by_speaker: tuple[tuple[str, float], ...]
    """Percent right, worst first."""
    confused: tuple[Pair, ...]
    """The most frequent confusions, one recording each."""
    crossed: tuple[Pair, ...]
    """Neighbors across a border, nearest first."""
    spaces: tuple[tuple[str, Embedded], ...]
    """Test embeddings before and after."""


def crossings(train: Embedded, test: Embedded, most: int) -> list[Crossing]:
    """Test embeddings whose nearest training embedding is of another class, those that are nearest first.

    Args:
        train: Shape ``(N, D)``.
        test: Shape ``(M, D)``.
        most: How many.
    """
    cosines = test.unit @ train.unit.T
    nearest = cosines.argmax(axis=1)
    best = cosines[np.arange(len(nearest)), nearest]
    wrong = np.flatnonzero(train.classes[nearest] != test.classes)
    order = wrong[np.argsort(-best[wrong], kind="stable")][:most]
    return [Crossing(test=int(row), train=int(nearest[row]), cosine=float(best[row])) for row in order]


def confusions(predicted: NDArray[np.int64], train: Embedded, test: Embedded, most: int) -> list[tuple[int, Crossing]]:
    """The most frequent confusions of two classes: how often, and the test embedding that is nearest to what it is not.

    Args:
        predicted: What a probe said. Shape ``(M,)``.
        train: Shape ``(N, D)``; must have every class.
        test: Shape ``(M, D)``.
        most: How many.
    """
    wrong = np.flatnonzero(predicted != test.classes)
    pairs, which = np.unique(np.stack([test.classes[wrong], predicted[wrong]]), axis=1, return_inverse=True)
    counts = np.bincount(which.ravel(), minlength=pairs.shape[1])
    found = []
    for pair in np.argsort(-counts, kind="stable")[:most]:
        own = wrong[which.ravel() == pair]
        members = np.flatnonzero(train.classes == pairs[1, pair])
        cosines = test.unit[own] @ train.unit[members].T
        row, column = np.unravel_index(cosines.argmax(), cosines.shape)
        crossing = Crossing(test=int(own[row]), train=int(members[column]), cosine=float(cosines[row, column]))
        found.append((int(counts[pair]), crossing))
    return found


def write_tuning_page(page: TuningPage, path: Path) -> Path:
    """Write ``path`` and return it."""
    spaces = [(title, embedded.vectors) for title, embedded in page.spaces]
    html = (
        page_templates()
        .get_template("tuning.html.jinja")
        .render(
            page=page,
            rows=[(name, [_cell(row[reader]) for reader in page.readers]) for name, row in page.cells.items()],
            matrix=confusion_map(page.counts, page.names) if len(page.names) <= MOST_CLASSES else "",
            planes=draw_planes(spaces, page.spaces[0][1].classes, page.names),
        )
    )
    partial = path.with_name(f".{path.name}")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def _cell(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.1f}", f"{interval.low:.1f}–{interval.high:.1f}"


def worst_first(names: Sequence[str], shares: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Names with their percents, lowest first."""
    return tuple(sorted(zip(names, shares, strict=True), key=lambda one: (one[1], one[0])))
