"""Scores of whole rankings with several right candidates, and what a random order gets.

Shape legend: Q queries, C candidates.
Source: definitions of the LAION-CLAP retrieval script (arXiv:2211.06687) for recall and mAP@10, with one deviation: the
average precision is divided by the right candidates that could be among the first k, not by those that were (which
rewards a system for finding fewer). With one right candidate both are 1 / rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allophone.errors import DataError, NumericsError, ShapeError
from allophone.seeding import torch_generator

Array = NDArray[np.float64]
ROWS = 256
"""Queries ranked at once."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ranking:
    """Scores of each query."""

    recall: dict[int, Array]
    """For each k whether a right candidate is among the first k (for chance: how likely). Shape ``(Q,)``."""
    reciprocal_rank: Array
    """1 / rank of the first right candidate. Shape ``(Q,)``."""
    average_precision: Array
    """Average precision at ``depth``. Shape ``(Q,)``."""

    def scores(self) -> dict[str, Array]:
        """Every score by the name that tables give it: ``R@1``, ..., ``MRR``, ``mAP@10``."""
        recalls = {f"R@{k}": values for k, values in self.recall.items()}
        return {**recalls, "MRR": self.reciprocal_rank, "mAP@10": self.average_precision}


def rank_candidates(
    similarity: Tensor,
    right: Tensor,
    allowed: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    depth: int = 10,
    seed: int = 0,
) -> Ranking:
    """Rank all candidates for each query; ties are broken at random, so constant embeddings score chance.

    Args:
        similarity: Larger = more alike. Shape ``(Q, C)``, float.
        right: Right candidates. Shape ``(Q, C)``, bool.
        allowed: Candidates that take part; the right ones must. Shape ``(Q, C)``, bool; None = all.
        ks: Depths of recall.
        depth: Of average precision.
        seed: Of the order of ties.

    Raises:
        ShapeError: The shapes differ.
        NumericsError: A similarity is NaN.
        DataError: A query has no right candidate among the allowed ones.
    """
    allowed = torch.ones_like(right) if allowed is None else allowed
    _check_shapes(similarity, right, allowed)
    cuts = (slice(start, start + ROWS) for start in range(0, len(similarity), ROWS))
    return rank_blocks(((similarity[rows], right[rows], allowed[rows]) for rows in cuts), ks=ks, depth=depth, seed=seed)


def rank_blocks(
    blocks: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    ks: Sequence[int] = (1, 5, 10),
    depth: int = 10,
    seed: int = 0,
) -> Ranking:
    """As :func:`rank_candidates` of all queries together, but only the queries of one block are in memory at once.

    Args:
        blocks: Similarity, right and allowed candidates of :data:`ROWS` queries, the last block may have fewer. Shapes
            ``(B, C)``.
        ks: Depths of recall.
        depth: Of average precision.
        seed: Of the order of ties.

    Raises:
        ShapeError: The shapes differ.
        NumericsError: A similarity is NaN.
        DataError: A query has no right candidate among the allowed ones.
    """
    generator = torch_generator(seed, "ties")
    ranks, precisions, done = [], [], 0
    for similarity, right, allowed in blocks:
        _check_shapes(similarity, right, allowed)
        _check_rows(similarity, right, allowed, done)
        found = similarity.double().masked_fill(~allowed, -torch.inf)
        shuffled = torch.rand(found.shape, generator=generator).argsort(dim=1)
        order = found.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
        ranked = right.gather(1, shuffled.gather(1, order))
        ranks.append(ranked.int().argmax(dim=1) + 1)
        top = ranked[:, :depth].double()
        places = torch.arange(1, top.shape[1] + 1)
        precisions.append((top.cumsum(dim=1) / places * top).sum(dim=1) / right.sum(dim=1).clamp(max=depth))
        done += len(right)
    rank = torch.cat(ranks)
    return Ranking(
        recall={k: (rank <= k).double().numpy() for k in ks},
        reciprocal_rank=(1.0 / rank.double()).numpy(),
        average_precision=torch.cat(precisions).numpy(),
    )


def chance_ranking(
    right: Tensor, allowed: Tensor | None = None, *, ks: Sequence[int] = (1, 5, 10), depth: int = 10
) -> Ranking:
    """What a random order is expected to get, exactly.

    Args:
        right: Right candidates. Shape ``(Q, C)``, bool.
        allowed: Candidates that take part. Shape ``(Q, C)``, bool; None = all.
        ks: Depths of recall.
        depth: Of average precision.
    """
    totals = torch.full((len(right),), right.shape[1]) if allowed is None else allowed.sum(dim=1)
    return chance_of_counts(right.sum(dim=1), totals, ks=ks, depth=depth)


def chance_of_counts(right: Tensor, allowed: Tensor, *, ks: Sequence[int] = (1, 5, 10), depth: int = 10) -> Ranking:
    """As :func:`chance_ranking`, which depends on numbers alone.

    Args:
        right: How many candidates are right for each query. Shape ``(Q,)``, int64.
        allowed: How many take part. Shape ``(Q,)``, int64.
        ks: Depths of recall.
        depth: Of average precision.
    """
    pairs = list(zip(allowed.tolist(), right.tolist(), strict=True))
    known = {pair: _expected(*pair, ks, depth) for pair in set(pairs)}
    rows = np.array([known[pair] for pair in pairs])
    return Ranking(
        recall={k: rows[:, place] for place, k in enumerate(ks)},
        reciprocal_rank=rows[:, -2],
        average_precision=rows[:, -1],
    )


def _expected(total: int, count: int, ks: Sequence[int], depth: int) -> list[float]:
    """Expected recalls, reciprocal rank and average precision of ``count`` right ones among ``total``."""
    places = np.arange(total - count + 1)
    missed = np.cumprod(np.concatenate([[1.0], (total - count - places[:-1]) / (total - places[:-1])]))
    first = missed * count / (total - places)  # chance that the first right one stands at this place
    recalls = [float(first[:k].sum()) for k in ks]
    top = np.arange(1, min(depth, total) + 1)
    others = (count - 1) / (total - 1) if total > 1 else 0.0
    precision = (count / total * (1 + (top - 1) * others) / top).sum() / min(depth, count)
    return [*recalls, float((first / (places + 1)).sum()), float(precision)]


def _check_shapes(similarity: Tensor, right: Tensor, allowed: Tensor) -> None:
    shapes = {tuple(one.shape) for one in (similarity, right, allowed)}
    if len(shapes) > 1 or similarity.ndim != 2:
        raise ShapeError(f"rank_candidates: shapes {sorted(shapes)} differ; expected (queries, candidates) for all.")


def _check_rows(similarity: Tensor, right: Tensor, allowed: Tensor, first: int) -> None:
    """Refuse a query that cannot be ranked; ``first`` is the number of the first."""
    if bool(similarity.isnan().any()):
        row = first + int(similarity.isnan().any(dim=1).nonzero()[0])
        raise NumericsError(f"rank_candidates: a similarity of query {row} is NaN; look at its embedding.")
    bad = ~(right & allowed).any(dim=1) | (right & ~allowed).any(dim=1)
    if bool(bad.any()):
        row = first + int(bad.nonzero()[0])
        raise DataError(f"rank_candidates: query {row} has no right candidate, or one that is not allowed; drop it.")
