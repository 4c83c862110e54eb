from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.audio.augment import NO_AUGMENTATION, AugmentConfig
from allophone.batch import valid_positions
from allophone.data import collate as module
from allophone.data.collate import CollateConfig, Example, collate
from allophone.errors import ConfigError, DataError, ShapeError
from allophone.frames import FrameClock

CLOCK = FrameClock(hop=320, receptive_field=400)
CONFIG = CollateConfig(crop_seconds=1.0)


def ramp(samples: int) -> Tensor:
    """A waveform that says at each sample which sample it is."""
    return torch.arange(samples, dtype=torch.float32)


def example(name: str, samples: int, repeat: int = 0) -> Example:
    return Example(name, ramp(samples), repeat)


def numbered(samples: int, labels: int = 2, extra: int = 0) -> np.ndarray:
    """Units that say at each frame which frame it is."""
    return np.arange((CLOCK.count(samples) + extra) * labels).reshape(-1, labels)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("epoch", range(4))
def test_crop_of_units_is_units_of_crop(equal: bool, epoch: int) -> None:
    sizes = [40_000, 17_000, 33_333, 9_000]
    items = [example(f"u{i}", size) for i, size in enumerate(sizes)]
    config = CollateConfig(crop_seconds=1.0, equal_lengths=equal)
    batch = collate(items, [numbered(size) for size in sizes], CLOCK, config, 0, epoch)
    assert batch.units is not None
    for row, samples, frames in zip(
        range(4), batch.waveform_lengths.tolist(), batch.frame_lengths.tolist(), strict=True
    ):
        assert frames == CLOCK.count(samples)
        first = batch.waveform[row, :samples:320][:frames] / 320
        assert torch.equal(batch.units[row, :frames, 0], first.long() * 2)
        assert torch.equal(batch.units[row, :frames, 1], first.long() * 2 + 1)
        assert (batch.units[row, frames:] == -1).all() and (batch.waveform[row, samples:] == 0).all()


def test_batches_are_bit_equal_to_those_before_mixing_was_added() -> None:
    sizes = [40_000, 17_000, 33_333, 9_000]
    items, units = [example(f"u{i}", size) for i, size in enumerate(sizes)], [numbered(size) for size in sizes]
    digest = hashlib.sha256()
    for equal in (True, False):
        for epoch in range(3):
            batch = collate(items, units, CLOCK, CollateConfig(crop_seconds=1.0, equal_lengths=equal), 7, epoch)
            assert batch.units is not None and batch.masked is not None and batch.sums == {}
            for tensor in (batch.waveform, batch.units, batch.masked.to(torch.uint8), batch.frame_lengths):
                digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "adee566f817b959c415b0f68f571b010879a2492841a3f80d262e2e31ae9b55e"


def test_equal_lengths_are_those_of_the_shortest() -> None:
    batch = collate([example("a", 16_000), example("b", 9_000)], None, CLOCK, CONFIG, 0, 0)
    assert batch.frame_lengths.tolist() == [CLOCK.count(9_000)] * 2
    assert batch.units is None


def test_ragged_lengths_stay_within_the_crop() -> None:
    config = CollateConfig(crop_seconds=0.5, equal_lengths=False)
    batch = collate([example("a", 16_000), example("b", 6_000)], None, CLOCK, config, 0, 0)
    assert batch.frame_lengths.tolist() == [CLOCK.count(8_000), CLOCK.count(6_000)]
    assert batch.masked is not None and not batch.masked[~valid_positions(batch.frame_lengths, 24)].any()


def test_sample_does_not_depend_on_its_mates() -> None:
    config = CollateConfig(crop_seconds=0.7, equal_lengths=False, augment=AugmentConfig())
    noisy = [Example(f"u{i}", torch.rand(20_000 + 999 * i)) for i in range(3)]
    together, alone = collate(noisy, None, CLOCK, config, 5, 2), collate(noisy[1:2], None, CLOCK, config, 5, 2)
    assert together.masked is not None and alone.masked is not None
    assert torch.equal(together.waveform[1], alone.waveform[0])
    assert torch.equal(together.masked[1], alone.masked[0])


def test_epochs_repeats_and_seeds_draw_anew() -> None:
    def drawn(seed: int, epoch: int, repeat: int) -> tuple[float, str]:
        batch = collate([example("u", 160_000, repeat)], None, CLOCK, CONFIG, seed, epoch)
        assert batch.masked is not None
        return float(batch.waveform[0, 0]), str(batch.masked.int().tolist())

    crops, masks = zip(*(drawn(*key) for key in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]), strict=True)
    assert len(set(crops)) == len(set(masks)) == 4
    assert drawn(0, 1, 0) == (crops[1], masks[1])


def test_crops_reach_both_ends() -> None:
    starts = {
        float(collate([example("u", 17_000)], None, CLOCK, CollateConfig(crop_seconds=0.9), 0, e).waveform[0, 0])
        for e in range(60)
    }
    assert starts == {320.0 * k for k in range(CLOCK.count(17_000) - CLOCK.count(14_400) + 1)}


def test_no_masks_when_not_asked_for() -> None:
    assert (
        collate([example("u", 9_000)], None, CLOCK, CollateConfig(crop_seconds=1.0, mask_probability=0), 0, 0).masked
        is None
    )


def test_flat_units_are_one_label_a_frame() -> None:
    batch = collate([example("u", 9_000)], [np.arange(27)], CLOCK, CONFIG, 0, 0)
    assert batch.units is not None and batch.units.shape == (1, 27, 1) and batch.units.dtype == torch.int64


@pytest.mark.parametrize("extra", [-2, -1, 1, 2])
def test_few_frames_of_difference_are_cut(extra: int) -> None:
    batch = collate([example("u", 9_000)], [numbered(9_000, extra=extra)], CLOCK, CONFIG, 0, 0)
    assert batch.frame_lengths.tolist() == [27 + min(0, extra)]


@pytest.mark.parametrize("extra", [-3, 3])
def test_units_of_another_rate_are_refused(extra: int) -> None:
    with pytest.raises(DataError, match=r"disagree for utterance 'u'.*make 27 frames"):
        collate([example("u", 9_000)], [numbered(9_000, extra=extra)], CLOCK, CONFIG, 0, 0)


def test_missing_units() -> None:
    with pytest.raises(DataError, match="No units for utterance 'u'"):
        collate([example("u", 9_000)], [None], CLOCK, CONFIG, 0, 0)


def test_units_with_unequal_labels() -> None:
    with pytest.raises(ShapeError, match="Units of utterance 'b' have 1 labels a frame, those of 'a' have 2"):
        collate([example("a", 9_000), example("b", 9_000)], [numbered(9_000), numbered(9_000, 1)], CLOCK, CONFIG, 0, 0)


def test_units_of_a_wrong_shape() -> None:
    with pytest.raises(ShapeError, match=r"expected \(frames,\) or \(frames, labels\)"):
        collate([example("u", 9_000)], [np.zeros((1, 2, 3), dtype=int)], CLOCK, CONFIG, 0, 0)


def test_clip_without_a_frame() -> None:
    with pytest.raises(DataError, match=r"'u' has 399 samples .* too few for one frame"):
        collate([example("u", 399)], None, CLOCK, CONFIG, 0, 0)


def test_two_dimensional_waveform() -> None:
    with pytest.raises(ShapeError, match=r"Waveform of utterance 'u' is \(1, 9000\)"):
        collate([Example("u", torch.zeros(1, 9_000))], None, CLOCK, CONFIG, 0, 0)


def test_augmentation_changes_sound_but_not_labels() -> None:
    config = CollateConfig(crop_seconds=0.6, augment=AugmentConfig(noise_probability=1.0))
    item = [Example("u", torch.sin(torch.arange(30_000) / 7))]
    clean = collate(item, [numbered(30_000)], CLOCK, CollateConfig(crop_seconds=0.6), 0, 0)
    noisy = collate(item, [numbered(30_000)], CLOCK, config, 0, 0)
    assert clean.units is not None and noisy.units is not None
    assert torch.equal(clean.units, noisy.units) and not torch.equal(clean.waveform, noisy.waveform)


def test_augmentation_must_keep_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "augment", lambda waveform, config, generator: waveform[:-1])
    with pytest.raises(ShapeError, match="must keep the length"):
        collate([example("u", 9_000)], None, CLOCK, CollateConfig(crop_seconds=1.0, augment=AugmentConfig()), 0, 0)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="crop_seconds must be positive; got 0"):
        CollateConfig(crop_seconds=0)
    with pytest.raises(ConfigError, match="mask_length >= 1 frame"):
        CollateConfig(crop_seconds=1.0, mask_length=0)


def test_speed_is_for_batches_without_units() -> None:
    augment = replace(NO_AUGMENTATION, speed_probability=1.0)
    config = CollateConfig(crop_seconds=5.0, equal_lengths=False, mask_probability=0.0, augment=augment)
    items = [Example(f"u{number}", 0.1 * torch.randn(16_000)) for number in range(8)]
    batch = collate(items, None, CLOCK, config, seed=0, epoch=0)
    assert {round(length / 1_000, 1) for length in batch.waveform_lengths.tolist()} <= {17.7, 17.8, 14.4, 14.5}
    assert len(set(batch.waveform_lengths.tolist())) == 2
    again = collate(items[:1], None, CLOCK, config, seed=0, epoch=0)
    assert torch.equal(again.waveform[0], batch.waveform[0, : again.waveform.shape[1]])
    with pytest.raises(ConfigError, match="units no longer fit"):
        collate(items[:1], [np.zeros(49, dtype=np.int64)], CLOCK, config, seed=0, epoch=0)
