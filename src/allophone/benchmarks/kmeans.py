"""k-means on frames in memory: ours against scikit-learn's HuBERT recipe and faiss, inertia compared.

Frames are drawn from many overlapping Gaussians of unequal size, so that clusters exist but no method finds them all.
faiss takes part with 20 updates on all frames. By default it looks at 256 frames a centroid, which is fast and worse;
that is measured once and told beside. scikit-learn takes far longer than both, so it runs once, and with a single
start where the recipe has 20, which flatters its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.nn.clustering import assign, fit_kmeans
from allophone.seeding import torch_generator

FAISS, SKLEARN = "faiss", "scikit-learn, HuBERT's recipe"
FAISS_DEFAULT = "faiss, 256 frames a centroid"
WORSE = 1.002
"""Our inertia over the least of the peers': up to here equal."""


def run(
    *,
    frames: int = 200_000,
    dim: int = 768,
    clusters: int = 500,
    timing: Timing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the fits.

    Args:
        frames: How many.
        dim: Values of each.
        clusters: K.
        timing: Rounds and clock.
        progress: Called with (done, total) after each fit.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`; besides, ``inertia`` a frame of each, all measured in
        the same way, and the seconds of what ran ``once``. ``equal_output`` means that ours is no worse than 0.2 %
        above the best of the peers.
    """
    timing = timing or Timing()
    if timing.quick:
        frames, dim, clusters = min(frames, 2000), min(dim, 8), min(clusters, 4)
    values = make_frames(frames, dim)
    array = values.numpy()
    fitted: dict[str, Tensor] = {}
    missing: dict[str, str] = {}

    def ours() -> None:
        fitted[OURS] = fit_kmeans(lambda: iter([values]), clusters, seed=0).centroids

    def sklearn() -> None:
        fitted[SKLEARN] = torch.from_numpy(hubert_recipe(clusters).fit(array).cluster_centers_).float()

    ways: dict[str, Callable[[], Any]] = {OURS: ours}
    singly: dict[str, Callable[[], Any]] = {SKLEARN: sklearn}
    try:
        import faiss
    except ImportError as error:
        missing[FAISS] = f"not installed ({error}); pip install faiss-cpu"
    else:

        def by_faiss(name: str, model: Any) -> None:
            model.train(array)
            fitted[name] = torch.from_numpy(np.asarray(model.centroids))

        faiss.omp_set_num_threads(torch.get_num_threads())
        every = {"niter": 20, "max_points_per_centroid": frames // clusters + 1}
        ways[FAISS] = lambda: by_faiss(FAISS, faiss.Kmeans(dim, clusters, seed=0, **every))
        singly[FAISS_DEFAULT] = lambda: by_faiss(FAISS_DEFAULT, faiss.Kmeans(dim, clusters, seed=0))
    once = {name: values[0] for name, values in alternated(singly, 1, timing.now()).items()}
    seconds = alternated(ways, timing.pairs, timing.now(), progress)
    seconds[SKLEARN] = [once[SKLEARN]] * timing.pairs
    inertia = {name: inertia_per_frame(values, centroids) for name, centroids in fitted.items()}
    best = min(value for name, value in inertia.items() if name != OURS)
    return Measured(
        name=f"kmeans {frames} x {dim}, K = {clusters}",
        seconds=seconds,
        amount=1.0,
        unit="fits a second",
        equal=inertia[OURS] <= WORSE * best,
        missing=missing,
        more={"inertia": inertia, "inertia_ratio": inertia[OURS] / best, "once": once},
    ).result()


def hubert_recipe(clusters: int) -> MiniBatchKMeans:
    """scikit-learn's k-means as fairseq, torchaudio and ESPnet call it, but for its 20 starts; they set no seed."""
    return MiniBatchKMeans(
        n_clusters=clusters,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=100,
        n_init=1,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=0,
    )


def make_frames(frames: int, dim: int) -> Tensor:
    """Frames ``(frames, dim)``, float32, of Gaussians around centers with a falling spectrum, as features have it."""
    generator = torch_generator(0, "benchmark frames", frames, dim)
    spectrum = torch.arange(1, dim + 1).float().rsqrt()
    centers = 2.0 * torch.randn(1000, dim, generator=generator) * spectrum
    weights = torch.rand(1000, generator=generator) ** 2 + 1e-3
    chosen = torch.multinomial(weights, frames, replacement=True, generator=generator)
    return centers[chosen] + torch.randn(frames, dim, generator=generator) * spectrum


def inertia_per_frame(frames: Tensor, centroids: Tensor) -> float:
    """Mean squared distance of frames ``(n, D)`` to their nearest centroids ``(K, D)``."""
    labels = assign(frames, centroids)
    parts = zip(frames.split(4096), labels.split(4096), strict=True)
    total = sum(float((part - centroids[own]).double().square().sum()) for part, own in parts)
    return total / len(frames)
