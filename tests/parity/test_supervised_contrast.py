"""Loss and miners against pytorch-metric-learning: the same pairs, values and gradients, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from allophone.losses.mining import MiningConfig, keep_by_rule
from allophone.losses.supervised_contrast import LabelledRows, cosines, gather_labelled, supervised_contrast_loss

pytestmark = [pytest.mark.parity, pytest.mark.peer]
distances = pytest.importorskip("pytorch_metric_learning.distances")
losses = pytest.importorskip("pytorch_metric_learning.losses")
miners = pytest.importorskip("pytorch_metric_learning.miners")

TEMPERATURES = (0.05, 0.1, 1.0)


def drawn(seed: int, classes: int = 6) -> tuple[Tensor, Tensor]:
    """Vectors in loose clusters, so that rules keep some pairs and not others; labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (24,), generator=generator)
    centers = torch.randn(classes, 10, generator=generator, dtype=torch.float64)
    vectors = centers[labels] + 0.9 * torch.randn(24, 10, generator=generator, dtype=torch.float64)
    return vectors.requires_grad_(), labels


def ours(rows: LabelledRows, rule: str, temperature: float) -> Tensor:
    """Mean over the anchors that the rule left a positive, as the peer's reducer takes it."""
    similarity = cosines(rows)
    kept = keep_by_rule(similarity.detach(), rows.positives, rows.negatives, MiningConfig(rule=rule))  # type: ignore[arg-type]
    total = supervised_contrast_loss(similarity, rows.weights, *kept, temperature)
    return total / kept[0].any(dim=1).sum()


def pairs(mask: Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in mask.nonzero()}


def zipped(rows: Tensor, columns: Tensor) -> set[tuple[int, int]]:
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("seed", range(4))
def test_supcon(seed: int, temperature: float) -> None:
    vectors, labels = drawn(seed)
    theirs = losses.SupConLoss(temperature=temperature)(vectors, labels)
    assert_same(ours(gather_labelled(vectors, labels[:, None]), "none", temperature), theirs, vectors)


@pytest.mark.parametrize(
    ("rule", "miner"), [("multi-similarity", "MultiSimilarityMiner"), ("batch-hard", "BatchHardMiner")]
)
@pytest.mark.parametrize("seed", range(6))
def test_miners_and_the_loss_on_what_they_keep(rule: str, miner: str, seed: int) -> None:
    vectors, labels = drawn(seed, classes=4 + seed)
    rows = gather_labelled(vectors, labels[:, None])
    options: dict[str, Any] = {"epsilon": 0.1} if rule == "multi-similarity" else {}
    if rule == "batch-hard":
        options["distance"] = distances.CosineSimilarity()
    found = getattr(miners, miner)(**options)(vectors, labels)
    theirs = (found[0], found[1], found[2], found[3]) if len(found) == 4 else (found[0], found[1], found[0], found[2])
    kept = keep_by_rule(cosines(rows).detach(), rows.positives, rows.negatives, MiningConfig(rule=rule))  # type: ignore[arg-type]
    both = kept[0].any(dim=1, keepdim=True) & kept[1].any(dim=1, keepdim=True)
    mine = (kept[0], kept[1]) if rule == "multi-similarity" else (kept[0] & both, kept[1] & both)
    assert pairs(mine[0]) == zipped(theirs[0], theirs[1]) and pairs(mine[1]) == zipped(theirs[2], theirs[3])
    assert 0 < len(pairs(mine[0])) < int(rows.positives.sum())
    for temperature in TEMPERATURES:
        peer = losses.SupConLoss(temperature=temperature)(vectors, labels, found)
        if rule == "batch-hard":
            peer = losses.SupConLoss(temperature=temperature)(vectors, labels, theirs)
        total = supervised_contrast_loss(cosines(rows), rows.weights, *mine, temperature)
        assert_same(total / (mine[0].any(dim=1)).sum(), peer, vectors)


def assert_same(one: Tensor, other: Tensor, vectors: Tensor) -> None:
    assert float(other) > 0
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    mine, theirs = (torch.autograd.grad(value, vectors, retain_graph=True)[0] for value in (one, other))
    torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
