"""k-means on sufficient statistics: any number of frames in bounded memory, and the codebook that comes of it.

The frames are streamed once per update and never kept, except for one seeded reservoir sample, in which most of the
work is done: k-means++ draws the centroids, rounds of updates, splits and merges take them out of poor local minima,
and updates settle them. The stream itself then needs two or three. The stream is re-cut into fixed tiles, whose sums
add up in float64, so the result does not depend on how the caller cuts it into batches. A stream that fits into the
reservoir is read once. A stream in shards is read by an engine, anywhere; its statistics are merged in their order.

Shape letters: n frames of one batch, D dim, K clusters, R frames in the reservoir. No feature file is ever written.

Source:
    Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++), with several candidates per step as scikit-learn has it;
    splits and merges: :mod:`allophone.nn.splitting`; over-relaxed updates: Salakhutdinov & Roweis 2003, "Adaptive
    overrelaxed bound optimization methods", with a fixed factor; Hsu et al. 2021, arXiv:2106.07447, section IV-B (the
    use). Deviation: Lloyd instead of mini-batch k-means.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allophone.engine import Shard
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.nn.codebook import Codebook, CodebookInfo
from allophone.nn.plus_plus import in_random_directions, nearest, plus_plus
from allophone.nn.reservoir import (
    TILE_FRAMES,
    Batches,
    Sample,
    ShardedFrames,
    checked,
    draw_sample,
    one_shard,
    reservoir_frames,
)
from allophone.nn.splitting import group_sums, split_and_merge
from allophone.seeding import derive, numpy_generator

__all__ = [
    "Batches",
    "Codebook",
    "CodebookInfo",
    "KMeansResult",
    "ShardedFrames",
    "assign",
    "fit_kmeans",
    "reservoir_frames",
]

SEEDING_FRAMES_PER_CLUSTER = 16
ROUNDS, ROUND_FRAMES_PER_CLUSTER, ROUND_UPDATES = 8, 256, 2
SETTLING: tuple[tuple[int | None, int], ...] = ((64, 4), (128, 3), (None, 3))
"""Frames a cluster (None = the whole sample) and updates on them, at full width: far from the end a part of the frames
shows the way as well as all of them. Where the sample is not the whole stream, one update on it is enough, because
updates on the stream follow."""
ROWS = 256
"""Frames are labelled in multiples of so many, empty ones behind the last: oneDNN keeps half a megabyte for every
number of rows that it has met, up to half a gigabyte."""
RELAXATION = 1.8
"""Share of the way to the mean that an update of the sample goes; under 2 it cannot raise the inertia."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KMeansResult:
    """Centroids and how the frames of the stream fall on them."""

    centroids: Tensor
    """Shape ``(K, D)``, float32, on the device of the stream."""
    inertia_per_frame: float
    """Mean squared distance of a frame to its centroid, under these centroids."""
    counts: Tensor
    """Frames of each cluster, under these centroids. Shape ``(K,)``, int64."""
    iterations: int
    """Updates of the centroids over the whole stream."""

    @property
    def frames(self) -> int:
        """Frames of the stream."""
        return int(self.counts.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statistics:
    sums: Tensor
    """Sum of the centered frames of each cluster. Shape ``(K, D)``, float64."""
    counts: Tensor
    """Shape ``(K,)``, int64."""
    inertia: float

    def __add__(self, other: _Statistics) -> _Statistics:
        return _Statistics(
            sums=self.sums + other.sums, counts=self.counts + other.counts, inertia=self.inertia + other.inertia
        )

    @property
    def frames(self) -> int:
        return int(self.counts.sum())

    @property
    def inertia_per_frame(self) -> float:
        return self.inertia / self.frames


@dataclass(frozen=True, slots=True)
class _Anchors:
    """The first centroids, which stay near where they began."""

    centroids: Tensor
    """Shape ``(A, D)``, centered."""
    move: float


def assign(frames: Tensor, centroids: Tensor) -> Tensor:
    """Nearest centroid of each frame; the lowest number wins a tie.

    Args:
        frames: Shape ``(n, D)``, floating point.
        centroids: Shape ``(K, D)``, floating point, same device.

    Returns:
        Shape ``(n,)``, int64, 0 to K - 1.

    Raises:
        ShapeError: The two do not have the same D.
    """
    if frames.ndim != 2 or centroids.ndim != 2 or frames.shape[1] != centroids.shape[1]:
        raise ShapeError(
            f"assign: frames {tuple(frames.shape)} and centroids {tuple(centroids.shape)} do not fit; expected (n, D) "
            "and (K, D). The codebook belongs to another front end or layer."
        )
    center = centroids.float().mean(0)
    centered = centroids.float() - center
    labels = []
    for tile in torch.split(frames, TILE_FRAMES):
        rows = torch.nn.functional.pad(tile.float() - center, (0, 0, 0, -len(tile) % ROWS))
        labels.append(nearest(rows, centered)[0][: len(tile)])
    return torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64, device=frames.device)


def fit_kmeans(
    batches: Batches | ShardedFrames,
    num_clusters: int,
    *,
    seed: int,
    iterations: int = 20,
    init_frames: int | None = None,
    tolerance: float | None = None,
    start: Tensor | None = None,
    move: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> KMeansResult:
    """Cluster a stream of frames in memory that does not grow with it.

    Args:
        batches: Starts the stream; called once per pass, and must yield the same frames every time. Each batch has
            shape ``(n, D)``, floating point, any n. Or a stream in shards.
        num_clusters: K.
        seed: Of the reservoir, of k-means++ and of the re-seeding of empty clusters.
        iterations: At most so many updates over the whole stream; one more pass measures the result.
        init_frames: Frames in the reservoir; default :func:`reservoir_frames`.
        tolerance: Stop when an update improves the inertia by less than this share of it. None is 1e-3, or 1e-4 from
            given centroids, which were not settled on the sample before.
        start: Centroids ``(A, D)`` to begin with, A at most K, so that cluster k stays the nearest relative of the old
            k; those that are missing are seeded where the given ones leave the greatest distortion. None seeds all by
            k-means++.
        move: How far the given centroids may follow the frames: each is this share of the way from ``start`` to the
            mean of its frames. 1 is k-means; below it, a given one without frames stays where it is.
        progress: Called with (passes done, passes at most).

    Returns:
        Centroids with the counts and the inertia that they have on the stream.

    Raises:
        ConfigError: ``num_clusters``, ``iterations``, ``init_frames`` or ``move`` is out of range.
        DataError: Fewer (distinct) frames than clusters, or the stream changes from one pass to the next.
        ShapeError: A batch is not ``(n, D)``, or ``start`` not ``(A, D)``.
        NumericsError: A frame is not finite.
    """
    if num_clusters < 1 or iterations < 1 or (init_frames is not None and init_frames < num_clusters):
        raise ConfigError(
            f"fit_kmeans: got num_clusters {num_clusters}, iterations {iterations}, init_frames {init_frames}; "
            "expected at least one cluster, one iteration and as many init_frames as clusters."
        )
    if not 0 <= move <= 1:
        raise ConfigError(f"fit_kmeans: move is {move}; expected 0 (given centroids stay) to 1 (they are free).")
    if tolerance is None:
        tolerance = 1e-3 if start is None else 1e-4
    tick = progress or (lambda done, total: None)
    passes = iterations + 2
    whole = batches if isinstance(batches, ShardedFrames) else one_shard(batches)
    sample = draw_sample(whole, num_clusters, seed, init_frames)
    tick(1, passes)
    centroids = _seeded(sample, num_clusters, seed) if start is None else _begun(sample, num_clusters, start, seed)
    anchors = None if start is None or move == 1 else _Anchors(centroids[: len(start)].clone(), move)
    if start is None:
        for stage, (part, updates) in enumerate(_parts(sample, num_clusters, seed)):
            centroids = _settled(part, centroids, derive(seed, "settle", stage), updates)
    centroids, statistics, updates = _lloyd(
        one_shard(sample.stream) if sample.complete else whole,
        centroids,
        sample,
        seed,
        iterations,
        tolerance,
        lambda done: tick(done + 1, passes),
        anchors,
    )
    tick(passes, passes)
    return KMeansResult(
        centroids=centroids + sample.center,
        inertia_per_frame=statistics.inertia_per_frame,
        counts=statistics.counts,
        iterations=updates,
    )


def _seeded(sample: Sample, num_clusters: int, seed: int) -> Tensor:
    """Where k-means++, and rounds of updates, splits and merges lead on a part of the sample. ``(K, D)``, centered.

    Wide frames are looked at in fewer, random directions; means are taken of all.
    """
    rows = torch.from_numpy(numpy_generator(seed, "frames to start from").permutation(len(sample.frames)))
    part = sample.frames[rows[: ROUND_FRAMES_PER_CLUSTER * num_clusters].to(sample.frames.device)].sub_(sample.center)
    narrow = in_random_directions(part, seed)
    centroids = narrow[plus_plus(narrow[: SEEDING_FRAMES_PER_CLUSTER * num_clusters], num_clusters, seed)]
    origin = Sample(narrow, torch.zeros_like(narrow[0]), len(narrow))
    for turn in range(ROUNDS):
        centroids = _settled(origin, centroids, derive(seed, "round", turn), ROUND_UPDATES)
        centroids = split_and_merge(narrow, centroids, derive(seed, "split", turn))
    if narrow is part:
        return centroids
    labels = torch.cat([nearest(tile, centroids)[0] for tile in torch.split(narrow, TILE_FRAMES)])
    sums, members = group_sums(part, labels, num_clusters)
    return torch.where(members[:, None] > 0, sums / members.clamp_min(1)[:, None], part[:num_clusters])


def _parts(sample: Sample, num_clusters: int, seed: int) -> Iterator[tuple[Sample, int]]:
    """More and more of the sample, in random order, and how often to update on it."""
    rows = torch.from_numpy(numpy_generator(seed, "frames to settle on").permutation(len(sample.frames)))
    for per_cluster, updates in SETTLING:
        if per_cluster is None or per_cluster * num_clusters >= len(rows):
            yield sample, updates if sample.complete else 1
        else:
            some = rows[: per_cluster * num_clusters].to(sample.frames.device)
            yield Sample(sample.frames[some], sample.center, len(some)), updates


def _settled(sample: Sample, centroids: Tensor, seed: int, updates: int) -> Tensor:
    """Centroids after updates on the sample, over-relaxed but for the last."""
    for update in range(updates):
        now = _statistics(one_shard(sample.stream), centroids, sample.center)
        means = _updated(centroids, now, sample, derive(seed, update))
        centroids = means if update == updates - 1 else torch.lerp(centroids, means, RELAXATION)
    return centroids


def _begun(sample: Sample, num_clusters: int, start: Tensor, seed: int) -> Tensor:
    """Given centroids, centered like the sample, and as many more as are missing. Shape ``(K, D)``."""
    dim = sample.frames.shape[1]
    if start.ndim != 2 or not 1 <= len(start) <= num_clusters or start.shape[1] != dim:
        raise ShapeError(
            f"fit_kmeans: start is {tuple(start.shape)}, expected ({num_clusters}, {dim}) or fewer rows: centroids "
            "of the same frames, no more than there are clusters."
        )
    given = start.to(sample.frames) - sample.center
    if len(given) == num_clusters:
        return given
    centered = sample.frames - sample.center
    return torch.cat([given, centered[plus_plus(centered, num_clusters, seed, given)]])


def _lloyd(
    batches: ShardedFrames,
    centroids: Tensor,
    sample: Sample,
    seed: int,
    iterations: int,
    tolerance: float,
    tick: Callable[[int], None],
    anchors: _Anchors | None = None,
) -> tuple[Tensor, _Statistics, int]:
    """Centered centroids, their statistics on the stream, and how many updates led to them."""
    last: _Statistics | None = None
    held = 0 if anchors is None else len(anchors.centroids)
    for update in range(iterations + 1):
        now = _statistics(batches, centroids, sample.center)
        tick(update + 1)
        if last is not None and now.frames != last.frames:
            raise DataError(
                f"fit_kmeans: the stream had {last.frames} frames in one pass and {now.frames} in the next; it must "
                "yield the same frames every time it is started."
            )
        settled = last is not None and last.inertia - now.inertia <= tolerance * last.inertia
        if update == iterations or (settled and bool((now.counts[held:] > 0).all())):
            return centroids, now, update
        centroids = _updated(centroids, now, sample, seed + update, anchors)
        last = now
    raise AssertionError("unreachable: the last iteration returns")


def _updated(
    centroids: Tensor, statistics: _Statistics, sample: Sample, seed: int, anchors: _Anchors | None = None
) -> Tensor:
    """Means of the clusters; an empty one moves to a sampled frame, drawn by its distance to the nearest centroid.

    Anchored ones go a part of the way to their mean, and stay where they are empty.
    """
    counts = statistics.counts
    means = (statistics.sums / counts.clamp_min(1)[:, None]).float()
    centroids = torch.where(counts[:, None] > 0, means, centroids)
    empty = (counts == 0).nonzero()[:, 0]
    if anchors is not None:
        held = len(anchors.centroids)
        centroids[:held] = torch.lerp(anchors.centroids, centroids[:held], anchors.move)
        empty = empty[empty >= held]
    if len(empty):
        distances = [nearest(tile - sample.center, centroids)[1] for tile in torch.split(sample.frames, TILE_FRAMES)]
        weights = torch.cat(distances).double().cpu().numpy()
        number = min(len(empty), int((weights > 0).sum()))
        rows = numpy_generator(seed, "empty clusters").choice(
            len(weights), size=number, replace=False, p=weights / weights.sum() if number else None
        )
        centroids[empty[:number]] = sample.frames[torch.from_numpy(rows).to(centroids.device)] - sample.center
    return centroids


@dataclass(frozen=True, slots=True)
class _Measure:
    """Statistics of one shard."""

    frames: Callable[[Shard[Any]], Iterable[Tensor]]
    centroids: Tensor
    center: Tensor

    def __call__(self, shard: Shard[Any]) -> _Statistics:
        centroids = self.centroids
        sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        counts = torch.zeros(len(centroids), dtype=torch.int64, device=centroids.device)
        inertia = torch.zeros((), dtype=torch.float64, device=centroids.device)
        for tile in _tiles(checked(self.frames(shard))):
            frames = tile.float() - self.center
            labels, distances = nearest(frames, centroids)
            added, members = group_sums(frames, labels, len(centroids))
            sums += added
            counts += members
            inertia += distances.sum(dtype=torch.float64)
        return _Statistics(sums=sums, counts=counts, inertia=float(inertia))


def _statistics(batches: ShardedFrames, centroids: Tensor, center: Tensor) -> _Statistics:
    """One pass over the stream."""
    parts = batches.engine.map(_Measure(batches.frames, centroids, center), batches.shards)
    return functools.reduce(operator.add, parts)


def _tiles(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same frames cut anew into ``TILE_FRAMES`` and a rest, so that the caller's cuts leave no trace."""
    waiting: list[Tensor] = []
    held = 0
    for batch in batches:
        rest = batch
        if held:
            rest = batch[TILE_FRAMES - held :]
            waiting.append(batch[: TILE_FRAMES - held])
            held += len(waiting[-1])
            if held == TILE_FRAMES:
                yield torch.cat(waiting)
                waiting, held = [], 0
        for tile in torch.split(rest, TILE_FRAMES):  # views: a batch in memory is not copied
            if len(tile) == TILE_FRAMES:
                yield tile
            elif len(tile):
                waiting, held = [tile], len(tile)
    if held:
        yield torch.cat(waiting)
