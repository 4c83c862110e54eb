"""A stream of frames, whole or in shards, and a uniform sample of it in bounded memory.

Shape letters: n frames of one batch, D dim, R frames in the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allophone.engine import Engine, LocalEngine, Shard
from allophone.errors import DataError, NumericsError, ShapeError
from allophone.seeding import derive

Batches = Callable[[], Iterable[Tensor]]
"""Starts the same stream of frames ``(n, D)`` anew at every call."""

TILE_FRAMES = 2048
"""Frames whose distances to all centroids are held at once."""
RESERVOIR_FRAMES_PER_CLUSTER = 1024
RESERVOIR_VALUES = 2**26
"""Values that the default reservoir may hold (256 MiB), unless that were under 16 frames a cluster."""


@dataclass(frozen=True, slots=True)
class ShardedFrames:
    """A stream of frames in shards, each of which can be read by itself, anywhere and any number of times."""

    shards: tuple[Shard[Any], ...]
    """In the order of the stream."""
    starts: tuple[int, ...]
    """Frames of the stream before each shard."""
    frames: Callable[[Shard[Any]], Iterable[Tensor]]
    """Batches ``(n, D)`` of one shard."""
    engine: Engine
    """What reads the shards."""


def reservoir_frames(num_clusters: int, dim: int) -> int:
    """Frames of the default reservoir: 1024 a cluster, fewer where that exceeds 256 MiB, but at least 16 a cluster."""
    most = max(16 * num_clusters, RESERVOIR_VALUES // dim)
    return min(RESERVOIR_FRAMES_PER_CLUSTER * num_clusters, most)


@dataclass(frozen=True, slots=True)
class Sample:
    """Frames drawn from a stream."""

    frames: Tensor
    """Shape ``(R, D)``, float32, in the order of the stream."""
    center: Tensor
    """Their mean; distances are taken after subtracting it, which keeps float32 exact. Shape ``(D,)``."""
    seen: int
    """Frames of the stream that the sample was drawn from."""

    @property
    def complete(self) -> bool:
        """Whether it is the whole stream."""
        return self.seen == len(self.frames)

    def stream(self) -> Iterator[Tensor]:
        """The sample as a stream of one batch ``(R, D)``."""
        yield self.frames


def one_shard(batches: Batches) -> ShardedFrames:
    """A stream that is read here, from its beginning to its end."""
    return ShardedFrames((Shard(0, ()),), (0,), lambda shard: batches(), LocalEngine())


@dataclass(frozen=True, slots=True)
class _Drawn:
    frames: list[Tensor]
    """Of the frames kept. Shapes ``(n, D)``, float32, in the order of the stream."""
    keys: np.ndarray
    """One a frame kept. Shape ``(n,)``, float64."""
    seen: int
    """Frames that they were drawn from."""
    size: int
    """Frames that are wanted in all; 0 where there was none to tell D."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws from one shard what may belong to the sample: every frame draws a key, the lowest stay."""

    frames: Callable[[Shard[Any]], Iterable[Tensor]]
    num_clusters: int
    seed: int
    size: int | None

    def __call__(self, item: tuple[Shard[Any], int, float]) -> _Drawn:
        """Frames of a shard whose keys are below a bar; the keys are those of the whole stream from ``start`` on."""
        shard, start, bar = item
        bits = np.random.PCG64(derive(self.seed, "k-means reservoir"))
        generator = np.random.Generator(bits.advance(start))
        kept: list[Tensor] = []
        keys, held, seen, size = np.zeros(0), 0, 0, self.size or 0
        for batch in checked(self.frames(shard)):
            size = size or reservoir_frames(self.num_clusters, batch.shape[1])
            drawn = generator.random(len(batch))
            seen += len(batch)
            chosen = np.flatnonzero(drawn < bar)
            if len(chosen) > size:  # of a long batch, only what may stay is copied
                chosen = chosen[drawn[chosen] <= np.partition(drawn[chosen], size - 1)[size - 1]]
            kept.append(batch[torch.from_numpy(chosen).to(batch.device)].float())
            keys = np.concatenate([keys, drawn[chosen]])
            held += len(chosen)
            if held > _room(size):
                kept, keys = _lowest(kept, keys, size)
                held, bar = size, keys.max()
        return _Drawn(kept, keys, seen, size)


def draw_sample(batches: ShardedFrames, num_clusters: int, seed: int, size: int | None) -> Sample:
    """Uniform sample without replacement: every frame draws a key, the frames with the lowest keys stay.

    Args:
        batches: The stream.
        num_clusters: Frames needed at least; also sets the default size.
        seed: Of the keys.
        size: Frames of the sample, default :func:`reservoir_frames`; a shorter stream is kept whole.

    Raises:
        DataError: The stream has fewer frames than clusters are wanted, or has changed since its frames were counted.
    """
    kept: list[Tensor] = []
    keys, seen, bar = np.zeros(0), 0, np.inf
    draw = _Draw(batches.frames, num_clusters, seed, size)
    # Each shard leaves with the bar of its time; an older, higher one only brings more than is needed.
    items = ((shard, start, bar) for shard, start in zip(batches.shards, batches.starts, strict=True))
    for start, drawn in zip(batches.starts, batches.engine.map(draw, items), strict=True):
        if seen != start:
            raise DataError(
                f"fit_kmeans: a shard begins at frame {seen} of the stream, expected {start}; the audio has changed "
                "since it was first read. Run it again on a corpus that stays as it is."
            )
        kept, keys = [*kept, *drawn.frames], np.concatenate([keys, drawn.keys])
        seen, size = seen + drawn.seen, size or drawn.size
        if size and len(keys) > _room(size):
            kept, keys = _lowest(kept, keys, size)
            bar = keys.max()
    if seen < num_clusters:
        raise DataError(f"fit_kmeans: the stream has {seen} frames, {num_clusters} clusters need at least as many.")
    assert size
    (frames,), _ = _lowest(kept, keys, min(size, len(keys)))
    total = sum((tile.sum(0, dtype=torch.float64) for tile in torch.split(frames, TILE_FRAMES)), torch.zeros(()))
    return Sample(frames, (total / len(frames)).float(), seen)


def _room(size: int) -> int:
    """Frames that are held before those with high keys go."""
    return size + max(size // 4, TILE_FRAMES)


def _lowest(kept: list[Tensor], keys: np.ndarray, size: int) -> tuple[list[Tensor], np.ndarray]:
    """The ``size`` frames with the lowest keys, still in the order of the stream."""
    frames = torch.cat(kept) if len(kept) > 1 else kept[0]
    if len(keys) == size:
        return [frames], keys
    rows = np.sort(np.argpartition(keys, size - 1)[:size])
    return [frames[torch.from_numpy(rows).to(frames.device)]], keys[rows]


def checked(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches that have frames, detached; refuses what is not a finite ``(n, D)`` of one D."""
    dim: int | None = None
    for number, batch in enumerate(batches):
        if batch.ndim != 2 or not batch.is_floating_point() or batch.shape[1] != (dim or batch.shape[1]):
            raise ShapeError(
                f"fit_kmeans: batch {number} is {batch.dtype} of shape {tuple(batch.shape)}, expected floating point "
                f"of shape (frames, {dim or 'dim'})."
            )
        dim = batch.shape[1]
        if not bool(batch.sum().isfinite()) and not bool(
            torch.isfinite(batch).all()
        ):  # a sum is cheap, and may overflow
            raise NumericsError(f"fit_kmeans: batch {number} holds NaN or infinite values; check audio and model.")
        if len(batch):
            yield batch.detach()
