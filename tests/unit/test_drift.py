"""Drift and loss are told apart where it is known which of the two happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allophone.errors import DataError
from allophone.evaluate.drift import PARTS, found_again, guess, parts, phone_information, probe, same_id
from allophone.nn.clustering import assign, fit_kmeans

NAMES = [f"u{i}" for i in range(24)]
TRAINING, ITEMS = NAMES[:16], NAMES[16:]
CLASSES = 6


def world(seed: int = 0):
    """Frames of six kinds of sound by utterance, and which kind each is."""
    generator = torch.Generator().manual_seed(seed)
    centers = 5 * torch.eye(CLASSES)
    truth = {name: torch.randint(CLASSES, (60,), generator=generator) for name in NAMES}
    frames = {
        name: centers[kinds] + 0.3 * torch.randn(60, CLASSES, generator=generator) for name, kinds in truth.items()
    }
    return centers, frames, {name: kinds.numpy() for name, kinds in truth.items()}


def labels(frames, centroids):
    return {name: assign(values, centroids).numpy() for name, values in frames.items()}


def scored(before, old, refit_before, refit_after, measure="found_again"):
    pairs = {
        "before": before,
        "before, re-fitted": refit_before,
        "after, old centroids": old,
        "after, re-fitted": refit_after,
    }
    return [found_again(before, now, TRAINING, ITEMS, language="spa", row=row) for row, now in pairs.items()]


def test_a_turned_space_is_drift_and_no_loss() -> None:
    """Every distance is kept, so all of what old centroids miss comes back with new ones, ids aside."""
    centers, frames, _ = world()
    turn = torch.linalg.qr(torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(1)))[0]
    after = {name: values @ turn for name, values in frames.items()}
    before = labels(frames, centers)
    pooled = torch.cat([after[name] for name in TRAINING])
    refit = labels(after, fit_kmeans(lambda: [pooled], CLASSES, seed=0).centroids)
    found = scored(before, labels(after, centers), before, refit)
    apart = parts(found, "found_again", "spa")
    assert set(apart) == set(PARTS)
    assert apart["drift"].high < -10 and apart["total"].high < -10
    assert abs(apart["loss"].value) < 1
    same = [same_id(before, now, ITEMS, language="spa", row="after, re-fitted").interval for now in (before, refit)]
    assert same[0].value == 100 > 60 > same[1].value


def test_two_sounds_that_fall_together_are_loss_and_no_drift() -> None:
    centers, frames, _ = world()
    flat = torch.eye(CLASSES)
    flat[1] = flat[0]  # the second kind now sounds like the first
    after = {name: values @ flat for name, values in frames.items()}
    before = labels(frames, centers)
    pooled = torch.cat([after[name] for name in TRAINING])
    refit = labels(after, fit_kmeans(lambda: [pooled], CLASSES, seed=0).centroids)
    apart = parts(scored(before, labels(after, centers), before, refit), "found_again", "spa")
    assert apart["loss"].high < -5
    assert abs(apart["drift"].value) < 3
    assert apart["total"].value == pytest.approx(sum(apart[part].value for part in PARTS[1:]), abs=1e-9)


def test_the_probe_hears_what_turned_units_do_not_and_misses_what_is_gone() -> None:
    _, frames, truth = world()
    turn = torch.linalg.qr(torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(1)))[0]
    gone = {name: torch.cat([values[:, :1] + values[:, 1:2], values[:, 2:]], dim=1) for name, values in frames.items()}
    settings = {"classes": CLASSES, "measure": "frame_probe", "language": "spa", "row": "before"}
    whole = probe(frames, truth, TRAINING, ITEMS, **settings)
    turned = probe({n: v @ turn for n, v in frames.items()}, truth, TRAINING, ITEMS, **settings)
    lost = probe(gone, truth, TRAINING, ITEMS, **settings)
    chance = guess(truth, TRAINING, ITEMS, measure="frame_probe", language="spa")
    assert whole.interval.value > 99 and abs(turned.minus(whole).value) < 1
    assert lost.minus(whole).high < -5
    assert chance.interval.high < 30 < lost.interval.low


def test_frames_without_a_target_do_not_count() -> None:
    _, frames, truth = world()
    some = {name: np.where(np.arange(60) < 50, ids, -1) for name, ids in truth.items()}
    settings = {"classes": CLASSES, "measure": "phone_probe", "language": "spa", "row": "before"}
    assert probe(frames, some, TRAINING, ITEMS, **settings).interval.value > 99
    assert guess(some, TRAINING, ITEMS, measure="phone_probe", language="spa").interval.value < 30


def test_information_about_phones_of_equal_and_of_shuffled_units() -> None:
    _, _, truth = world()
    generator = np.random.default_rng(0)
    shuffled = {name: generator.permutation(ids) for name, ids in truth.items()}
    settings = {"num_units": CLASSES, "num_phones": CLASSES, "language": "spa"}
    best = phone_information(truth, truth, ITEMS, row="before", **settings)
    worst = phone_information(shuffled, truth, ITEMS, row="chance", **settings)
    assert best.interval.value == pytest.approx(100)
    assert worst.interval.value < 10
    assert worst.minus(best).high < -80


def test_refusals_name_measure_and_language() -> None:
    _, frames, truth = world()
    settings = {"classes": CLASSES, "measure": "frame_probe", "language": "spa", "row": "before"}
    with pytest.raises(DataError, match="frame_probe, spa: 'u0' is trained on and scored"):
        probe(frames, truth, ["u0"], ["u0"], **settings)
    nothing = {name: np.full(60, -1) for name in NAMES}
    with pytest.raises(DataError, match="no training frame has a target"):
        probe(frames, nothing, TRAINING, ITEMS, **settings)
    with pytest.raises(DataError, match="found_again, spa: no training frames"):
        found_again(truth, truth, [], ITEMS, language="spa", row="before")
    with pytest.raises(DataError, match="no frame to score"):
        same_id(truth, truth, [], language="spa", row="before")
    first = same_id(truth, truth, ITEMS, language="spa", row="before")
    with pytest.raises(DataError, match="different utterances"):
        first.minus(same_id(truth, truth, TRAINING, language="spa", row="after, re-fitted"))
    assert parts([first], "same_id", "spa") == {}
