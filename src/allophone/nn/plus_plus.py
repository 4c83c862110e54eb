"""Where k-means begins: greedy k-means++ on frames or on random directions of them, and the nearest centroid.

Source: Arthur and Vassilvitskii 2007, with several trials a centroid, as scikit-learn has it.
Shape letters: n frames, D dim, K clusters, A given centroids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allophone.errors import DataError
from allophone.nn.products import times_transposed
from allophone.nn.reservoir import TILE_FRAMES
from allophone.seeding import numpy_generator

SEEDING_DIM = 96
"""Wider frames are thrown onto so many random directions to draw seeds from: distances stay within some percent."""


def in_random_directions(frames: Tensor, seed: int) -> Tensor:
    """Frames ``(n, D)`` as they are, or in ``SEEDING_DIM`` random directions: ``(n, fewer)``."""
    dim = frames.shape[1]
    if dim <= SEEDING_DIM:
        return frames
    directions = numpy_generator(seed, "directions").standard_normal((SEEDING_DIM, dim)) / SEEDING_DIM**0.5
    return times_transposed(frames, torch.from_numpy(directions).to(frames))


def plus_plus(frames: Tensor, num_clusters: int, seed: int, given: Tensor | None = None) -> Tensor:
    """Greedy k-means++, from a random frame or beside ``given`` centroids ``(A, D)``.

    ``frames`` centered, ``(n, D)``; returns rows of some of them, ``(K - A,)``.
    """
    generator = numpy_generator(seed, "k-means++")
    norms = frames.square().sum(1)
    trials = 2 + int(math.log(num_clusters))
    picked: list[Tensor] = []
    if given is None:
        picked.append(torch.from_numpy(generator.integers(len(frames), size=1)).to(frames.device))
        closest = _squared_distances(frames, norms, picked[0])[:, 0]
    else:
        closest = torch.cat([nearest(tile, given)[1] for tile in torch.split(frames, TILE_FRAMES)])
    begun = 1 if given is None else len(given)
    for found in range(begun, num_clusters):
        cumulative = closest.double().cumsum(0)
        if float(cumulative[-1]) <= 0:
            raise DataError(
                f"fit_kmeans: only {found} distinct frames among {len(frames)}, expected {num_clusters} clusters. "
                "Use fewer clusters or more audio; constant or silent audio has almost no distinct frames."
            )
        draws = torch.from_numpy(generator.random(trials)).to(cumulative) * cumulative[-1]
        candidates = torch.searchsorted(cumulative, draws, right=True).clamp_max(len(frames) - 1)
        options = torch.minimum(closest[:, None], _squared_distances(frames, norms, candidates))
        best = int(options.sum(0, dtype=torch.float64).argmin())
        closest = options[:, best].contiguous()
        picked.append(candidates[best : best + 1])
    return torch.cat(picked)


def _squared_distances(frames: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """From all frames ``(n, D)`` to some of them ``(m,)``; rounding noise counts as 0. Shape ``(n, m)``."""
    scale = norms[:, None] + norms[rows]
    distances = torch.addmm(scale, frames, frames[rows].T, alpha=-2.0)
    return distances.where(distances > 1e-6 * scale, 0.0)


def nearest(frames: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and squared distances of a tile, both ``(n,)``; frames and centroids centered alike."""
    scores = times_transposed(frames, -2.0 * centroids, centroids.square().sum(1), smallest=0)
    if scores.device.type == "cpu" and scores.numel() > 0:  # NumPy compares several values at once
        labels = torch.from_numpy(scores.numpy().argmin(1))
        lowest = scores.gather(1, labels[:, None])[:, 0]
    else:
        lowest, labels = scores.min(1)
    return labels, (lowest + torch.linalg.vector_norm(frames, dim=1).square()).clamp_min(0.0)
