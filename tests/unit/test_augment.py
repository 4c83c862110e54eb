"""Perturbations keep time and length, and do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allophone.audio.augment import NO_AUGMENTATION, AugmentConfig, augment, change_speed, limit_bandwidth
from allophone.errors import ConfigError

OFF = {"warp_probability": 0.0, "lowpass_probability": 0.0, "noise_probability": 0.0}


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)


def peak(waveform: torch.Tensor) -> float:
    return float(torch.fft.rfft(waveform).abs().argmax()) * 16_000 / len(waveform)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_off_is_the_identity_and_a_seed_gives_the_same_sample() -> None:
    waveform = tone(440)
    assert torch.equal(augment(waveform, AugmentConfig(**OFF), generator()), waveform)
    first, second = (augment(waveform, AugmentConfig(noise_probability=1.0), generator(5)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == waveform.shape


def test_warp_moves_frequency_by_at_most_13_percent_and_keeps_the_length() -> None:
    config = AugmentConfig(**{**OFF, "warp_probability": 1.0})
    peaks = {round(peak(augment(tone(1_000), config, generator(seed)))) for seed in range(12)}
    assert len(peaks) >= 3
    assert all(1_000 / 1.15 < value < 1_150 for value in peaks)


def test_onsets_stay_where_they_are() -> None:
    waveform = torch.cat([torch.zeros(8_000), tone(1_000, 0.5)])
    config = AugmentConfig(**{**OFF, "warp_probability": 1.0, "lowpass_probability": 1.0})
    changed = augment(waveform, config, generator(1))
    assert float(changed[:7_500].square().mean()) < 1e-3 * float(changed[8_500:].square().mean())


def test_lowpass_removes_the_top_and_noise_has_the_level_asked_for() -> None:
    cut = augment(tone(6_000), AugmentConfig(**{**OFF, "lowpass_probability": 1.0}), generator())
    assert float(cut.square().mean()) < 1e-4
    config = AugmentConfig(**{**OFF, "noise_probability": 1.0, "noise_snr_db": (10.0, 10.0)})
    waveform = tone(500)
    noise = augment(waveform, config, generator()) - waveform
    ratio = 10 * torch.log10(waveform.square().mean() / noise.square().mean())
    assert abs(float(ratio) - 10) < 0.1


def test_limited_bandwidth_keeps_low_and_drops_high() -> None:
    low, high = tone(1_000), tone(6_000)
    assert torch.equal(limit_bandwidth(low, 16_000), low)
    narrow = limit_bandwidth(low + high, 8_000)
    assert narrow.shape == low.shape
    assert float((narrow[1_000:-1_000] - low[1_000:-1_000]).square().mean()) < 1e-4


def test_gain_stays_in_its_range_and_never_clips() -> None:
    config = replace(NO_AUGMENTATION, gain_probability=1.0)
    gains = [float(augment(tone(440), config, generator(seed)).abs().max()) / 0.3 for seed in range(20)]
    assert min(gains) >= 10 ** (-6 / 20) - 1e-3 and max(gains) <= 10 ** (6 / 20) + 1e-3 and max(gains) > 1.2 > 0.8
    assert float(augment(3 * tone(440), config, generator(gains.index(max(gains)))).abs().max()) <= 1.0


def test_bands_and_gaps_are_cut_out_and_nothing_else() -> None:
    noise = 0.1 * torch.randn(16_000, generator=generator(1))
    banded = augment(noise, replace(NO_AUGMENTATION, hidden_bands=1), generator(3))
    level = [torch.fft.rfft(one).abs().view(-1)[:8_000].view(80, 100).mean(dim=1) for one in (noise, banded)]
    ratio = level[1] / level[0]
    assert 1 <= int((ratio < 0.2).sum()) < 60 and int((ratio > 0.95).sum()) > 10
    gapped = augment(noise, replace(NO_AUGMENTATION, hidden_gaps=1), generator(3))
    silent = gapped == 0
    assert 0 < int(silent.sum()) <= 3_200 and torch.equal(gapped[~silent], noise[~silent])
    edges = silent.int().diff().abs().sum()
    assert int(edges) <= 2
    assert torch.equal(augment(noise, replace(NO_AUGMENTATION, hidden_gaps=2, gap_seconds=0.0), generator()), noise)


def test_speed_moves_pitch_and_length_together() -> None:
    config = replace(NO_AUGMENTATION, speed_probability=1.0)
    found = {
        len(changed): peak(changed) for changed in (change_speed(tone(1_000), config, generator(n)) for n in range(9))
    }
    assert set(found) == {17_778, 14_545}
    assert found[14_545] == pytest.approx(1_100, abs=3) and found[17_778] == pytest.approx(900, abs=3)
    assert torch.equal(change_speed(tone(1_000), NO_AUGMENTATION, generator()), tone(1_000))
    with pytest.raises(ConfigError, match="positive speed_factors"):
        AugmentConfig(speed_factors=(0.0,))
