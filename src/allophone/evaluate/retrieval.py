"""Does an utterance find the same prompt in another voice? Both directions, with hits per query.

A voice cannot be the answer here: all candidates are of one voice, all queries of another.
Shape legend: A, B utterances of the two voices, T frames, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.errors import ConfigError, DataError
from allophone.evaluate.sources import mean_pool, slice_means, standardize_by_voice
from allophone.metrics.intervals import Interval, bootstrap
from allophone.metrics.retrieval import Distance, chance_recall, dtw_distances, recall_at

Representation = Literal["mean", "slices", "frames"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptRetrieval:
    """Hits of every query in both directions: first voice to second, then second to first."""

    hits: dict[int, NDArray[np.float64]]
    """For each k, shape ``(A + B,)``, in [0, 1] (between only for exact ties)."""
    groups: tuple[Hashable, ...]
    """Prompt of each query, for a bootstrap over prompts; A + B entries."""
    queries: tuple[tuple[int, ...], tuple[int, ...]]
    """Positions of the A queries among the first voice's utterances and of the B ones among the second's."""
    chance: dict[int, float]
    """Expected recall in percent of a random order, for each k."""
    representation: str
    """What was compared, such as ``"DTW over 24 slices, cosine"``."""

    def recall(self, k: int) -> float:
        """Recall at k in percent, mean over all queries of both directions."""
        return 100.0 * float(self.hits[k].mean())

    def interval(self, k: int, *, resamples: int = 1000, seed: int = 0) -> Interval:
        """Recall at k in percent with its 95 % interval over prompts."""
        return bootstrap(self.hits[k], groups=self.groups, resamples=resamples, seed=seed).scaled(100.0)


def retrieve_prompts(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    first_groups: Sequence[Hashable],
    second_groups: Sequence[Hashable],
    *,
    representation: Representation = "slices",
    distance: Distance = "cosine",
    slices: int = 24,
    standardize: bool = True,
    ks: Sequence[int] = (1, 5),
    progress: Callable[[int, int], None] | None = None,
) -> PromptRetrieval:
    """Search each voice with the utterances of the other.

    Prompts that only one of the voices has spoken, and utterances without a prompt (None), are left out.

    Args:
        first: Frames of one voice, shape ``(T, D)`` each; hidden states, square roots of unit posteriors, ...
        second: Frames of the other voice.
        first_groups: Prompt of each utterance of ``first``.
        second_groups: Prompt of each utterance of ``second``.
        representation: ``"mean"``: one mean vector an utterance; ``"slices"``: dynamic time warping over the means of
            ``slices`` equal parts; ``"frames"``: dynamic time warping over all frames.
        distance: Of two vectors.
        slices: Parts, for ``"slices"``.
        standardize: Give each dimension zero mean and unit variance over what is compared (means, slices or frames) of
            each voice, by itself. Every utterance weighs the same then in the first two.
        ks: Depths.
        progress: Called with (queries done, queries) during time warping.

    Raises:
        DataError: Frames and prompts do not match in number, or no prompt is shared.
        ConfigError: ``representation`` is unknown.
    """
    name = describe(representation, distance, slices, standardize)
    _check(first, first_groups, "first")
    _check(second, second_groups, "second")
    shared = (set(first_groups) & set(second_groups)) - {None}
    if not shared:
        raise DataError(
            f"retrieve_prompts: no prompt of the {len(first)} utterances of the first voice is among the "
            f"{len(second)} of the second; look at the corpus' group column."
        )
    rows = [index for index, group in enumerate(first_groups) if group in shared]
    columns = [index for index, group in enumerate(second_groups) if group in shared]
    row_groups, column_groups = [first_groups[i] for i in rows], [second_groups[i] for i in columns]
    compared = [
        _represent([frames[i] for i in indices], representation, slices, standardize)
        for frames, indices in ((first, rows), (second, columns))
    ]
    distances = _distances(compared[0], compared[1], representation, distance, progress)
    right = torch.tensor([[group == other for other in column_groups] for group in row_groups])
    onward, back = recall_at(-distances, right, ks), recall_at(-distances.T, right.T, ks)
    chances = [chance_recall(right, ks), chance_recall(right.T, ks)]
    total = len(rows) + len(columns)
    return PromptRetrieval(
        hits={k: torch.cat([onward[k], back[k]]).numpy() for k in ks},
        groups=tuple(row_groups + column_groups),
        queries=(tuple(rows), tuple(columns)),
        chance={k: 100.0 * (chances[0][k] * len(rows) + chances[1][k] * len(columns)) / total for k in ks},
        representation=name,
    )


def describe(
    representation: Representation, distance: Distance = "cosine", slices: int = 24, standardize: bool = True
) -> str:
    """Name of what is compared, for tables."""
    names = {"mean": "mean over frames", "slices": f"DTW over {slices} slices", "frames": "DTW over frames"}
    if representation not in names:
        raise ConfigError(f"retrieval: unknown representation {representation!r}; known: {', '.join(names)}.")
    return f"{names[representation]}, {distance}" + (", standardized by voice" if standardize else "")


def _check(frames: Sequence[Tensor], groups: Sequence[Hashable], name: str) -> None:
    if len(frames) != len(groups):
        raise DataError(
            f"retrieve_prompts: the {name} voice has {len(frames)} utterances but {len(groups)} prompts; "
            "one each is needed."
        )


def _represent(frames: list[Tensor], representation: Representation, slices: int, standardize: bool) -> list[Tensor]:
    """Sequences to compare, of one voice: one vector, ``slices`` vectors or all frames each."""
    if representation == "mean":
        frames = list(mean_pool(frames).split(1))
    elif representation == "slices":
        frames = [slice_means(item, slices) for item in frames]
    return standardize_by_voice(frames, [""] * len(frames)) if standardize else frames


def _distances(
    first: list[Tensor],
    second: list[Tensor],
    representation: Representation,
    distance: Distance,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """All distances, shape ``(A, B)``."""
    if representation != "mean":
        return dtw_distances(first, second, distance, progress)
    a, b = torch.cat(first).double(), torch.cat(second).double()
    if distance == "euclidean":
        return torch.cdist(a, b)
    return 1 - torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T
