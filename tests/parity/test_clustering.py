"""Our k-means against scikit-learn's and faiss' on the same frames: inertia within 0.5 % of the better one."""

import numpy as np
import pytest
import torch

from allophone.audio.features import mfcc39
from allophone.nn.clustering import assign, fit_kmeans

cluster = pytest.importorskip("sklearn.cluster")
faiss = pytest.importorskip("faiss")

pytestmark = pytest.mark.parity


def mixture(frames: int, dim: int, modes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    centers = 1.5 * torch.randn(modes, dim, generator=generator)
    spread = torch.linspace(0.3, 1.5, dim)
    return centers[torch.randint(modes, (frames,), generator=generator)] + spread * torch.randn(
        frames, dim, generator=generator
    )


def cepstra() -> torch.Tensor:
    """MFCCs of gliding harmonics and noise: unequal scales and a large mean, as of speech."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(16_000 * 60) / 16_000
    phase = 2 * torch.pi * torch.cumsum(140 + 50 * torch.sin(2 * time), 0) / 16_000
    voice = sum((1 + torch.sin((k + 1) * 0.9 * time)) * torch.sin(k * phase) / k for k in range(1, 20))
    noise = torch.randn(len(time), generator=generator)
    return mfcc39(0.05 * voice * torch.sin(5 * time).abs() + 0.01 * noise * torch.cos(3 * time).abs())


FRAMES = {"mixture": mixture(10_000, 24, 80), "cepstra": cepstra()}


def inertia(frames: np.ndarray, centroids: np.ndarray) -> float:
    index = faiss.IndexFlatL2(frames.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    return float(index.search(frames, 1)[0].astype(np.float64).mean())


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("init_frames", [None, 3_200], ids=["in memory", "streamed"])
def test_inertia_as_good_as_sklearn_and_faiss(name, init_frames):
    """Means over three seeds, as every k-means ends in some local minimum."""
    frames, num_clusters = FRAMES[name], 50
    array = frames.numpy()
    found = {"ours": [], "full": [], "mini-batch": [], "faiss": []}
    for seed in range(3):
        ours = fit_kmeans(lambda: frames.split(333), num_clusters, seed=seed, init_frames=init_frames, iterations=40)
        full = cluster.KMeans(num_clusters, n_init=1, random_state=seed).fit(array)
        batches = cluster.MiniBatchKMeans(num_clusters, n_init=3, random_state=seed, batch_size=10_000).fit(array)
        index = faiss.Kmeans(array.shape[1], num_clusters, niter=25, seed=seed + 1)
        index.train(array)
        centroids = (ours.centroids.numpy(), full.cluster_centers_, batches.cluster_centers_, index.centroids)
        for values, chosen in zip(found.values(), centroids, strict=True):
            values.append(inertia(array, chosen))
    means = {who: np.mean(values) for who, values in found.items()}
    assert means["ours"] < 1.005 * min(means["full"], means["mini-batch"], means["faiss"]), means


def test_inertia_and_counts_are_those_of_the_centroids():
    frames = FRAMES["mixture"]
    ours = fit_kmeans(lambda: frames.split(1_000), 20, seed=1, iterations=3, init_frames=500)
    labels = assign(frames, ours.centroids)
    assert ours.inertia_per_frame == pytest.approx(
        float((frames - ours.centroids[labels]).double().square().sum(1).mean()), rel=1e-5
    )
    assert torch.equal(ours.counts, torch.bincount(labels, minlength=20))


def test_assignment_equals_faiss():
    frames = FRAMES["cepstra"]
    centroids = frames[::40]
    index = faiss.IndexFlatL2(39)
    index.add(centroids.numpy())
    theirs = index.search(frames.numpy(), 1)[1][:, 0]
    assert (assign(frames, centroids).numpy() == theirs).mean() > 0.9999


def test_lloyd_from_the_same_start_equals_sklearn():
    """One cluster per mode, well apart: both must end in the same place to float accuracy."""
    generator = torch.Generator().manual_seed(0)
    modes = 100 * torch.randn(8, 5, generator=generator)
    frames = modes.repeat_interleave(200, 0) + torch.randn(1_600, 5, generator=generator)
    ours = fit_kmeans(lambda: frames.split(7), 8, seed=0, init_frames=100).centroids
    theirs = cluster.KMeans(8, init=modes.numpy(), n_init=1).fit(frames.numpy()).cluster_centers_
    order = assign(torch.from_numpy(theirs), ours)
    assert sorted(order.tolist()) == list(range(8))
    assert np.allclose(ours[order].numpy(), theirs, atol=1e-4)
