"""Anchored re-clustering: old ids keep their meaning through a change of space, new ones come where they are needed."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from allophone.errors import ConfigError, DataError, ShapeError
from allophone.models.build import build_encoder
from allophone.models.conversion import model_hash
from allophone.models.hubert import HubertConfig
from allophone.nn.clustering import assign, fit_kmeans
from allophone.nn.codebook import Codebook
from allophone.units.encode import encode_units
from allophone.units.extract import FrameExtractor
from allophone.units.fit import fit_codebook
from allophone.units.recluster import frozen, id_map, recluster

DIM = 8


def cloud(centers: torch.Tensor, each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames around centers, and which center each belongs to."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(centers)).repeat(each)
    return centers[labels] + 0.2 * torch.randn(len(labels), DIM, generator=generator), labels


@pytest.fixture
def centers() -> torch.Tensor:
    return 6 * torch.randn(9, DIM, generator=torch.Generator().manual_seed(3))


def test_appended_clusters_go_where_the_given_ones_leave_the_most(centers: torch.Tensor) -> None:
    """Six known clusters, nine in the data: the three that are missing are found, the six stay where they are."""
    frames, truth = cloud(centers, 60, seed=0)
    result = fit_kmeans(lambda: frames.split(50), 9, seed=0, start=centers[:6], move=0.0)
    torch.testing.assert_close(result.centroids[:6], centers[:6], atol=1e-5, rtol=0)
    found = assign(frames, result.centroids)
    assert torch.equal(found[truth < 6], truth[truth < 6])
    assert {tuple(found[truth == new].unique().tolist()) for new in (6, 7, 8)} == {(6,), (7,), (8,)}


@pytest.mark.parametrize(("move", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_given_clusters_go_the_chosen_share_of_the_way(centers: torch.Tensor, move: float, expected: float) -> None:
    frames, truth = cloud(centers, 200, seed=1)
    start = centers + 0.5
    result = fit_kmeans(lambda: [frames], 9, seed=0, start=start, move=move)
    means = torch.stack([frames[truth == k].mean(0) for k in range(9)])
    torch.testing.assert_close(result.centroids, start + expected * (means - start), atol=1e-4, rtol=0)


def test_a_held_cluster_without_frames_stays_and_takes_no_other_place(centers: torch.Tensor) -> None:
    frames, _ = cloud(centers[:4], 50, seed=2)
    start = torch.cat([centers[:4], torch.full((1, DIM), 90.0)])
    result = fit_kmeans(lambda: [frames], 5, seed=0, start=start, move=0.5)
    assert result.counts.tolist() == [50, 50, 50, 50, 0]
    torch.testing.assert_close(result.centroids[4], start[4], atol=1e-4, rtol=0)


def test_refuses_more_given_clusters_than_are_wanted_and_moves_out_of_range(centers: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match=r"start is \(9, 8\), expected \(5, 8\) or fewer"):
        fit_kmeans(lambda: [centers], 5, seed=0, start=centers)
    with pytest.raises(ConfigError, match=r"move is 1.5; expected 0"):
        fit_kmeans(lambda: [centers], 9, seed=0, start=centers, move=1.5)


def test_the_map_says_what_split_merged_and_died() -> None:
    together = np.array([[90, 0, 0, 10, 0], [60, 40, 0, 0, 0], [45, 0, 0, 5, 50], [0, 0, 0, 0, 0]])
    found = id_map(np.insert(together, 3, 0, axis=1))  # unit 3 of the parent is in no frame
    assert (found.kept, found.grown_from) == (4, (0, 2))
    assert found.split == (0, 2)
    assert found.merged == ((1, 0),)
    assert found.died == (2, 3)
    assert found.agreement == pytest.approx((90 + 40) / 300)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    return build_encoder(config).eval()


@pytest.fixture(scope="module")
def world(speech, encoder):
    """An old codebook, an encoder that drifted away from it, and the audio."""
    audio = {f"old-{i}": speech(1.0, seed=i) for i in range(6)}
    audio |= {f"new-{i}": speech(1.0, seed=100 + i).sign() * 0.3 for i in range(4)}
    kept = [(name, wave) for name, wave in audio.items() if name.startswith("old")]
    parent = fit_codebook(lambda: kept, "model", 10, seed=0, encoder=encoder, layer=1)
    changed = copy.deepcopy(encoder)
    with torch.no_grad():  # noise, and a space that is turned over
        for parameter in changed.parameters():
            parameter.add_(0.02 * parameter.std(correction=0) * torch.randn_like(parameter))
        changed.encoder.layers[0].final_layer_norm.weight.neg_()
    return audio, dict(kept), parent, changed


def agreement(first, second) -> float:
    pairs = [(first[name] == second[name]).float() for name in first]
    return float(torch.cat(pairs).mean())


def test_old_ids_survive_the_drift_of_a_real_encoder_and_new_audio_gets_new_ones(world, encoder) -> None:
    audio, kept, parent, changed = world
    book = recluster(
        lambda: audio.items(), parent, encoder=changed, parent_encoder=encoder, new_units=4, seed=0, anchored_on=kept
    )
    ids = book.info.id_map
    assert book.centroids.shape == (14, 32) and ids is not None and ids.kept == 10
    assert (book.info.parent, book.info.model_hash, book.info.layer) == (parent.hash, model_hash(changed), 1)
    before = encode_units(lambda: kept.items(), parent, encoder=encoder)
    anchored = encode_units(lambda: kept.items(), book, encoder=changed)
    refit = fit_codebook(lambda: audio.items(), "model", 14, seed=0, encoder=changed, layer=1)
    refitted = encode_units(lambda: kept.items(), refit, encoder=changed)
    drifted = encode_units(lambda: kept.items(), frozen(parent, changed), encoder=changed)
    assert agreement(before, anchored) > 0.6 > agreement(before, refitted)
    assert agreement(before, anchored) > 2 * agreement(before, drifted)
    new = {name: wave for name, wave in audio.items() if name not in kept}
    appended = encode_units(lambda: new.items(), book, encoder=changed).counts()[10:].sum()
    assert appended > anchored.counts()[10:].sum()


def test_an_encoder_that_did_not_change_leaves_the_old_units_where_they_are(world, encoder) -> None:
    """Not at the means of the audio at hand, where other frames of the old units lie outside their new borders."""
    audio, _, parent, _ = world
    new = {name: wave for name, wave in audio.items() if name.startswith("new")}
    book = recluster(lambda: new.items(), parent, encoder=encoder, parent_encoder=encoder, new_units=0, seed=0)
    torch.testing.assert_close(book.centroids, parent.centroids, atol=1e-5, rtol=0)
    assert book.info.id_map is not None and book.info.id_map.agreement == 1.0


def test_frames_of_another_width_place_old_units_at_their_means(world, encoder) -> None:
    audio, _, parent, _ = world
    wider = build_encoder(replace(encoder.config, hidden_size=48)).eval()
    book = recluster(lambda: audio.items(), parent, encoder=wider, parent_encoder=encoder, new_units=0, seed=0)
    assert book.centroids.shape == (10, 48)
    old = encode_units(lambda: audio.items(), parent, encoder=encoder)
    frames = dict(FrameExtractor("model", wider, 1).frames(audio.items()))
    labels = torch.cat([old[name] for name in frames])
    mean = torch.cat(list(frames.values()))[labels == 3].mean(0)
    torch.testing.assert_close(book.centroids[3], mean, atol=1e-4, rtol=1e-4)
    far = torch.cat([parent.centroids, parent.centroids[:1] + 500.0])
    unused = Codebook(far, replace(parent.info, num_units=11))
    with pytest.raises(DataError, match="1 of 11 old units occur in none of this audio, the first is 10"):
        recluster(lambda: audio.items(), unused, encoder=wider, parent_encoder=encoder, new_units=0, seed=0)


def test_the_map_is_saved_with_the_codebook_and_others_keep_their_hash(world, encoder, tmp_path) -> None:
    audio, _, parent, changed = world
    book = recluster(
        lambda: audio.items(), parent, encoder=changed, parent_encoder=encoder, new_units=2, seed=0, move=0.5
    )
    back = Codebook.load(book.save(tmp_path))
    assert back.hash == book.hash and back.info.id_map == book.info.id_map
    assert '"grown_from"' in (tmp_path / "codebook.json").read_text()
    plain = Codebook.load(parent.save(tmp_path / "plain"))
    assert plain.info.id_map is None and "id_map" not in (tmp_path / "plain" / "codebook.json").read_text()


def test_a_unit_that_does_not_occur_moves_with_its_neighbour(world, encoder) -> None:
    audio, _, parent, changed = world
    far = torch.cat([parent.centroids, parent.centroids[:1] + 500.0])
    wider = Codebook(far, replace(parent.info, num_units=11))
    book = recluster(lambda: audio.items(), wider, encoder=changed, parent_encoder=encoder, new_units=0, seed=0)
    assert book.info.id_map is not None and 10 in book.info.id_map.died
    nearest = int(assign(far[10:], far[:10])[0])
    torch.testing.assert_close(book.centroids[10] - far[10], book.centroids[nearest] - far[nearest], atol=1e-2, rtol=0)


def test_same_audio_same_codebook_and_passes_are_told(world, encoder) -> None:
    audio, _, parent, changed = world
    told: list[tuple[int, int]] = []
    books = [
        recluster(
            lambda: audio.items(),
            parent,
            encoder=changed,
            parent_encoder=encoder,
            new_units=3,
            seed=5,
            init_frames=200,
            iterations=3,
            progress=lambda done, total: told.append((done, total)),
        )
        for _ in range(2)
    ]
    assert books[0].hash == books[1].hash
    assert told[-1] == (5, 5)


def test_refusals_say_what_is_wrong(world, encoder) -> None:
    audio, _, parent, changed = world
    with pytest.raises(ConfigError, match=r"new_units -1, move 0\.0"):
        recluster(lambda: audio.items(), parent, encoder=changed, parent_encoder=encoder, new_units=-1, seed=0)
    with pytest.raises(DataError, match="was fitted on model"):
        recluster(lambda: audio.items(), parent, encoder=changed, parent_encoder=changed, new_units=0, seed=0)
    with pytest.raises(DataError, match="no frame to say where the old units lie"):
        recluster(
            lambda: audio.items(),
            parent,
            encoder=changed,
            parent_encoder=encoder,
            new_units=0,
            seed=0,
            anchored_on={"nobody"},
        )
    with pytest.raises(ConfigError, match="of mfcc39, which no encoder changes"):
        frozen(fit_codebook(lambda: audio.items(), "mfcc39", 4, seed=0), changed)
