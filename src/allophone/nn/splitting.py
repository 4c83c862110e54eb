"""Where Lloyd's updates are stuck: clusters that tell little apart are merged, those that hide two are split.

An update moves a centroid by the frames near it and never across the clusters in between. Here the pair that costs
least to merge gives a centroid to the cluster that gains most by being split, while the gain is the greater one; so
every move lowers the inertia of the frames looked at.

Source: Kaukoranta, Franti and Nevalainen 1998, "Iterative split-and-merge algorithm for vector quantization codebook
generation". Deviations: all moves of a round at once, each among clusters that no other one touches; a cluster is
split across its widest direction, and merges with the neighbor that costs least.
Shape letters: n frames, D dim, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from allophone.nn.plus_plus import nearest
from allophone.nn.reservoir import TILE_FRAMES
from allophone.seeding import numpy_generator

POWER_ITERATIONS = 4
"""Towards the direction in which a cluster is widest."""
CLUSTERS_AT_ONCE = 1024
"""Whose costs of merging with all others are held at once."""


def group_sums(values: Tensor, labels: Tensor, num_groups: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of the rows with the same label.

    Args:
        values: Shape ``(n, D)``.
        labels: Shape ``(n,)``, int64, 0 to ``num_groups`` - 1.
        num_groups: K.
        weights: What each row is multiplied by, ``(n,)``; 1 by default.

    Returns:
        Sums ``(K, D)`` in the dtype of ``values``, and rows of each group ``(K,)``, int64.
    """
    members = torch.bincount(labels, minlength=num_groups)
    if values.device.type != "cpu":
        sums = torch.zeros(num_groups, values.shape[1], dtype=values.dtype, device=values.device)
        return sums.index_add_(0, labels, values if weights is None else values * weights[:, None]), members
    if num_groups <= 2**15:  # NumPy sorts 16 bits by counting
        order = torch.from_numpy(labels.numpy().astype("int16").argsort(kind="stable"))
    else:
        order = labels.argsort(stable=True)
    begins = members.cumsum(0) - members
    ordered = None if weights is None else weights[order]
    return functional.embedding_bag(order, values, begins, mode="sum", per_sample_weights=ordered), members


def split_and_merge(frames: Tensor, centroids: Tensor, seed: int) -> Tensor:
    """Means of the clusters, but for those that are better merged or split.

    Args:
        frames: Shape ``(n, D)``, float32.
        centroids: Shape ``(K, D)``, float32. One without frames costs nothing to merge.
        seed: Of the first guess at where a cluster is widest.

    Returns:
        Shape ``(K, D)``.
    """
    labels = torch.cat([nearest(tile, centroids)[0] for tile in torch.split(frames, TILE_FRAMES)])
    sums, members = group_sums(frames, labels, len(centroids))
    means = torch.where(members[:, None] > 0, sums / members.clamp_min(1)[:, None], centroids)
    costs, partners = _cheapest_merges(means, members.float())
    halves, gains = _halves(frames - means[labels], labels, len(centroids), seed)
    moves = _moves(costs.tolist(), partners.tolist(), gains.tolist())
    moved = means.clone()
    for kept, freed, split in moves:
        together = members[[kept, freed]].float()
        moved[kept] = (together[:, None] * means[[kept, freed]]).sum(0) / together.sum().clamp_min(1)
        moved[[split, freed]] = means[split] + halves[:, split]
    return moved


def _cheapest_merges(means: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """What a merge with the partner that makes it cheapest adds to the inertia, and the partner; both ``(K,)``."""
    costs, partners = [], []
    for start in range(0, len(means), CLUSTERS_AT_ONCE):
        some, own = means[start : start + CLUSTERS_AT_ONCE], members[start : start + CLUSTERS_AT_ONCE, None]
        cost = own * members / (own + members).clamp_min(1) * torch.cdist(some, means).square()
        cost.diagonal(start).fill_(torch.inf)
        least = cost.min(1)
        costs.append(least.values)
        partners.append(least.indices)
    return torch.cat(costs), torch.cat(partners)


def _halves(residuals: Tensor, labels: Tensor, num_clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Means of both halves of each cluster around its own, ``(2, K, D)``, and what they would lower the inertia by."""
    guess = numpy_generator(seed, "widest direction").standard_normal((num_clusters, residuals.shape[1]))
    direction = torch.from_numpy(guess).to(residuals)
    for _ in range(POWER_ITERATIONS):
        along = _along(residuals, direction, labels)
        direction = functional.normalize(group_sums(residuals, labels, num_clusters, along)[0])
    side = _along(residuals, direction, labels) > 0
    sums, members = group_sums(residuals, labels + num_clusters * side, 2 * num_clusters)
    halves = (sums / members.clamp_min(1)[:, None]).reshape(2, num_clusters, -1)
    one, other = members.float().reshape(2, num_clusters)
    return halves, one * other / (one + other).clamp_min(1) * (halves[0] - halves[1]).square().sum(1)


def _along(residuals: Tensor, direction: Tensor, labels: Tensor) -> Tensor:
    """Each row's product with the direction ``(K, D)`` of its cluster, ``(n,)``, in tiles that stay in cache."""
    tiles = zip(torch.split(residuals, TILE_FRAMES), torch.split(labels, TILE_FRAMES), strict=True)
    return torch.cat([(tile * direction[own]).sum(1) for tile, own in tiles])


def _moves(costs: list[float], partners: list[int], gains: list[float]) -> list[tuple[int, int, int]]:
    """Clusters to keep for two, to free and to split; cheapest merges first, for the greatest gains."""
    moves: list[tuple[int, int, int]] = []
    touched: set[int] = set()
    splits = iter(sorted(range(len(gains)), key=lambda cluster: -gains[cluster]))
    split = next(splits)
    for kept in sorted(range(len(costs)), key=lambda cluster: costs[cluster]):
        pair = {kept, partners[kept]}
        if pair & touched:
            continue
        while split in pair | touched:
            split = next(splits, -1)
        if split < 0 or gains[split] <= costs[kept]:
            break
        moves.append((kept, partners[kept], split))
        touched |= pair | {split}
    return moves
