from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from allophone.errors import DataError, NumericsError, ShapeError
from allophone.metrics.ranking import chance_ranking, rank_candidates

RIGHT = torch.tensor([[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()


def by_hand(relevant: list[bool], depth: int) -> list[float]:
    first = relevant.index(True) + 1
    precisions = [sum(relevant[:k]) / k for k in range(1, depth + 1) if relevant[k - 1]]
    return [float(first <= 1), float(first <= 2), 1 / first, sum(precisions) / min(depth, sum(relevant))]


def test_scores_are_those_of_the_definitions() -> None:
    similarity = torch.rand(2, 6, generator=torch.Generator().manual_seed(3))
    found = rank_candidates(similarity, RIGHT, ks=(1, 2), depth=3)
    for row in range(2):
        relevant = [bool(RIGHT[row, place]) for place in similarity[row].argsort(descending=True)]
        ours = [found.recall[1][row], found.recall[2][row], found.reciprocal_rank[row], found.average_precision[row]]
        assert ours == pytest.approx(by_hand(relevant, 3))


def test_chance_is_the_mean_over_all_orders() -> None:
    chance = chance_ranking(RIGHT, ks=(1, 2), depth=3)
    for row in range(2):
        orders = itertools.permutations(RIGHT[row].tolist())
        mean = np.mean([by_hand(list(order), 3) for order in orders], axis=0)
        ours = [chance.recall[1][row], chance.recall[2][row]]
        assert [*ours, chance.reciprocal_rank[row], chance.average_precision[row]] == pytest.approx(mean.tolist())


def test_constant_embeddings_score_chance() -> None:
    right = torch.zeros(2000, 12, dtype=torch.bool)
    right[:, :2] = True
    found, chance = rank_candidates(torch.ones(2000, 12), right, ks=(1, 5)), chance_ranking(right, ks=(1, 5))
    for name, values in found.scores().items():
        assert values.mean() == pytest.approx(chance.scores()[name].mean(), abs=0.03), name


def test_what_is_not_allowed_takes_no_place() -> None:
    similarity, right = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[False, True, False]])
    allowed = torch.tensor([[False, True, True]])
    assert rank_candidates(similarity, right, ks=(1,)).recall[1].tolist() == [0.0]
    assert rank_candidates(similarity, right, allowed, ks=(1,)).recall[1].tolist() == [1.0]
    assert chance_ranking(right, allowed, ks=(1,)).recall[1].tolist() == [0.5]


def test_bad_input_is_named() -> None:
    similarity = torch.rand(2, 6)
    with pytest.raises(ShapeError, match=r"\(2, 5\), \(2, 6\)"):
        rank_candidates(similarity[:, :5], RIGHT)
    with pytest.raises(NumericsError, match="query 0 is NaN"):
        rank_candidates(similarity * torch.nan, RIGHT)
    with pytest.raises(DataError, match="query 1 has no right candidate"):
        rank_candidates(similarity, RIGHT & torch.tensor([[True], [False]]))
    with pytest.raises(DataError, match="query 0 has no right candidate, or one that is not allowed"):
        rank_candidates(similarity, RIGHT, torch.tensor([[False, True, True, True, True, True]] * 2))
