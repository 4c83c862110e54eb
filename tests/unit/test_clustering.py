"""k-means: independence of the cuts, seeds, bounded memory, empty clusters, errors; the codebook on disk."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.errors import CheckpointError, ConfigError, DataError, NumericsError, ShapeError
from allophone.nn import clustering, reservoir
from allophone.nn.clustering import Codebook, CodebookInfo, assign, fit_kmeans, reservoir_frames
from allophone.nn.splitting import group_sums, split_and_merge


def blobs(frames: int = 3_000, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    modes = 4 * torch.randn(12, dim, generator=generator)
    return modes[torch.randint(12, (frames,), generator=generator)] + torch.randn(frames, dim, generator=generator)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2_999), max_size=12), st.sampled_from([40, 300, 5_000]))
def test_cuts_of_the_stream_leave_no_trace(cuts, init_frames):
    frames = blobs()
    whole = fit_kmeans(lambda: [frames], 10, seed=3, init_frames=init_frames)
    pieces = torch.tensor_split(frames, sorted(cuts))
    cut = fit_kmeans(lambda: iter(pieces), 10, seed=3, init_frames=init_frames)
    assert torch.equal(whole.centroids, cut.centroids)
    assert torch.equal(whole.counts, cut.counts)
    assert whole.inertia_per_frame == cut.inertia_per_frame


def test_same_seed_same_result_other_seed_another():
    frames = blobs()
    first, again, other = (fit_kmeans(lambda: frames.split(100), 30, seed=s, iterations=2) for s in (0, 0, 1))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_the_global_random_state_is_left_alone():
    frames = blobs(500)
    state = torch.get_rng_state()
    fit_kmeans(lambda: [frames], 5, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_shifted_frames_give_shifted_centroids():
    """A large common offset must not cost accuracy (MFCC 0 of speech is far from zero)."""
    frames = blobs()
    plain = fit_kmeans(lambda: [frames], 12, seed=0)
    shifted = fit_kmeans(lambda: [frames + 1_000.0], 12, seed=0)
    assert shifted.inertia_per_frame == pytest.approx(plain.inertia_per_frame, rel=1e-3)


def test_more_iterations_never_hurt():
    frames = blobs()
    inertias = [
        fit_kmeans(lambda: frames.split(64), 25, seed=0, init_frames=50, iterations=n, tolerance=0.0).inertia_per_frame
        for n in (1, 2, 4, 8, 16)
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(inertias))
    assert inertias[-1] < inertias[0]


def test_stream_is_never_held_whole(monkeypatch):
    """No more frames live in the reservoir than its size and a quarter (plus a tile), however long the stream."""
    monkeypatch.setattr(reservoir, "TILE_FRAMES", 32)
    held = []
    lowest = reservoir._lowest

    def watched(kept, keys, size):
        held.append(len(keys))
        return lowest(kept, keys, size)

    monkeypatch.setattr(reservoir, "_lowest", watched)
    for length in (20, 200, 400):
        held.clear()
        stream = [blobs(50, seed=i) for i in range(length)]
        fit_kmeans(lambda stream=stream: stream, 5, seed=0, init_frames=400, iterations=1)
        assert max(held) <= 400 + 100 + 50


def test_reservoir_is_a_uniform_sample():
    frames = torch.arange(20_000.0)[:, None]
    sample = reservoir.draw_sample(reservoir.one_shard(lambda: frames.split(123)), 4, 0, 2_000)
    assert sample.seen == 20_000 and len(sample.frames) == 2_000 and not sample.complete
    values = sample.frames[:, 0]
    assert bool((values.diff() > 0).all())
    per_tenth = torch.histc(values, 10, 0, 20_000)
    assert float((per_tenth - 200).abs().max()) < 70


def test_reservoir_size_is_capped_by_memory():
    assert reservoir_frames(100, 39) == 102_400
    assert reservoir_frames(500, 768) * 768 <= 2**26
    assert reservoir_frames(20_000, 1_024) == 16 * 20_000


def test_empty_clusters_are_filled_again():
    frames = blobs()
    sample = reservoir.draw_sample(reservoir.one_shard(lambda: [frames]), 4, 0, None)
    far = torch.full((4, 6), 1e3)
    far[0] = 0
    centroids, statistics, _ = clustering._lloyd(
        reservoir.one_shard(lambda: [frames]), far, sample, 0, 20, 1e-4, lambda done: None
    )
    assert bool((statistics.counts > 0).all())
    assert bool(torch.isfinite(centroids).all())


def test_one_cluster_is_the_mean():
    frames = blobs()
    result = fit_kmeans(lambda: frames.split(50), 1, seed=0)
    torch.testing.assert_close(result.centroids[0], frames.mean(0), atol=1e-5, rtol=0)
    assert result.frames == 3_000


def test_as_many_clusters_as_frames():
    frames = blobs(40)
    assert fit_kmeans(lambda: [frames], 40, seed=0).inertia_per_frame == pytest.approx(0.0, abs=1e-4)


def test_ties_go_to_the_lowest_number():
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    assert assign(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]), centroids).tolist() == [0, 0, 1]


def test_assign_equals_brute_force_and_takes_no_frames():
    frames, centroids = blobs(), blobs(64, seed=5)
    assert torch.equal(assign(frames, centroids), torch.cdist(frames.double(), centroids.double()).argmin(1))
    assert assign(frames[:0], centroids).shape == (0,)


def test_lengths_of_clips_make_few_shapes(monkeypatch):
    """oneDNN keeps what it made for a shape."""
    rows, inner = set(), clustering.nearest
    monkeypatch.setattr(clustering, "nearest", lambda tile, *rest: (rows.add(len(tile)), inner(tile, *rest))[1])
    frames, centroids = blobs(), blobs(64, seed=5)
    alone = [assign(frames[:count], centroids) for count in range(1, 3_000, 37)]
    assert rows <= set(range(clustering.ROWS, clustering.TILE_FRAMES + 1, clustering.ROWS))
    whole = assign(frames, centroids)
    assert all(torch.equal(labels, whole[: len(labels)]) for labels in alone)


def test_low_precision_frames_are_taken():
    frames = blobs().bfloat16()
    result = fit_kmeans(lambda: frames.split(500), 5, seed=0)
    assert result.centroids.dtype == torch.float32 and result.frames == 3_000


def test_progress_ends_at_its_total():
    calls = []
    fit_kmeans(lambda: [blobs()], 5, seed=0, iterations=6, progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (1, 8) and calls[-1] == (8, 8)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_assign_of_another_front_end():
    with pytest.raises(ShapeError, match="another front end"):
        assign(torch.zeros(3, 39), torch.zeros(5, 80))


def test_too_few_frames():
    with pytest.raises(DataError, match="3 frames, 5 clusters"):
        fit_kmeans(lambda: [torch.randn(3, 2)], 5, seed=0)


def test_empty_stream():
    with pytest.raises(DataError, match="0 frames"):
        fit_kmeans(lambda: [], 1, seed=0)


def test_silence_has_no_distinct_frames():
    with pytest.raises(DataError, match="only 2 distinct frames"):
        fit_kmeans(lambda: [torch.tensor([[1.0, 2.0], [5.0, 5.0]]).repeat(50, 1)], 5, seed=0)


def test_stream_that_changes():
    lengths = iter([500, 500, 490, 480, 470, 460])
    with pytest.raises(DataError, match="same frames every time"):
        fit_kmeans(lambda: [blobs(next(lengths))], 5, seed=0, init_frames=100, tolerance=-1.0)


def test_not_finite():
    frames = blobs(100)
    frames[50, 2] = float("nan")
    with pytest.raises(NumericsError, match="batch 1 holds NaN"):
        fit_kmeans(lambda: frames.split(40), 5, seed=0)


@pytest.mark.parametrize("second", [torch.zeros(10, 7), torch.zeros(10), torch.zeros(10, 6, dtype=torch.int64)])
def test_wrong_batches(second):
    with pytest.raises(ShapeError, match=r"batch 1 is .* expected floating point of shape \(frames, 6\)"):
        fit_kmeans(lambda: [blobs(10), second], 2, seed=0)


@pytest.mark.parametrize("wrong", [{"num_clusters": 0}, {"iterations": 0}, {"init_frames": 3}])
def test_wrong_settings(wrong):
    settings = {"num_clusters": 5, "iterations": 3, "init_frames": 100} | wrong
    with pytest.raises(ConfigError, match="at least one cluster"):
        fit_kmeans(lambda: [blobs()], settings.pop("num_clusters"), seed=0, **settings)


def codebook(**changes) -> Codebook:
    values = {
        "front_end": "mfcc39",
        "model_hash": None,
        "layer": None,
        "hop": 160,
        "receptive_field": 400,
        "num_units": 7,
        "seed": 0,
        "usage_entropy": 0.9,
        "frames_fitted": 1_000,
        "normalization": "none",
        "parent": None,
        "corpus_hash": "c0ffee",
    } | changes
    return Codebook(torch.randn(7, 39, generator=torch.Generator().manual_seed(1)), CodebookInfo(**values))


def test_codebook_comes_back(tmp_path):
    book = codebook()
    folder = book.save(tmp_path / "book")
    assert sorted(path.name for path in folder.iterdir()) == ["codebook.json", "codebook.safetensors"]
    back = Codebook.load(folder)
    assert torch.equal(back.centroids, book.centroids)
    assert back.info == book.info and back.hash == book.hash


def test_hash_depends_on_centroids_and_info():
    book = codebook()
    moved = Codebook(book.centroids + 1e-6, book.info)
    assert len({book.hash, moved.hash, codebook(seed=1).hash}) == 3
    assert codebook().hash == book.hash


@pytest.mark.parametrize("name", ["codebook.safetensors", "codebook.json"])
def test_every_truncation_is_refused(tmp_path, name):
    folder = codebook().save(tmp_path)
    content = (folder / name).read_bytes()
    for size in {0, 1, 7, 8, 50, len(content) // 2, len(content) - 2}:
        (folder / name).write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"truncated|not a codebook"):
            Codebook.load(folder)


def test_changed_centroids_are_refused(tmp_path):
    folder = codebook().save(tmp_path)
    content = bytearray((folder / "codebook.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "codebook.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="do not belong together"):
        Codebook.load(folder)


def test_changed_info_is_refused(tmp_path):
    folder = codebook().save(tmp_path)
    described = json.loads((folder / "codebook.json").read_text())
    described["info"]["hop"] = 320
    (folder / "codebook.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="do not belong together"):
        Codebook.load(folder)


@pytest.mark.parametrize(("key", "value"), [("num_units", 8), ("front_end", "mfcc"), ("layer", 3), ("new", 1)])
def test_contradicting_info_is_refused(tmp_path, key, value):
    folder = codebook().save(tmp_path)
    described = json.loads((folder / "codebook.json").read_text())
    described["info"][key] = value
    (folder / "codebook.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="contradicts itself"):
        Codebook.load(folder)


def test_other_format_is_refused(tmp_path):
    folder = codebook().save(tmp_path)
    text = (folder / "codebook.json").read_text().replace('"format": 2', '"format": 99')
    (folder / "codebook.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"format 99.*Update"):
        Codebook.load(folder)


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "km_500.mdl").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"km_500\.mdl.*never opened"):
        Codebook.load(tmp_path)
    folder = codebook().save(tmp_path / "book")
    torch.save({"centroids": torch.zeros(7, 39)}, folder / "codebook.safetensors")
    with pytest.raises(CheckpointError, match="a pickle"):
        Codebook.load(folder)
    (folder / "codebook.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        Codebook.load(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="units fit"):
        Codebook.load(tmp_path / "nowhere")


def test_model_codebooks_name_their_model():
    with pytest.raises(ConfigError, match="needs both"):
        codebook(front_end="model")
    assert codebook(front_end="model", model_hash="a" * 64, layer=6).info.layer == 6


def test_impossible_codebooks():
    info = codebook().info
    with pytest.raises(ShapeError, match="expected float32"):
        Codebook(torch.zeros(6, 39), info)
    with pytest.raises(ShapeError, match="NaN"):
        Codebook(torch.full((7, 39), float("nan")), info)
    with pytest.raises(ConfigError, match="must be positive"):
        codebook(hop=0)


def test_a_start_keeps_the_numbers_of_its_clusters() -> None:
    centers = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    frames = (centers.repeat(50, 1) + 0.5 * torch.randn(150, 2, generator=torch.Generator().manual_seed(0))).float()
    for order in ([0, 1, 2], [2, 0, 1]):
        start = centers[order] + 0.7
        for frames_kept in (150, 30):  # all frames at hand, and a sample of them
            found = fit_kmeans(lambda: [frames], 3, seed=0, start=start, init_frames=frames_kept)
            assert torch.cdist(found.centroids, centers[order]).argmin(1).tolist() == [0, 1, 2]
            assert float(torch.cdist(found.centroids, centers[order]).diagonal().max()) < 0.4
    with pytest.raises(ShapeError, match=r"start is \(3, 4\), expected \(3, 2\)"):
        fit_kmeans(lambda: [frames], 3, seed=0, start=torch.zeros(3, 4))


def test_three_thousand_clusters_and_a_few_more_beside_given_ones() -> None:
    """The largest K of arXiv:2406.14092, small in everything else; every cluster is used."""
    frames = torch.randn(4_000, 2, generator=torch.Generator().manual_seed(0))
    given = frames[:2_900].clone()
    found = fit_kmeans(lambda: [frames], 3_000, seed=0, iterations=1, start=given, move=0.0)
    assert torch.equal(found.centroids[:2_900], given) or float((found.centroids[:2_900] - given).abs().max()) < 1e-5
    assert int((found.counts > 0).sum()) == 3_000


def test_a_split_and_a_merge_take_a_centroid_where_updates_cannot() -> None:
    """Two centroids share one heap and two heaps one centroid, far away: the updates of Lloyd would leave it so."""
    heaps = torch.tensor([[0.0, 0.0], [100.0, 0.0], [104.0, 3.0]])
    frames = heaps.repeat_interleave(200, 0) + 0.3 * torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    stuck = torch.tensor([[-0.3, 0.0], [0.3, 0.0], [102.0, 1.5]])
    moved = split_and_merge(frames, stuck, seed=0)
    assert float(torch.cdist(heaps, moved).min(1).values.max()) < 0.1
    assert torch.allclose(split_and_merge(frames, moved, seed=0), moved, atol=1e-5)  # nothing is left to gain


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100))
def test_splits_and_merges_never_raise_the_inertia(seed):
    frames, start = blobs(seed=seed), 5 * torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    start[3] = start[4] = 1e4  # of no use to any frame
    before, after = (
        float(torch.cdist(frames, centroids).min(1).values.square().sum())
        for centroids in (start, split_and_merge(frames, start, seed))
    )
    assert after < before


def test_sums_of_groups() -> None:
    values, labels = blobs(500), torch.randint(7, (500,), generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(-1, 2, 500)
    expected = torch.zeros(9, 6).index_add_(0, labels, values)
    weighted = torch.zeros(9, 6).index_add_(0, labels, values * weights[:, None])
    for groups in (9, 2**15 + 1):
        sums, members = group_sums(values, labels, groups)
        torch.testing.assert_close(sums[:9], expected, atol=1e-4, rtol=1e-5)
        assert torch.equal(members, torch.bincount(labels, minlength=groups))
        torch.testing.assert_close(group_sums(values, labels, groups, weights)[0][:9], weighted, atol=1e-4, rtol=1e-5)


def test_over_relaxed_updates_end_at_means_with_no_more_inertia() -> None:
    frames = blobs()
    sample = reservoir.draw_sample(reservoir.one_shard(lambda: [frames]), 12, 0, None)
    start = (frames - sample.center)[:12]
    inertias = [
        clustering._statistics(reservoir.one_shard(sample.stream), centroids, sample.center).inertia
        for centroids in (start, *(clustering._settled(sample, start, 0, updates) for updates in (1, 5, 20)))
    ]
    assert all(later < earlier for earlier, later in pairwise(inertias))
